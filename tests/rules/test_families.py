"""Danger beyond blood pressure, in the database: glucose, oxygen, fever, weight, rhythm; one rule's data never another's alert."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rules import evaluate, pack
from tests.ingest.helpers import Clinic, measurement, message
from tests.rules.test_alerts import MINUTES, expire, states

pytestmark = pytest.mark.services


def of(kind: str, ago: timedelta = timedelta(), *, raw: str = "", **values: float) -> dict[str, Any]:
    return measurement(ago=ago, kind=kind, values=values, raw=raw)


async def family(clinic: Clinic, name: str) -> list[tuple[Any, ...]]:
    rows = await clinic.rows(
        "select l.state, l.why, l.severity from alert_log l join alert a using (alert) where a.family = %s order by alert, n", name
    )
    return [tuple(row.values()) for row in rows]


async def test_low_glucose_fires_at_once_and_climbs_when_it_falls_further(clinic: Clinic) -> None:
    await clinic.send(message(of("glucose", MINUTES[9], glucose=3.9)))
    assert await states(clinic) == [("firing", "at_once", "P2")]
    assert "3.9" in ((await clinic.alert("glucose_low")) or {})["explanation"]["zh"]
    await clinic.send(message(of("glucose", MINUTES[6], glucose=3.7)), message(of("glucose", MINUTES[4], glucose=2.9)))
    await clinic.send(message(of("glucose", MINUTES[2], glucose=2.8)))
    assert (await states(clinic))[1:] == [("firing", "appended", "P2"), ("firing", "worsened", "P1"), ("firing", "appended", "P1")]
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 2, "once for the episode, once for its climbing"


@pytest.mark.parametrize(("code", "name", "expected"), [
    ("LO", "glucose_low", ("firing", "urgent", "P1")), ("HI", "glucose_high", ("pending", "opened", "P2")),
])  # fmt: skip
async def test_what_a_meter_cannot_show_is_danger_and_never_a_number(
    clinic: Clinic, code: str, name: str, expected: tuple[str, ...]
) -> None:
    await clinic.send(message(of("glucose", raw="01") | {"codes": {"glucose": code}}))
    assert await family(clinic, name) == [expected]
    said = ((await clinic.alert(name)) or {})["explanation"]["zh"]
    assert code in said
    assert "妊娠" not in said, "nothing is said of a person that nobody knows"
    assert "静坐" not in said
    assert await clinic.value("select count(*) from reading") == 0
    assert await clinic.value("select count(*) from alert") == 1


async def test_a_failed_measurement_is_no_danger(clinic: Clinic) -> None:
    await clinic.send(message(of("glucose", raw="01") | {"codes": {"glucose": "NaN"}}))
    assert await clinic.value("select count(*) from alert") == 0


async def test_high_glucose_waits_for_a_repeat_and_fires_without_one(clinic: Clinic) -> None:
    await clinic.send(message(of("glucose", glucose=16.65)))
    assert await states(clinic) == [("pending", "opened", "P2")], "16.65 shows as 16.7"
    await expire(clinic)
    await clinic.idle()
    assert (await states(clinic))[-1] == ("firing", "deadline", "P2")


async def test_a_symptom_raises_no_alert_about_what_nobody_measured(clinic: Clinic) -> None:
    await clinic.submit("symptoms", {"answers": {"eye_pain": "yes"}}, await clinic.resident())
    assert {row["family"] for row in await clinic.rows("select family from alert")} == {"bp_danger"}


async def test_oxygen_is_judged_by_what_is_known_of_the_lungs(clinic: Clinic) -> None:
    await clinic.send(message(of("pulse_oximetry", MINUTES[5], spo2=92)))
    assert await family(clinic, "hypoxia") == [("pending", "opened", "P2")], "unknown lungs: the stricter number"
    await clinic.send(message(of("pulse_oximetry", MINUTES[3], spo2=97)))
    assert (await family(clinic, "hypoxia"))[-1] == ("unconfirmed", "not_confirmed", "P3")
    await clinic.submit("facts", {"facts": {"chronic_lung_disease": True}}, await clinic.resident())
    await clinic.send(message(of("pulse_oximetry", MINUTES[2], spo2=90)), message(of("pulse_oximetry", spo2=90) | {"setting": "wearable"}))
    assert (await family(clinic, "hypoxia"))[-1][0] == "unconfirmed"
    await clinic.send(message(of("pulse_oximetry", spo2=87)))
    assert (await family(clinic, "hypoxia"))[-1] == ("pending", "opened", "P2")


DAY = timedelta(days=1)


@pytest.mark.parametrize("at_a_time", [1, 10])
async def test_weight_gained_in_three_days_is_seen_whatever_the_batches(clinic: Clinic, at_a_time: int) -> None:
    await clinic.submit("facts", {"facts": {"heart_failure": True}}, await clinic.resident())
    weights = [(70.0, 9), (70.5, 6), (71.0, 3.9), (71.5, 3), (72.6, 1.5), (73.1, 1), (73.7, 0.7), (72.9, 0.5)]
    sent = [message(of("weight", days * DAY, weight=kg) | {"time_quality": "estimated"}) for kg, days in weights]
    for start in range(0, len(sent), at_a_time):
        await clinic.send(*sent[start : start + at_a_time])
    assert await family(clinic, "weight") == [("firing", "at_once", "P3"), ("firing", "appended", "P3")]
    row = await clinic.rows("select m.numbers from alert_log l join measurement m using (measurement) order by n")
    assert [one["numbers"] for one in row] == [[73.1], [73.7]], "2.1 kg in three days, then 2.2; 72.9 is 1.4 above the least"


async def test_two_irregular_pulses_of_three_ask_for_an_ecg(clinic: Clinic) -> None:
    irregular = {"flags": ["irregular_pulse"]}
    await clinic.send(message(measurement(ago=MINUTES[5], **irregular)), message(measurement(ago=MINUTES[4])))
    assert await family(clinic, "rhythm") == []
    await clinic.send(message(measurement(ago=MINUTES[3], **irregular)))
    assert await family(clinic, "rhythm") == [("firing", "at_once", "P3")]


async def test_a_second_crisis_after_the_case_was_closed_is_a_new_episode(clinic: Clinic) -> None:
    await clinic.send(message(of("glucose", MINUTES[30], glucose=3.1)))
    case = (await clinic.rows("select care_case, version from care_case"))[0]
    doctor = "d"
    await clinic.run("update care_case set state = 'acknowledged' where care_case = %s", case["care_case"])
    ended = {"case": case["care_case"], "version": case["version"], "action": "resolve", "why": "ate sugar"}
    assert await clinic.submit("case_end", ended, account=doctor) == "applied"
    await clinic.send(message(of("glucose", glucose=3.2)))
    assert await family(clinic, "glucose_low") == [("firing", "at_once", "P2"), ("closed", "closed", "P2"), ("firing", "at_once", "P2")]
    assert await clinic.value("select count(*) from care_case") == 2
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 2


def test_no_two_rules_have_one_name() -> None:
    packs = [pack.load_named(name) for name in pack.shipped()]
    rules = [compiled.rule.id for compiled in evaluate.compile_packs(packs)]
    assert len(rules) == len(set(rules)), "state and reasons are kept by it"
