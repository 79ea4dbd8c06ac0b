"""Cases of the test bench: a file of people, readings and what must come out → every table's answer, compared. Pure.

A case names its table by `axis`; its readings are converted to our units and rounded half-up as a device would show them before
anything is compared. Both ways of evaluating are run and must agree. Expected keys only are compared; a number must be equal as far as
the expected one is written out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from rules import history, reference, tables
from rules.condition import Terms
from rules.history import History, Reading
from rules.pack import Pack
from rules.tables import Table
from vitals import sfloat
from vitals.errors import BadInput
from vitals.gatt.blood_pressure import BloodPressureMeasurement, BloodPressureStatus

KPA, MG_DL, POUND = 7.50062, 18.0156, 0.45359237
# other names for what we know under one
SYNONYMS = {
    "adverse_drug_reaction": "adverse_reaction", "drug_adverse_reaction": "adverse_reaction", "new_complications": "new_complication",
    "older_or_high_risk": "high_risk", "high_salt_diet": "high_salt", "heavy_drinking": "alcohol_excess",
}  # fmt: skip
# a symptom in other words: the first of these that is part of it
SYMPTOMS = (
    ("lie_flat", "dyspnoea_unable_to_lie_flat"), ("lying", "dyspnoea_unable_to_lie_flat"), ("orthopn", "dyspnoea_unable_to_lie_flat"),
    ("acetone", "acetone_breath"), ("deep_breath", "deep_breathing"), ("kussmaul", "deep_breathing"),
    ("loss_of_consc", "loss_of_consciousness"), ("unconscious", "loss_of_consciousness"), ("conscious", "altered_consciousness"),
    ("confus", "new_confusion"), ("behavio", "behaviour_change"), ("headache", "severe_headache"), ("dizz", "severe_dizziness"),
    ("vomit", "vomiting"), ("nausea", "nausea"), ("vision_loss", "sudden_visual_loss"), ("visual", "sudden_visual_loss"),
    ("blur", "blurred_vision"), ("vision", "sudden_visual_loss"), ("eye", "eye_pain"), ("palpit", "palpitations"),
    ("tightness", "chest_tightness"), ("chest", "chest_pain"), ("back", "back_pain"), ("dyspn", "dyspnoea"), ("breath", "dyspnoea"),
    ("speech", "speech_disorder"), ("aphas", "speech_disorder"), ("paraly", "paralysis"), ("pleg", "paralysis"), ("limb", "paralysis"),
    ("edema", "leg_oedema"), ("oedema", "leg_oedema"), ("syncop", "syncope"), ("faint", "syncope"), ("sweat", "sweating"),
    ("appetite", "poor_appetite"), ("anorex", "poor_appetite"), ("thirst", "polydipsia"), ("dips", "polydipsia"), ("uria", "polyuria"),
    ("weight_loss", "weight_loss"), ("abdom", "abdominal_pain"), ("flush", "flushed_skin"), ("anaphyl", "anaphylaxis"),
    ("papill", "papilloedema"), ("retinal", "retinal_haemorrhage"), ("kidney", "acute_kidney_injury"), ("heart_failure", "heart_failure"),
)  # fmt: skip
SGLT2 = ("sglt2i", "sglt2_inhibitor", "dapagliflozin", "empagliflozin", "canagliflozin", "ertugliflozin", "henagliflozin")


def half_up(value: float, digits: int = 0) -> float:
    """Rounded half away from zero at a decimal digit, as devices round. NaN stays."""
    if math.isnan(value):
        return value
    return float(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def _converted(value: float, digits: int) -> float:
    """Half-up after a conversion, which leaves binary dust behind the last digits."""
    return half_up(round(value, 9), digits)


def _pressure(value: float, unit: str) -> float:
    return _converted(value * KPA, 0) if unit.lower() == "kpa" else half_up(value)


def _glucose(value: float, unit: str) -> dict[str, float]:
    if unit.lower() == "mg/dl":
        return {"glucose": _converted(value / MG_DL, 1), "glucose_mgdl": value, "glucose_mgdl_exact": value}
    exact = value * MG_DL
    return {"glucose": half_up(value, 1), "glucose_mgdl": _converted(exact, 0), "glucose_mgdl_exact": exact}


def _temperature(value: float, unit: str) -> dict[str, float]:
    exact = (value - 32) * 5 / 9 if unit.lower() in ("[degf]", "degf", "f", "°f") else value
    return {"temperature": _converted(exact, 1), "temperature_exact": round(exact, 9)}


def _weight(value: float, unit: str) -> float:
    return _converted(value * POUND, 1) if unit.lower() in ("lb", "[lb_av]", "lbs") else value


_PLAIN = {
    "heart_rate": "heart_rate", "pulse": "heart_rate", "resp_rate": "respiratory_rate", "spo2": "spo2", "height": "height",
    "waist": "waist", "lbgi": "lbgi", "hbgi": "hbgi", "hba1c": "hba1c",
}  # fmt: skip
_SAID = {"value", "unit", "t", "type", "sbp", "dbp"}


def reading(given: Mapping[str, Any]) -> Reading:
    """One reading of a case. Raises BadInput `unknown_type`."""
    kind, unit = given["type"], given.get("unit", "")
    about = {name: value for name, value in given.items() if name not in _SAID and name != "values"}
    values: dict[str, float] = {}
    match kind:
        case "bp" | "bp_mean":
            values = {
                ours: _pressure(given[theirs], unit)
                for ours, theirs in (("systolic", "sbp"), ("diastolic", "dbp"))
                if given.get(theirs) is not None
            }
            if kind == "bp_mean":
                about["kind"] = _mean_kind(str(given.get("kind", "")))
        case "sbp" | "dbp":
            values = {"systolic" if kind == "sbp" else "diastolic": _pressure(given["value"], unit)}
        case "glucose":
            values = _glucose(given["value"], unit)
        case "temperature":
            values = _temperature(given["value"], unit)
        case "weight":
            values = {"weight": _weight(given["value"], unit)}
        case "ketone_bhb":
            values = {"ketone": half_up(given["value"], 1)}
        case "cgm_mean":
            values = {"cgm_mean_mgdl" if unit.lower() == "mg/dl" else "cgm_mean_mmoll": given["value"]}
            about["unit"] = "mg/dL" if unit.lower() == "mg/dl" else "mmol/L"
        case "cgm_summary":
            values = {name: value for name, value in given.items() if name in history.MORE_VALUES}
        case "spirometry":
            values = {
                ours: given[theirs]
                for ours, theirs in (("fev1_fvc_ratio", "fev1_fvc"), ("fev1_pct_pred", "fev1_pct_pred"))
                if theirs in given
            }
        case "acvpu":
            about["acvpu"] = given["value"]
        case "rr_series_ms":
            about["intervals"] = given["values"]
        case "bp_raw":
            pass
        case _ if kind in _PLAIN:
            values = {_PLAIN[kind]: float(given["value"])}
        case _ if kind.startswith(("ppg", "ecg")) or kind == "single_lead_ecg":
            about |= _recording(given)
            values = {"duration_s": float(given.get("duration_s", 0))}
        case _:
            raise BadInput("unknown_type", kind)
    if "standing_minutes" in about or "standing_seconds" in about:
        about.setdefault("standing_seconds", 60 * about.get("standing_minutes", 0))
        about.setdefault("standing_minutes", about["standing_seconds"] / 60)
    return Reading(datetime.fromisoformat(given["t"]), {name: float(value) for name, value in values.items()}, about)


def _mean_kind(text: str) -> str:
    for part, kind in (("24", "24h"), ("night", "night"), ("asleep", "night"), ("day", "day"), ("awake", "day"), ("home", "home")):
        if part in text:
            return kind
    return text


def _recording(given: Mapping[str, Any]) -> dict[str, Any]:
    positive = next((given[name] for name in ("positive", "af", "shows_af", "af_shown") if name in given), None)
    doctor = given.get("read_by") == "physician" or any(
        given.get(n) for n in ("physician_read", "physician_confirmed", "read_by_physician")
    )
    return {
        "positive": positive, "recorded_by": "ppg" if given["type"].startswith("ppg") else "ecg",
        "read_by": "physician" if doctor else "nobody",
    }  # fmt: skip


def symptom(words: str) -> str:
    """The symptom that a case means by these words; the words themselves if they are none of ours."""
    if words in history.LISTS["symptoms"]:
        return words
    return next((ours for part, ours in SYMPTOMS if part in words), words)


def _in_their_words(found: Any, context: Mapping[str, Any]) -> Any:
    """Names of symptoms in an answer, as the case calls them."""
    theirs = {symptom(one): one for one in context.get("symptoms", ())}
    return [theirs.get(one, one) for one in found] if isinstance(found, list) and theirs else found


def person(context: Mapping[str, Any], readings: Sequence[Reading] = ()) -> History:
    """What a case says of a person, in the words of `rules.history`."""
    facts: dict[str, Any] = {}
    for given, value in context.items():
        name = SYNONYMS.get(given, given)
        if value is True and ("assist" in name or name in ("severe_event", "needs_help")):
            name = "needs_assistance"
        if isinstance(value, Mapping):
            facts |= {f"{name}.{part}": inner for part, inner in value.items()}
        elif name in history.LISTS:
            said = {symptom(one) if name == "symptoms" else one for one in value} | ({"sglt2i"} if set(value) & set(SGLT2) else set())
            facts |= {f"{name}.{member}": member in said for member in history.LISTS[name]}
        elif not isinstance(value, list):
            facts[name] = value
    if facts.get("sex") == "male":
        facts.setdefault("pregnant", False)
        facts.setdefault("lactating", False)
    oxygen = [one.about["supplemental_o2"] for one in readings if "supplemental_o2" in one.about]
    if oxygen:
        facts["supplemental_o2"] = oxygen[-1]
    facts.setdefault("spo2_scale", 1)
    for smaller, in_a_year in (("age_months", 12), ("age_days", 365.25)):
        if smaller in facts:
            facts.setdefault("age_years", facts[smaller] / in_a_year)
    return History(facts, readings)


def _cohort(context: Mapping[str, Any]) -> list[History]:
    found = []
    for one in context.get("cohort", ()):
        values: dict[str, float] = {}
        if one.get("last"):
            values = {"systolic": float(one["last"][0]), "diastolic": float(one["last"][1])}
        if one.get("last_fpg") is not None:
            values = {"glucose": float(one["last_fpg"])}
        known = {name: value for name, value in one.items() if name not in ("last", "last_fpg")}
        at = datetime.fromisoformat("2026-01-01T00:00:00+08:00")
        found.append(person(known, [Reading(at, values)] if values else []))
    return found


def _status_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"flags": BloodPressureMeasurement(0.0, 0.0, 0.0, status=BloodPressureStatus(int(given["measurement_status"]))).flag_names()}


def _sfloats(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: sfloat.decode(int(given[f"{name}_sfloat"], 16)) for name in ("sbp", "dbp", "map") if f"{name}_sfloat" in given}
    special = [value for name, value in found.items() if name != "map" and isinstance(value, sfloat.Special)]
    if special:
        return {"accepted": False, "reason": special[0].name.lower()}
    return {"accepted": True, "reason": None} | {n: None if isinstance(v, sfloat.Special) else v for n, v in found.items()}


_OF_DEVICES = {"ble_status": _status_flags, "ble_sfloat": _sfloats}  # decided by the codecs, not by a pack


def answers(case: Mapping[str, Any], known: Mapping[str, tuple[Mapping[str, Table], Terms]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All outputs of a case's table: as the vectorised way finds them, and as the reference does. Raises BadInput `unknown_axis`."""
    axis = case["axis"]
    if axis in _OF_DEVICES:
        found = _OF_DEVICES[axis](case["readings"][0])
        return found, found
    if axis not in known:
        raise BadInput("unknown_axis", axis)
    of_pack, terms = known[axis]
    readings = sorted((reading(one) for one in case["readings"]), key=lambda one: one.at)
    who, cohort = person(case["context"], readings), _cohort(case["context"])
    both = (
        tables.assess(of_pack, axis, who, terms, cohort),
        tables.assess(of_pack, axis, who, terms, cohort, evaluate_with=reference.evaluate),
    )
    vector, plain = ({output: _in_their_words(value, case["context"]) for output, value in found.items()} for found in both)
    return vector, plain


def same(expected: Any, found: Any) -> bool:
    """Equal; a number as far as the expected one is written out."""
    if (
        isinstance(expected, int | float)
        and isinstance(found, int | float)
        and not isinstance(expected, bool)
        and not isinstance(found, bool)
    ):
        digits = max(0, -int(Decimal(repr(expected)).as_tuple().exponent))
        return half_up(round(found, 9), digits) == expected
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() <= found.keys() and all(same(value, found[name]) for name, value in expected.items())
    if isinstance(expected, bool) != isinstance(found, bool):
        return False
    return bool(expected == found)


def run(cases: Sequence[Mapping[str, Any]], packs: Sequence[Pack]) -> dict[str, Any]:
    """`{"cases": [{id, axis, pass, diff}], "axes": {axis: {cases, passed}}}`; diff: output → {expected, found}."""
    known = {name: (one.document.classifications, one.terms) for one in packs for name in one.document.classifications}
    told: list[dict[str, Any]] = []
    axes: dict[str, dict[str, int]] = {}
    for case in cases:
        diff: dict[str, Any] = {}
        try:
            vector, plain = answers(case, known)
            for output, expected in case["expected"].items():
                found = vector.get(output)
                if output not in vector or not same(expected, found):
                    diff[output] = {"expected": expected, "found": found if output in vector else "no such output"}
                elif found != plain[output]:
                    diff[output] = {"expected": expected, "found": found, "reference": plain[output]}
        except (BadInput, KeyError, TypeError, ValueError) as error:
            diff["error"] = f"{type(error).__name__}: {error}"
        axis = axes.setdefault(str(case.get("axis")), {"cases": 0, "passed": 0})
        axis["cases"] += 1
        axis["passed"] += not diff
        told.append({"id": case.get("id"), "axis": case.get("axis"), "pass": not diff, "diff": diff})
    return {"cases": told, "axes": axes}
