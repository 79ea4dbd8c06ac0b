"""Alerts from readings, in the database: pending, firing, unconfirmed; deadlines that survive; one open at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.ingest.helpers import CUFF, Clinic, measurement, message
from yizhan import town

pytestmark = pytest.mark.services

MINUTES = [timedelta(minutes=n) for n in range(60)]


async def expire(clinic: Clinic) -> None:
    """Time passes: every deadline is a second ago by the database's clock."""
    await clinic.run("update rule_timer set due_at = now() - interval '1 second'")
    await clinic.run("update rule_state set deadline = (extract(epoch from now()) * 1000000)::bigint - 1000000 where deadline > 0")


async def states(clinic: Clinic) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in await clinic.rows("select state, why, severity from alert_log order by alert, n")]


async def test_a_danger_value_is_seen_at_once_and_fires_when_a_repeat_confirms_it(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112, ago=MINUTES[2])))
    alert = await clinic.alert()
    assert alert is not None
    assert (alert["state"], alert["severity"]) == ("pending", "P2")
    assert alert["deadline"] is not None
    assert "186/112" in alert["explanation"]["zh"]
    assert "≥180mmHg和(或)舒张压≥110mmHg" in alert["explanation"]["clause"]["quote"]
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 0
    await clinic.send(message(measurement(188, 113)))
    assert await states(clinic) == [("pending", "opened", "P2"), ("firing", "confirmed", "P2")]
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 1


async def test_without_a_repeat_it_fires_by_itself_also_after_a_restart(clinic: Clinic, conninfo: str) -> None:
    await clinic.send(message(measurement(186, 112)))
    await clinic.worker.close()
    again = await Clinic(conninfo).open()
    await again.idle()
    assert ((await again.alert()) or {})["state"] == "pending"
    await expire(again)
    await again.idle()
    await again.idle()
    assert await states(again) == [("pending", "opened", "P2"), ("firing", "deadline", "P2")]
    assert await again.value("select count(*) from rule_tick where rule <> '@daily'") == 1
    assert await again.value("select count(*) from rule_timer where rule <> '@daily'") == 0
    await again.worker.close()


async def test_a_repeat_that_does_not_confirm_waits_for_a_person_with_both_readings(clinic: Clinic) -> None:
    # a known "not pregnant" is derived for this 69-year-old, so 150/88 is plainly not dangerous
    await clinic.send(message(measurement(186, 112, ago=MINUTES[6])), message(measurement(150, 88)))
    assert await states(clinic) == [("pending", "opened", "P2"), ("unconfirmed", "not_confirmed", "P3")]
    assert await clinic.value("select count(distinct measurement) from alert_log") == 2
    await clinic.send(message(measurement(190, 100)))
    assert (await states(clinic))[-1] == ("pending", "opened", "P2")
    assert await clinic.value("select count(*) from alert") == 1


async def test_a_repeat_within_the_same_minute_confirms_nothing(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112, ago=timedelta(seconds=30))), message(measurement(187, 112)))
    assert await states(clinic) == [("pending", "opened", "P2"), ("pending", "appended", "P2")]
    assert ((await clinic.alert()) or {})["deadline"] is not None, "the queue still says until when a repeat is awaited"


async def test_a_weak_source_is_never_silent_and_never_refers(clinic: Clinic) -> None:
    await clinic.send(message(measurement(190, 115, flags=["body_movement"])))
    await expire(clinic)
    await clinic.idle()
    assert await states(clinic) == [("pending", "opened", "P2"), ("firing", "unverified", "P2")]
    alert = await clinic.alert()
    assert alert is not None
    assert alert["explanation"]["because_zh"] == "来源未经验证的危急值:请电话联系并复测"


async def test_a_weak_repeat_neither_confirms_nor_refutes(clinic: Clinic) -> None:
    await clinic.send(
        message(measurement(186, 112, ago=MINUTES[5])),
        message(measurement(150, 80, ago=MINUTES[3], flags=["cuff_too_loose"])),
        message(measurement(190, 112, ago=MINUTES[1], setting="manual")),
    )
    assert [state for state, _, _ in await states(clinic)] == ["pending", "pending"]


async def test_an_implausible_value_is_stored_and_seen_as_weak(clinic: Clinic) -> None:
    await clinic.send(message(measurement(320, 112)))
    row = (await clinic.rows("select weak from measurement"))[0]
    assert row["weak"] == ["implausible:systolic", "implausible:pulse_pressure"]
    assert await clinic.value("select bool_and(plausible) from reading") is False
    assert ((await clinic.alert()) or {})["state"] == "pending"


async def test_late_is_not_silent(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112, ago=timedelta(days=2))), message(measurement(190, 112, ago=timedelta(days=3))))
    assert await states(clinic) == [("firing", "late", "P2"), ("firing", "appended", "P2")]
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 1


async def test_an_uncertain_old_time_counts_as_new(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112, ago=timedelta(days=2), time_quality="estimated")))
    assert await states(clinic) == [("pending", "opened", "P2")]


async def test_pregnancy_lowers_the_limit_and_skips_the_wait(clinic: Clinic) -> None:
    resident = await clinic.resident()
    facts = {"birth_date": "1996-01-01", "pregnant": True}
    assert await clinic.submit("facts", {"facts": facts}, resident) == "applied"
    await clinic.send(message(measurement(141, 85)))
    assert await states(clinic) == [("firing", "urgent", "P1")]


async def test_a_reported_symptom_turns_a_pending_value_into_an_emergency(clinic: Clinic) -> None:
    resident = await clinic.resident()
    await clinic.send(message(measurement(186, 112)))
    await clinic.submit("symptoms", {"answers": {"blurred_vision": "no", "eye_pain": "not_asked"}}, resident)
    assert ((await clinic.alert()) or {})["state"] == "pending"
    await clinic.submit("symptoms", {"answers": {"chest_tightness": "yes"}}, resident)
    assert (await states(clinic))[-1] == ("firing", "urgent", "P1")


async def test_a_missing_fact_is_asked_for_once_and_settled_when_recorded(clinic: Clinic) -> None:
    resident = await clinic.resident()
    await clinic.submit("facts", {"facts": {"birth_date": "1992-01-01"}}, resident)
    await clinic.send(message(measurement(150, 95)), message(measurement(151, 95)))
    item = await clinic.alert("missing_fact")
    assert item is not None
    assert (item["severity"], item["explanation"]["facts"]) == ("P4", ["lactating", "pregnant"])
    assert await clinic.value("select count(*) from alert") == 1
    await clinic.submit("facts", {"facts": {"pregnant": False, "lactating": False}}, resident)
    assert ((await clinic.alert("missing_fact")) or {})["state"] == "cleared"


async def test_adult_rules_never_fire_for_a_child(clinic: Clinic) -> None:
    await clinic.submit("facts", {"facts": {"birth_date": "2015-01-01"}}, await clinic.resident())
    await clinic.send(message(measurement(186, 112)))
    assert await clinic.alert() is None


async def test_two_unsatisfactory_visits_in_a_row_advise_referral(clinic: Clinic) -> None:
    resident = await clinic.resident()
    kiosk = {"device": town.KIOSK_CUFF, "setting": "kiosk", "checkin": "c-old"}
    await clinic.run(
        "insert into checkin values ('c-old', %s, %s, now() - interval '30 days', now(), now() + interval '1 day')", town.GATEWAY, resident
    )
    await clinic.send(*(message(measurement(155, 88, ago=timedelta(days=days), **kiosk)) for days in (20, 19, 12)))
    assert await clinic.alert("bp_control") is None, "the last visit is not over"
    await expire(clinic)
    await clinic.idle()
    alert = await clinic.alert("bp_control")
    assert alert is not None
    assert (alert["state"], alert["severity"], alert["why"]) == ("firing", "P3", "repeated")
    assert "155/88" in alert["explanation"]["zh"]
    assert len(alert["explanation"]["inputs"]) == 1
    await clinic.send(message(measurement(138, 80, ago=timedelta(days=1), **kiosk)))
    await expire(clinic)
    await clinic.idle()
    assert ((await clinic.alert("bp_control")) or {})["state"] == "cleared"


@pytest.mark.parametrize("at_a_time", [1, 6])
async def test_a_visit_says_what_its_session_says(clinic: Clinic, at_a_time: int) -> None:
    await clinic.submit("facts", {"facts": {"hypertension": True, "birth_date": "1960-01-01"}}, await clinic.resident())
    clinic_cuff = {"setting": "clinic", "time_quality": "estimated"}
    minute = timedelta(minutes=1)
    sent = [
        message(measurement(systolic, 80, ago=timedelta(days=days) - turn * minute, **clinic_cuff))
        for days in (20, 10)
        for turn, systolic in enumerate((166, 150, 140))  # 152: the mean of three, for the first two differ by ten
    ]
    for start in range(0, len(sent), at_a_time):
        await clinic.send(*sent[start : start + at_a_time])
    await expire(clinic)
    await clinic.idle()
    alert = await clinic.alert("bp_control")
    assert alert is not None
    assert "152/80" in alert["explanation"]["zh"]
    assert len(alert["explanation"]["inputs"]) == 3
    assert await clinic.value("select count(*) from alert_log l join alert a using (alert) where a.family = 'bp_control'") == 1


async def test_it_clears_after_two_calm_sessions_and_the_time_it_must_be_held(clinic: Clinic) -> None:
    # estimated times are judged like new ones, so that days fit into a test
    def old(systolic: float, hours: float) -> bytes:
        return message(measurement(systolic, 85, ago=timedelta(hours=hours), time_quality="estimated"))

    await clinic.send(old(186, 60), old(186, 59.9), old(165, 30), old(165, 29))
    assert [state for state, _, _ in await states(clinic)] == ["pending", "firing", "cleared"]
    await clinic.send(old(186, 1))
    assert await clinic.value("select count(*) from alert") == 2


async def test_only_one_alert_of_a_family_is_open_by_the_databases_promise(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112)))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await clinic.run(
            "insert into alert (subject, family, rule, pack, pack_digest, state, severity, why, opened_at, updated_at, explanation)"
            " select subject, family, rule, pack, pack_digest, 'firing', severity, why, now(), now(), explanation from alert"
        )


async def test_an_unattributed_danger_value_has_a_subject_all_the_same(clinic: Clinic) -> None:
    await clinic.submit("unbind", {"device": CUFF})
    await clinic.send(message(measurement(186, 112)))
    assert ((await clinic.alert()) or {})["subject"] == f"device:{CUFF}"
