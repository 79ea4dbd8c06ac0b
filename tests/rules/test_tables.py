"""Tables of packs: both ways of evaluating agree, every number is guarded, features of histories, cases."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules import cases, condition, features, history, pack, reference, tables, trial
from rules.history import History, Reading

PACKS = {name: pack.load_named(name) for name in pack.shipped()}
TABLES = [(one, table) for one in PACKS.values() for table in one.document.classifications.items()]
START = datetime(2026, 3, 2, 8, tzinfo=UTC)


def numbers_in(what: Any) -> set[float]:
    """Every number a table compares with."""
    if isinstance(what, dict):
        own = {float(v) for k, v in what.items() if k in condition.COMPARATORS and isinstance(v, int | float)}
        cuts = {float(v) for v in what.get("cuts", [])[1::2]}
        return own | cuts | set().union(*map(numbers_in, what.values()))
    return set().union(*map(numbers_in, what)) if isinstance(what, list) and what else set()


def words_in(what: Any) -> set[str]:
    if isinstance(what, dict):
        own = {v for v in [what.get("is")] if isinstance(v, str)} | {v for v in what.get("in", []) if isinstance(v, str)}
        return own.union(*map(words_in, what.values()))
    return set().union(*map(words_in, what)) if isinstance(what, list) and what else set()


@pytest.mark.parametrize(("one", "named"), TABLES, ids=[name for _, (name, _) in TABLES])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_both_ways_agree_on_every_boundary(one: pack.Pack, named: tuple[str, tables.Table], data: st.DataObject) -> None:
    name, table = named
    near = sorted({n + d for n in numbers_in(list(table.outputs.values())) | {0.0, 180.0} for d in (-1, -0.1, 0, 0.1, 1)})
    words = sorted(words_in(list(table.outputs.values())) | {"?"})
    textual = {
        c for c in tables.columns_of(table, one.terms) if c in ("sex", "kind", "consciousness_said", "recorded_by", "read_by", "said_in")
    }
    columns = {
        c: st.none() | (st.sampled_from(words) if c in textual else st.sampled_from(near) | st.sampled_from([0.0, 1.0]))
        for c in sorted(tables.columns_of(table, one.terms) - set(table.outputs))
    }
    rows = data.draw(st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=8))
    assert tables.evaluate(table, rows, one.terms) == reference.evaluate(table, rows, one.terms), name


@pytest.mark.parametrize("name", sorted(PACKS))
def test_every_number_is_guarded_on_both_sides(name: str) -> None:
    assert trial.unguarded(PACKS[name]) == []


def test_an_unguarded_number_is_found() -> None:
    text = pack.text_of("us.ada.hypoglycaemia").replace("[3.8, false, 1], [3.0, false, 1]", "[3.0, false, 1]")
    assert trial.unguarded(pack.load(text)) == [
        "classification ada_hypo_level: outputs.level.first.2.when.glucose.lt = 3.9 may become 3.8 unnoticed"
    ]


def test_a_wrong_example_fails_in_both_ways() -> None:
    text = pack.text_of("us.ada.hypoglycaemia").replace("[3.9, false, 0]", "[3.9, false, 1]")
    found = trial.run(pack.load(text))
    assert len(found) == 2
    assert "(reference)" in found[1]


def series(*values: float, of: str = "systolic", minutes: float = 5, **about: Any) -> History:
    return History({}, [Reading(START + timedelta(minutes=n * minutes), {of: float(v)}, about) for n, v in enumerate(values)])


@pytest.mark.parametrize(
    ("feature", "arguments", "person", "expected"),
    [
        ("longest_below", {"of": "g", "below": 54}, series(72, 58, 53, 52, 60, 75, of="g"), 10),
        ("longest_below", {"of": "g", "below": 54}, series(60, 53, 53, 53, of="g"), 15),
        ("longest_below", {"of": "g", "below": 54}, series(53, 60, 53, 53, of="g"), 10),
        ("longest_below", {"of": "g", "below": 54}, History({}), None),
        ("minutes_above", {"of": "h", "above": 100}, series(104, 98, 106, of="h"), 0),
        ("minutes_above", {"of": "h", "above": 100}, series(104, 101, 106, of="h", minutes=10), 20),
        ("minutes_above", {"of": "h", "above": 100}, series(104, 100, of="h"), 0),
        ("rise", {"of": "w", "days": 3}, series(70, 70.6, 71.2, 72.1, of="w", minutes=1440), 2.1),
        ("rise", {"of": "w", "days": 3}, series(70, 70, 70, 70, 72.5, of="w", minutes=1440), 2.5),
        ("rise", {"of": "w", "days": 3}, series(70, 71, 71, 71, 72.5, of="w", minutes=1440), 1.5),
        ("rise", {"of": "w", "days": 3}, series(70, of="w"), None),
        ("jump", {"of": "systolic"}, series(120, 141), 21),
        ("first_pair_gap", {"of": ["systolic"]}, series(150, 140), 10),
        ("first_pair_gap", {"of": ["systolic"]}, series(150), None),
        ("protocol_mean", {"of": "systolic", "gap": {"of": ["systolic"], "differ": 10}}, series(140, 131, 90), 135.5),
        ("protocol_mean", {"of": "systolic", "gap": {"of": ["systolic"], "differ": 10}}, series(140, 130), None),
        ("protocol_mean", {"of": "systolic", "gap": {"of": ["systolic"], "differ": 10}}, series(140, 130, 132), 134),
        ("days_reaching", {"at_or_above": {"systolic": 140}, "last_days": 3}, series(142, 138, 146, 140, minutes=1440), 2),
        ("days_reaching", {"at_or_above": {"systolic": 140}, "last_days": 3}, series(142, 143, 146, minutes=5), 1),
        ("share", {"of": "g", "ge": 70, "le": 180}, series(69, 70, 180, 181, of="g"), 50),
        ("least", {"of": "g", "at_least": 2}, series(69, of="g"), None),
    ],
)
def test_features(feature: str, arguments: dict[str, Any], person: History, expected: float | None) -> None:
    found = features.FEATURES[feature](person, **arguments)
    assert found == pytest.approx(expected) if expected is not None else found is None


def test_settings_are_never_mixed_in_a_home_mean() -> None:
    at_home = [Reading(START + timedelta(days=day), {"systolic": 130.0}, {"setting": "home"}) for day in range(4)]
    in_clinic = Reading(START + timedelta(days=2, hours=1), {"systolic": 190.0}, {"setting": "clinic"})
    person = History({}, sorted([*at_home, in_clinic], key=lambda one: one.at))
    assert history.home_series(person, "systolic", "mean", discard_days=1) == 130
    assert history.home_series(person, "systolic", "readings", discard_days=1) == 3


def case(axis: str, readings: list[dict[str, Any]], expected: dict[str, Any], **context: Any) -> dict[str, Any]:
    at = [{"t": f"2026-03-02T08:{n:02}:00+08:00"} | one for n, one in enumerate(readings)]
    return {
        "id": "x",
        "axis": axis,
        "context": {k: v for k, v in ({"age_years": 58, "sex": "male", "conditions": []} | context).items() if v is not None},
        "readings": at,
        "expected": expected,
    }


BP = {"type": "bp", "unit": "mmHg", "setting": "clinic"}


@pytest.mark.parametrize(
    "one",
    [
        case("cn_office_grade", [BP | {"sbp": 18.7, "dbp": 12.0, "unit": "kPa"}], {"grade": "grade1"}),  # 140/90
        case("cn_dm_followup", [{"type": "glucose", "value": 70, "unit": "mg/dL", "timing": "fasting"}], {"danger": True}),  # 3.9
        case("ada_hypo_level", [{"type": "glucose", "value": 70, "unit": "mg/dL", "timing": "random"}], {"level": 0}),
        case("ada_hypo_level", [{"type": "glucose", "value": 54, "unit": "mg/dL", "timing": "random"}], {"level": 1}),
        case("ada_hypo_level", [{"type": "glucose", "value": 5, "unit": "mmol/L", "timing": "random"}], {"level": 3}, severe_event=True),
        case("fever_grade_cn", [{"type": "temperature", "value": 100.5, "unit": "[degF]"}], {"grade": "moderate"}),  # 38.06 → 38.1
        case("cn_htn_followup", [BP | {"sbp": 150, "dbp": 85}], {"danger": True, "triggered_by": ["blurred_vision"]}, symptoms=["blurred_vision"]),
        case("cn_htn_followup", [BP | {"sbp": 186, "dbp": 112}], {"danger": None}, age_years=15),
        case("news2_scope", [], {"applicable": False, "reason": "pregnant"}, sex="female", age_years=30, pregnant=True),
        case("hypoxia_community", [{"type": "spo2", "value": 90, "unit": "%"}], {"hypoxia": False}, conditions=["copd"]),
        case("cn_htn_followup", [BP | {"sbp": 150, "dbp": 85}], {"danger": True, "triggered_by": ["sudden_eye_ache"]}, symptoms=["sudden_eye_ache"]),
        case("cn_htn_followup", [BP | {"sbp": 150, "dbp": 85}], {"danger": False, "triggered_by": []}, symptoms=["cough"]),
        case("pals_hypotension", [{"type": "sbp", "value": 69, "unit": "mmHg"}], {"hypotension": True}, age_years=None, age_months=6),
        case("gold_grade", [{"type": "spirometry", "fev1_fvc": 0.5, "fev1_pct_pred": 40, "post_bronchodilator": False}], {"obstruction": None, "grade": None}),
        case("orthostatic", [BP | {"sbp": 150, "dbp": 80, "posture": "supine"}, BP | {"sbp": 105, "dbp": 70, "posture": "standing", "standing_seconds": 10},
                             BP | {"sbp": 145, "dbp": 80, "posture": "standing", "standing_minutes": 1}], {"initial": True, "classical": False}),
        case("af_confirm", [{"type": "ecg_single_lead", "duration_s": 30, "positive": True, "read_by": "physician"}], {"status": "definite_af"}),
        case("ble_sfloat", [{"type": "bp_raw", "unit": "mmHg", "sbp_sfloat": "0x0800", "dbp_sfloat": "0x0050"}], {"accepted": False, "reason": "nres"}),
        case("gmi", [{"type": "cgm_mean", "value": 8.0, "unit": "mmol/L"}], {"gmi": 50.4, "unit": "mmol/mol"}),
    ],
)  # fmt: skip
def test_cases_in_other_units_and_at_other_boundaries(one: dict[str, Any]) -> None:
    told = cases.run([one], list(PACKS.values()))["cases"][0]
    assert told["pass"], told["diff"]


@pytest.mark.parametrize(
    "one",
    [
        case("cn_office_grade", [BP | {"sbp": 139, "dbp": 89}], {"grade": "grade1"}),
        case("cn_office_grade", [BP | {"sbp": 139, "dbp": 89}], {"no_such_output": None}),
        case("no_such_axis", [], {}),
        case("rr_metrics", [{"type": "rr_series_ms", "values": [800, 820, 790, 810, 800, 830]}], {"rmssd_ms": 23.239}),
        case("cn_htn_followup", [{"type": "unheard_of"}], {"danger": False}),
        {"id": "y", "axis": "cn_office_grade"},
    ],
)  # fmt: skip
def test_a_wrong_or_broken_case_fails_and_stops_nobody(one: dict[str, Any]) -> None:
    good = case("cn_office_grade", [BP | {"sbp": 140, "dbp": 90}], {"grade": "grade1"})
    told = cases.run([one, good], list(PACKS.values()))
    assert [each["pass"] for each in told["cases"]] == [False, True]
    json.dumps(told)
