"""The safety laws, one case each: a weak source is never silent and never refers by itself; possible is not normal; late is not silent;
a repeat that does not come fires; adult rules are silent for children; a statistic relaxes nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.ingest.helpers import CUFF, Clinic, measurement, message
from tests.rules.test_alerts import MINUTES, expire
from tests.rules.test_families import family

pytestmark = pytest.mark.services


def glucose(**more: Any) -> dict[str, Any]:
    return measurement(kind="glucose", values={}, raw="01") | more


WEAK = {
    "a movement-flagged 210/125": ("bp_danger", measurement(210, 125, flags=["body_movement"]), "flag:body_movement"),
    "a cuff fitted too loosely": ("bp_danger", measurement(186, 112, flags=["cuff_too_loose"]), "flag:cuff_too_loose"),
    "an arm at the wrong height": ("bp_danger", measurement(186, 112, flags=["improper_position"]), "flag:improper_position"),
    "a cuffless 190/115": ("bp_danger", measurement(190, 115, setting="cuffless"), "setting:cuffless"),
    "a typed 186/112": ("bp_danger", measurement(186, 112, setting="manual"), "setting:manual"),
    "245/90, with an implausible pulse pressure": ("bp_danger", measurement(245, 90), "implausible:pulse_pressure"),
    "80 over 185": ("bp_danger", measurement(80, 185), "implausible:diastolic_not_below_systolic"),
    "a heart rate of 260": ("heart_rate", measurement(kind="heart_rate", values={"heart_rate": 260}, raw="00"), "implausible:heart_rate"),
    "an oxygen of 40": ("hypoxia", measurement(kind="pulse_oximetry", values={"spo2": 40}, raw="00"), "implausible:spo2"),
}


@pytest.mark.parametrize("name", WEAK)
async def test_a_weak_source_is_seen_at_once_and_asks_for_a_call_when_nobody_repeats_it(clinic: Clinic, name: str) -> None:
    which, given, why = WEAK[name]
    await clinic.send(message({**given, "record": f"weak-{name}"[:60]}))
    assert await clinic.value("select count(*) from quarantine") == 0, "readable is stored, however strange"
    assert await family(clinic, which) == [("pending", "opened", "P2")]
    assert why in (await clinic.alert(which) or {})["explanation"]["weak"]
    assert await clinic.value("select count(*) from care_case") == 1, "in the queue, waiting for a repeat"
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 0
    await expire(clinic)
    await clinic.idle()
    assert (await family(clinic, which))[-1] == ("firing", "unverified", "P2")
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 1


async def test_a_weak_source_confirms_nothing_and_refutes_nothing(clinic: Clinic) -> None:
    moved = {"flags": ["body_movement"]}
    await clinic.send(message(measurement(186, 112, ago=MINUTES[9])), message(measurement(190, 112, ago=MINUTES[7], **moved)))
    await clinic.send(message(measurement(120, 70, ago=MINUTES[5], **moved)))
    assert [state for state, _, _ in await family(clinic, "bp_danger")] == ["pending", "pending"]


async def test_a_home_cuffs_200_120_is_danger_like_any_other(clinic: Clinic) -> None:
    await clinic.send(message(measurement(200, 120, ago=MINUTES[2])), message(measurement(200, 120)))
    assert [state for state, _, _ in await family(clinic, "bp_danger")] == ["pending", "firing"]


async def test_an_unset_clock_is_now_and_never_late(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112, device_time="2000-01-01T00:00:00", time_quality="untrusted")))
    assert await family(clinic, "bp_danger") == [("pending", "opened", "P2")]
    assert await clinic.value("select count(*) from quarantine") == 0


async def test_meter_lo_and_hi_are_danger(clinic: Clinic) -> None:
    await clinic.send(message(glucose(codes={"glucose": "LO"}, record="lo")), message(glucose(codes={"glucose": "HI"}, record="hi")))
    assert await family(clinic, "glucose_low") == [("firing", "urgent", "P1")]
    assert await family(clinic, "glucose_high") == [("pending", "opened", "P2")]


async def test_a_repeat_that_never_comes_fires_and_one_that_does_not_confirm_is_a_persons(clinic: Clinic) -> None:
    known = {"birth_date": "1950-01-01", "sex": "male"}
    for cuff in (CUFF, "cuff-home-2"):
        await clinic.submit("facts", {"facts": known}, await clinic.resident(cuff))
    await clinic.send(message(measurement(186, 112, ago=MINUTES[6])), message(measurement(150, 88)))
    await clinic.send(message(measurement(186, 112, device="cuff-home-2")))
    await expire(clinic)
    await clinic.idle()
    mine, other = await clinic.resident(), await clinic.resident("cuff-home-2")
    states = {row["subject"]: (row["state"], row["severity"]) for row in await clinic.rows("select subject, state, severity from alert")}
    assert states == {mine: ("unconfirmed", "P3"), other: ("firing", "P2")}


async def test_another_kind_of_measurement_neither_confirms_nor_refutes(clinic: Clinic) -> None:
    fast = measurement(kind="heart_rate", values={"heart_rate": 150}, raw="02", ago=MINUTES[5])
    await clinic.send(message(fast), message(measurement(kind="temperature", values={"temperature": 36.5}, raw="03", ago=MINUTES[3])))
    assert await family(clinic, "heart_rate") == [("pending", "opened", "P2")]


async def test_late_danger_is_one_item_and_a_very_late_one_too(clinic: Clinic) -> None:
    old = [message(measurement(200, 120, ago=timedelta(days=days))) for days in (20, 12, 5)]
    await clinic.send(*old)
    assert (await family(clinic, "bp_danger"))[0][:2] == ("firing", "late")
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 1


async def test_a_childs_pressure_raises_nothing_meant_for_adults(clinic: Clinic) -> None:
    await clinic.submit("facts", {"facts": {"birth_date": "2016-01-01"}}, await clinic.resident())
    await clinic.send(message(measurement(186, 112)), message(measurement(kind="heart_rate", values={"heart_rate": 150}, raw="05")))
    assert await clinic.value("select count(*) from alert where family <> 'missing_fact'") == 0


async def test_no_parameter_and_no_baseline_relaxes_a_danger_rule(clinic: Clinic) -> None:
    body = {"pack": "cn.nbphs3.htn", "name": "danger_systolic", "level": "centre", "scope": "*"}
    assert await clinic.submit("parameter", body | {"value": 200}) == "refused:outside_clamp"
    # even a number that somebody wrote past the gate is held by the clamp
    await clinic.run("insert into parameter values ('centre', '*', 'cn.nbphs3.htn', 'danger_systolic', 240, now(), 'x')")
    usual = [message(measurement(184, 100, ago=timedelta(hours=hours), time_quality="estimated")) for hours in range(200, 100, -10)]
    await clinic.send(*usual)
    assert await clinic.value("select count(*) from alert where family = 'bp_danger'") >= 1
