"""Silence and trends: rules that the clock drives, and statistics of a person's own days."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import theilslopes

from rules import features
from rules.history import History, Reading
from tests.ingest.helpers import Clinic, measurement, message
from tests.rules.test_alerts import expire
from tests.rules.test_families import family
from yizhan import town

ZONE = ZoneInfo("Asia/Shanghai")
DAY = timedelta(days=1)
services = pytest.mark.services


async def due(clinic: Clinic, rule: str, days: int) -> None:
    """So many days pass, and that rule's deadline is a second ago."""
    await clinic.run("update rule_timer set due_at = now() - interval '1 second' where rule = %s", rule)
    await clinic.run(
        "update rule_state set deadline = (extract(epoch from now()) * 1000000)::bigint - 1000000, last = last - %s * 86400000000"
        " where rule = %s and deadline > 0", days, rule,
    )  # fmt: skip
    await clinic.idle()


@services
async def test_who_does_not_measure_as_planned_is_noticed_by_the_clock_alone(clinic: Clinic) -> None:
    resident = await clinic.resident()
    assert await clinic.submit("facts", {"facts": {"pressure_every_days": 0}}, resident) == "refused:bad_fact"
    await clinic.submit("facts", {"facts": {"pressure_every_days": 7}}, resident)
    wait = await clinic.value("select due_at - now() from rule_timer where rule = 'silence.pressure'")
    assert timedelta(days=13.9) < wait <= timedelta(days=14)
    await due(clinic, "silence.pressure", 13)
    assert await family(clinic, "silence") == [], "one day is left"
    await due(clinic, "silence.pressure", 2)
    assert await family(clinic, "silence") == [("firing", "silent", "P4")]
    await due(clinic, "silence.pressure", 7)
    assert (await family(clinic, "silence"))[-1] == ("firing", "worsened", "P3"), "the third miss is for the doctor"
    await clinic.send(message(measurement(130, 80)))
    assert (await family(clinic, "silence"))[-1][0] == "cleared"
    await clinic.submit("facts", {"facts": {"pressure_every_days": None}}, resident)
    assert await clinic.value("select count(*) from rule_timer where rule = 'silence.pressure'") == 0, "no plan, no silence"


@services
async def test_a_gateway_that_cannot_be_heard_is_no_silent_person(clinic: Clinic) -> None:
    await clinic.submit("facts", {"facts": {"pressure_every_days": 7}}, await clinic.resident())
    await clinic.send(message(measurement(130, 80, ago=timedelta(days=20), time_quality="estimated")))
    status = f"yz/1/{town.SITE}/{town.GATEWAY}/up/status"
    await clinic.send(b'{"state": "offline"}', b"what is this", topic=status)
    await due(clinic, "silence.pressure", 15)
    assert await family(clinic, "silence") == []
    assert await clinic.value("select count(*) from rule_timer where rule = 'silence.pressure'") == 1, "it is looked at again"
    await clinic.send(b'{"state": "online"}', topic=status)
    await due(clinic, "silence.pressure", 0)
    assert await family(clinic, "silence") == [("firing", "silent", "P4")]


@services
async def test_who_measures_as_planned_costs_no_state_until_the_timer_asks(clinic: Clinic) -> None:
    await clinic.submit("facts", {"facts": {"pressure_every_days": 7}}, await clinic.resident())
    before = await clinic.rows("select * from rule_state where rule = 'silence.pressure'")
    await clinic.send(message(measurement(130, 80, ago=timedelta(days=2), time_quality="estimated")))
    assert await clinic.rows("select * from rule_state where rule = 'silence.pressure'") == before
    await due(clinic, "silence.pressure", 15)
    assert await family(clinic, "silence") == [], "measured two days ago"
    wait = await clinic.value("select due_at - now() from rule_timer where rule = 'silence.pressure'")
    assert timedelta(days=11.9) < wait <= timedelta(days=12)


async def nights(clinic: Clinic, rates: list[float]) -> None:
    """So many nights of a band, the last of them this one; a night is three samples, and the day is another matter."""
    today = datetime.now(ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
    sent = []
    for back, rate in enumerate(reversed(rates)):
        midnight = today - (back + 1) * DAY
        for hour, value in ((2, rate - 1), (3, rate), (4, rate + 1), (15, 120.0)):
            at = midnight + timedelta(hours=hour)
            sent.append(measurement(
                kind="heart_rate", device="band-0001", setting="wearable", values={"heart_rate": value}, raw="", measured_at=at.isoformat(),
            ))  # fmt: skip
    for start in range(0, len(sent), 20):
        await clinic.send(message(*sent[start : start + 20]))


@services
async def test_two_nights_of_a_faster_heart_are_noticed_when_the_day_is_over(clinic: Clinic) -> None:
    await clinic.run("insert into device (device, kind, setting, site) values ('band-0001', 'heart_rate', 'wearable', %s)", town.SITE)
    await clinic.run(
        "insert into binding (device_no, resident, during) select device_no, %s, '[2020-01-01,)' from device where device = 'band-0001'",
        await clinic.resident(),
    )
    await nights(clinic, [60.0] * 15 + [65.0, 66.0])
    rows = await clinic.rows("select rule, due_at from rule_timer")
    assert [row["rule"] for row in rows] == ["@daily"]
    assert 4 <= rows[0]["due_at"].astimezone(ZONE).hour < 6, "in the night after"
    today = datetime.now(ZONE).date()
    async with await _connect(clinic) as connection:  # days that were over before: the worker writes only the last two
        from rules import daily

        subjects = [str(await clinic.resident())]
        await daily.write(connection, subjects, ["heart_rate"], today - 30 * DAY, today - 2 * DAY, ZONE)
        await connection.commit()
    await expire(clinic)
    await clinic.idle()
    assert await clinic.value("select count(*) from daily_value") == 17
    assert await clinic.value("select median from daily_value order by day desc limit 1") == 66.5, "the day counts in the day"
    assert await clinic.value("select night_median from daily_value order by day desc limit 1") == 66
    assert await family(clinic, "trend") == [("firing", "at_once", "P4")]
    told = (await clinic.alert("trend") or {})["explanation"]
    assert told["values"] == {"nights": 2.0, "heart_rate": 66.0}
    assert "连续 2 夜" in told["zh"]
    assert await clinic.value("select count(*) from case_log where what = 'paged'") == 0, "a statistic pages nobody"


async def _connect(clinic: Clinic) -> Any:
    from vitals.floor import database

    return await database.connect(clinic.conninfo)


def history(of: str, values: list[float], apart: timedelta = DAY, **about: Any) -> History:
    start = datetime(2026, 1, 5, 12, tzinfo=UTC)
    return History({}, [Reading(start + n * apart, {of: value}, about) for n, value in enumerate(values)])


def test_slopes_are_scipys_and_a_cosine_is_found_again() -> None:
    random = np.random.default_rng(3)
    values = (100 + 0.1 * np.arange(40) + random.normal(0, 2, 40)).tolist()
    found = features.slope(history("weight", values), of="weight", per_days=30, at_least=8, over_days=21)
    assert found == pytest.approx(30 * theilslopes(values, np.arange(40)).slope, abs=1e-5)

    hours = np.arange(0, 96, 1.0)
    clock = (12 + hours) % 24  # the history begins at noon
    noisy = 70 + 8 * np.cos(2 * math.pi * (clock - 16) / 24) + random.normal(0, 1, len(hours))

    def cosine(hour: Any, mesor: float, amplitude: float, peak: float) -> Any:
        return mesor + amplitude * np.cos(2 * math.pi * (hour - peak) / 24)

    fitted, _ = curve_fit(cosine, clock, noisy, p0=(70, 5, 15))
    person = history("heart_rate", noisy.tolist(), timedelta(hours=1))
    got = [features.cosinor(person, of="heart_rate", give=give, at_least=24) for give in ("mesor", "amplitude", "peak_hour")]
    assert got == pytest.approx(fitted.tolist(), abs=1e-3)
    assert features.cosinor(history("heart_rate", [70.0] * 30), of="heart_rate", give="mesor", at_least=24) is None, "one hour of the day"


def test_a_baseline_is_robust_frozen_and_silent_while_there_is_too_little() -> None:
    usual = [60.0, 62, 61, 59, 60, 61, 62, 60, 59, 61, 60, 200]  # one absurd night
    assert features.robust_z(history("spo2", [*usual, 66.0]), of="spo2", at_least=12, floor=1) == 5.5, (
        "the deviation is never less than the meter's step"
    )
    assert features.robust_z(history("spo2", [*usual[1:], 66.0]), of="spo2", at_least=12, floor=1) is None
    begun = history("weight", [70.0] * 14 + [74.0] * 10)
    frozen = History({}, [Reading(one.at, one.values, {"frozen": n >= 14}) for n, one in enumerate(begun.readings)])
    assert features.above_median(begun, of="weight", at_least=7) == 4.0
    later = history("weight", [70.0] * 14 + [74.0] * 20)
    assert features.above_median(later, of="weight", at_least=7) == 0.0, "the change has become the baseline"
    kept = History({}, [Reading(one.at, one.values, {"frozen": n >= 14}) for n, one in enumerate(later.readings)])
    assert features.above_median(kept, of="weight", at_least=7) == 4.0, "unless an alert is open about it"
    assert features.cusum(frozen, of="weight", recent=5, slack=1, floor=0.5, at_least=14) == pytest.approx(5 * 7)


def test_night_against_day() -> None:
    day, night = [130.0, 134, 132], [118.0, 120, 119]
    readings = [Reading(datetime(2026, 1, 5, 8 + n, tzinfo=UTC), {"systolic": v}, {"kind": "day"}) for n, v in enumerate(day)]
    readings += [Reading(datetime(2026, 1, 6, n, tzinfo=UTC), {"systolic": v}, {"kind": "night"}) for n, v in enumerate(night)]
    assert features.dipping(History({}, readings), of="systolic", at_least=3) == pytest.approx(100 * (1 - 119 / 132), abs=1e-5)
    assert features.dipping(History({}, readings[:5]), of="systolic", at_least=3) is None
