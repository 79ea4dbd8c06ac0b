"""Packs and parameters change while the workers run; a rule that breaks takes nobody else with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from ingest.batch import Batch, Event
from rules import alerts, evaluate, features, pack
from rules.condition import Columns, Truth
from rules.service import Rules
from tests.ingest.helpers import Clinic, measurement, message
from tests.rules.test_alerts import MINUTES, expire
from vitals.alert import Change, Severity, State, Why
from vitals.floor import database

pytestmark = pytest.mark.services
HTN = "cn.nbphs3.htn"
SIGNED = 'signoff: [{role: 全科主任, name: 王, date: "2026-01-01"}]'


def stricter(*, signed: bool = True) -> str:
    """A later version of the pack that ships: danger from 175."""
    text = pack.text_of(HTN).replace("version: 1.1.0", "version: 1.2.0", 1)
    text = text.replace("danger_systolic: {value: 180,", "danger_systolic: {value: 175,", 1)
    return text.replace("signoff: []", SIGNED, 1) if signed else text


async def open_alerts(clinic: Clinic) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in await clinic.rows("select family, state, pack, severity from alert order by alert")]


async def test_a_new_version_holds_from_the_next_transaction_on_and_every_alert_says_which_raised_it(clinic: Clinic) -> None:
    await clinic.send(message(measurement(177, 85)))
    assert await open_alerts(clinic) == []
    assert await clinic.submit("pack", {"text": stricter()}, account="admin") == "applied"
    await clinic.send(message(measurement(177, 85)))
    assert await open_alerts(clinic) == [("bp_danger", "pending", "cn.nbphs3.htn@1.2.0", "P2")]
    alert = await clinic.alert() or {}
    assert alert["pack_digest"] == pack.load(stricter()).digest
    assert alert["explanation"]["thresholds"]["systolic"] == 175
    other = await Clinic(clinic.conninfo).open()  # a worker that started later
    assert await other.submit("pack", {"retire": HTN}, account="admin") == "applied"
    await clinic.submit("case_end", await _ended(clinic), account="d")
    await clinic.send(message(measurement(177, 85)))
    assert await open_alerts(clinic) == [("bp_danger", "closed", "cn.nbphs3.htn@1.2.0", "P2")], "the version that ships holds again"
    await other.worker.close()


async def _ended(clinic: Clinic) -> dict[str, Any]:
    await clinic.run("update care_case set state = 'acknowledged'")
    case = (await clinic.rows("select care_case, version from care_case"))[0]
    return {"case": case["care_case"], "version": case["version"], "action": "resolve", "why": "tried"}


async def test_a_pack_that_is_not_understood_or_not_signed_off_changes_nothing(clinic: Clinic) -> None:
    assert (await clinic.submit("pack", {"text": stricter().replace("within: 15m", "within: soon")}, account="admin")).startswith(
        "refused:bad_pack:line "
    )
    assert (await clinic.submit("pack", {"text": stricter(signed=False)}, account="admin")).startswith("refused:not_signed_off")
    assert (await clinic.submit("pack", {"retire": "no.such"}, account="admin")).startswith("refused:not_in_force")
    await clinic.send(message(measurement(177, 85)))
    assert await open_alerts(clinic) == []


@pytest.mark.parametrize("level", ["resident", "centre"])
async def test_a_parameter_of_a_resident_or_a_centre_tightens_a_rule_inside_its_clamp(clinic: Clinic, level: str) -> None:
    resident = await clinic.resident()
    await clinic.submit("facts", {"facts": {"centre": "c-1"}}, resident)
    body = {"pack": HTN, "name": "danger_systolic", "level": level, "scope": resident if level == "resident" else "c-1"}
    assert await clinic.submit("parameter", body | {"value": 160}) == "applied"
    assert await clinic.submit("parameter", body | {"value": 190}) == "refused:outside_clamp"
    assert await clinic.submit("parameter", body | {"name": "none", "value": 160}) == "refused:unknown_parameter"
    await clinic.send(message(measurement(165, 85)))
    alert = await clinic.alert() or {}
    assert alert["state"] == "pending"
    assert "160" in alert["explanation"]["zh"]
    assert alert["explanation"]["thresholds"]["systolic"] == 160
    other = await clinic.resident("cuff-home-2")
    assert other != resident
    await clinic.send(message(measurement(165, 85, device="cuff-home-2")))
    assert await clinic.value("select count(*) from alert where subject = %s", other) == 0, "nobody else's number moved"
    assert await clinic.submit("parameter", body | {"value": None}) == "applied"
    await clinic.submit("case_end", await _ended(clinic), account="d")
    await clinic.send(message(measurement(165, 85)))
    assert await clinic.value("select count(*) from alert") == 1


def breaking(one: evaluate.Compiled, *, always: bool) -> evaluate.Compiled:
    """A rule that raises on everything, or on a diastolic of 111 only."""

    def when(columns: Columns) -> Truth:
        if always or (columns["diastolic"] == 111).any():
            raise ZeroDivisionError("a rule that breaks")
        return one.when(columns)

    return replace(one, when=when)


@pytest.mark.parametrize("always", [True, False])
async def test_a_rule_that_raises_touches_no_other_and_a_person_is_told(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, always: bool
) -> None:
    made = evaluate.compile_packs
    monkeypatch.setattr(
        evaluate,
        "compile_packs",
        lambda packs: [breaking(one, always=always) if one.rule.id == "htn.danger" else one for one in made(packs)],
    )
    clinic = await Clinic(clinic.conninfo).open()
    with caplog.at_level(logging.ERROR):
        await clinic.send(
            message(measurement(186, 111)), message(measurement(186, 112, device="cuff-home-2")),
            message(measurement(kind="glucose", values={"glucose": 2.5}, device="cuff-home-3")),
        )  # fmt: skip
    await clinic.worker.close()
    assert "a rule raised" in caplog.text
    found = {(row["family"], row["severity"]) for row in await clinic.rows("select family, severity from alert")}
    assert ("glucose_low", "P1") in found, "every other rule judged everybody"
    assert ("not_judged", "P2") in found, "the reading the rule broke on is a person's to look at"
    assert (("bp_danger", "P2") in found) is not always, "and where it does not break it still judges"
    told = (await clinic.alert("not_judged") or {})["explanation"]
    assert told["rule"] == "htn.danger"
    assert "186" in told["zh"]


async def test_a_feature_that_raises_is_told_and_stops_neither_visits_nor_days(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OverflowError("a feature that breaks")

    for name in ("gain", "session_mean", "change_of_means"):
        monkeypatch.setitem(features.FEATURES, name, broken)
    resident = await clinic.resident()
    await clinic.submit("facts", {"facts": {"heart_failure": True}}, resident)
    weighed = measurement(kind="weight", values={"weight": 72.5}, raw="07")
    await clinic.send(message(weighed), message(measurement(186, 112, setting="clinic")))
    found = {(row["family"], row["rule"]) for row in await clinic.rows("select family, rule from alert")}
    assert ("bp_danger", "htn.danger") in found
    assert [row["reasons"].keys() for row in await clinic.rows("select reasons from alert where family = 'not_judged'")] == [
        {"hf.weight", "htn.control"}
    ], "nothing that a rule broke on passes unseen because it hits nothing then"
    yesterday = timedelta(days=1)
    await clinic.send(message(measurement(130, 80, ago=yesterday, time_quality="estimated")))
    await expire(clinic)
    await clinic.idle()
    assert await clinic.value("select count(*) from daily_value where subject = %s", resident) > 0, "the days are written all the same"


async def test_a_pack_may_not_take_anothers_rule_nor_name_a_value_that_is_not_there(clinic: Clinic) -> None:
    copy = stricter().replace("pack: cn.nbphs3.htn", "pack: local.copy", 1)
    assert await clinic.submit("pack", {"text": copy}, account="admin") == "refused:rule_taken:htn.control, htn.danger, htn.goal"
    misspelt = stricter().replace("血压 {systolic}/", "血压 {systolc}/", 1)
    assert "no value {systolc}" in await clinic.submit("pack", {"text": misspelt}, account="admin")


async def test_what_a_transaction_that_failed_had_put_in_force_is_forgotten(clinic: Clinic) -> None:
    rules = Rules([pack.load_named(HTN)], "Asia/Shanghai")
    event = Event(0, "pack", None, {"text": stricter()}, "admin", datetime.now(UTC))
    batch = Batch(events=[event])
    async with await database.connect(clinic.conninfo) as connection:
        async with connection.transaction(force_rollback=True):  # a later step fails
            await rules.step(connection, batch, datetime.now(UTC))
        for undo in batch.undo:
            undo()
        await clinic.run("update fact_version set packs = packs + 1")  # somebody else's change bears the same number
        await rules.step(connection, Batch(), datetime.now(UTC))
    assert next(one.pack.name for one in rules._rules) == "cn.nbphs3.htn@1.1.0"


async def test_a_number_that_is_none_and_an_absurd_resident_disturb_nobody(clinic: Clinic) -> None:
    absurd = measurement(kind="glucose", values={"glucose": 1e300}, device="cuff-home-2")
    await clinic.run(
        "update subject_fact set value = '\"1066-10-14\"' where fact = 'birth_date' and subject = %s", await clinic.resident("cuff-home-2")
    )
    await clinic.send(message(absurd), message(measurement(1e-300, 2044, device="cuff-home-2")), message(measurement(186, 112)))
    assert await clinic.value("select count(*) from alert where family = 'bp_danger' and subject = %s", await clinic.resident()) == 1
    assert await clinic.value("select count(*) from alert where family = 'not_judged'") == 0


def test_what_raises_in_one_row_is_named_and_the_rest_is_judged_as_ever() -> None:
    one = next(c for c in evaluate.compile_packs([pack.load_named(HTN)]) if c.rule.id == "htn.danger")
    columns = {name: np.array(values) for name, values in {
        "systolic": [186.0, 186.0, 120.0, np.nan, np.inf], "diastolic": [111.0, 112.0, 80.0, np.nan, -np.inf], "age_years": [60.0] * 5,
        "pregnant": [0.0] * 5, "lactating": [0.0] * 5,
    }.items()}  # fmt: skip
    yes = np.ones(5, bool)
    source = evaluate.Source(np.arange(5), yes, yes, np.zeros(5, np.uint8), yes)
    events, failed = evaluate.judged(breaking(one, always=False), source, columns, datetime(2026, 1, 5, tzinfo=UTC))
    whole, none = evaluate.judged(one, source, columns, datetime(2026, 1, 5, tzinfo=UTC))
    assert failed.tolist() == [True, False, False, False, False]
    assert not none.any()
    assert events["hit"].tolist() == [0, *whole["hit"].tolist()[1:]]


async def test_two_rules_of_one_family_are_two_reasons_of_one_alert(clinic: Clinic) -> None:
    second = pack.text_of(HTN).replace("pack: cn.nbphs3.htn", "pack: local.second", 1).replace("id: htn.danger", "id: local.danger", 1)
    second = second[: second.index("\n  - id: htn.control")] + "\n"
    second = (
        second.replace("signoff: []", SIGNED, 1).replace("severity: P2", "severity: P1", 1).replace("keep_firing: 24h", "keep_firing: 0s")
    )
    second = second.replace("danger_systolic: {value: 180,", "danger_systolic: {value: 170,", 1)
    assert await clinic.submit("pack", {"text": second}, account="admin") == "applied"
    await clinic.send(message(measurement(172, 85, ago=MINUTES[9])), message(measurement(173, 85, ago=MINUTES[7])))
    alert = await clinic.alert() or {}
    assert (alert["state"], alert["severity"], alert["rule"]) == ("firing", "P1", "local.danger")
    await clinic.send(message(measurement(182, 85, ago=MINUTES[5])))
    alert = await clinic.alert() or {}
    assert (alert["state"], alert["severity"]) == ("firing", "P1")
    assert {rule: one["state"] for rule, one in alert["reasons"].items()} == {"local.danger": "firing", "htn.danger": "pending"}
    assert await clinic.value("select count(*) from alert") == 1
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 1, "one page for one episode"


async def test_a_reason_that_goes_leaves_the_alert_to_the_others(clinic: Clinic) -> None:
    def change(rule: str, state: State, severity: Severity, why: Why) -> Change:
        return Change("r-x", "trend", rule, state, severity, why, datetime.now(UTC))

    async with await database.connect(clinic.conninfo) as connection:
        assert await alerts.move(connection, change("a", State.FIRING, Severity.P4, Why.AT_ONCE))
        worse = await alerts.move(connection, change("b", State.FIRING, Severity.P3, Why.AT_ONCE))
        assert worse is not None
        assert (worse.why, worse.severity) == (Why.WORSENED, Severity.P3)
        assert await alerts.move(connection, change("b", State.CLEARED, Severity.P3, Why.CLEARED)) is None
        row = (await alerts.open_of(connection, ["r-x"]))[0]
        assert (row["state"], row["severity"]) == ("firing", "P4")
        assert await alerts.move(connection, change("c", State.PENDING, Severity.P3, Why.OPENED))
        assert await alerts.move(connection, change("a", State.CLEARED, Severity.P4, Why.CLEARED)) is None
        row = (await alerts.open_of(connection, ["r-x"]))[0]
        assert (row["state"], row["severity"]) == ("firing", "P3"), "somebody may have been paged: it fires while anything of it is left"
        ended = await alerts.move(connection, change("c", State.CLEARED, Severity.P4, Why.CLEARED))
        assert ended is not None
        assert ended.state is State.CLEARED
        assert await alerts.open_of(connection, ["r-x"]) == []


async def test_a_target_that_was_agreed_with_one_person_counts_for_that_person_only(clinic: Clinic) -> None:
    first, second = await clinic.resident(), await clinic.resident("cuff-home-2")
    body = {"level": "resident", "scope": first, "pack": HTN, "name": "goal_systolic", "value": 130}
    assert await clinic.submit("parameter", body, first) == "applied"
    visits = {"setting": "clinic", "time_quality": "estimated"}
    for device in ("cuff-home-1", "cuff-home-2"):
        for days in (20, 10):
            await clinic.send(message(measurement(134, 78, ago=timedelta(days=days), device=device, **visits)))
    await expire(clinic)
    await clinic.idle()
    rows = await clinic.rows("select subject, rule, explanation ->> 'zh' as zh from alert where family = 'bp_control'")
    assert [(row["subject"], row["rule"]) for row in rows] == [(first, "htn.goal")]
    assert "目标 130/" in rows[0]["zh"]
    assert second != first
