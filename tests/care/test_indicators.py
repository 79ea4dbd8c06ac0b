"""Indicators: who counts, who is lost, what a revision is, and what the last digits give away."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta

import pytest

from care import indicators
from care.indicator import at_goal, heaping, next_quarter, quarter_of, to_specification
from tests.ingest.helpers import Clinic, measurement, message
from vitals.floor import database
from yizhan import town

ZONE = "Asia/Shanghai"


def test_quarters_follow_each_other() -> None:
    days = [date(2025, 1, 1) + timedelta(days=n) for n in range(800)]
    assert all(quarter_of(day) <= day < next_quarter(quarter_of(day)) for day in days)
    assert {quarter_of(day).month for day in days} == {1, 4, 7, 10}
    of = indicators.quarter(date(2026, 7, 1), ZONE)
    assert (of.begin, of.last) == (datetime(2026, 6, 30, 16, tzinfo=UTC), date(2026, 9, 30))


@pytest.mark.parametrize(
    ("systolic", "diastolic", "age", "setting", "own", "good"),
    [
        (139, 89, 50, "clinic", {}, True), (140, 89, 50, "clinic", {}, False), (139, 90, 50, "clinic", {}, False),
        (149, 89, 65, "kiosk", {}, True), (150, 89, 65, "kiosk", {}, False), (140, 80, 64, "kiosk", {}, False),
        (134, 84, 50, "home", {}, True), (135, 84, 50, "home", {}, False), (134, 85, 50, "home", {}, False),
        (131, 79, 50, "clinic", {"goal_systolic": 130, "goal_diastolic": 80}, False), (129, 79, 50, "clinic", {"goal_systolic": 130}, True),
    ],
)  # fmt: skip
def test_at_goal_on_both_sides_of_each_number(
    systolic: float, diastolic: float, age: int, setting: str, own: dict[str, float], good: bool
) -> None:
    assert at_goal(systolic, diastolic, age, setting, own) is good


def test_to_specification_is_one_follow_up_for_each_quarter_managed() -> None:
    year = timedelta(days=400)
    assert [to_specification(visits, year) for visits in (0, 3, 4)] == [False, False, True]
    assert [to_specification(visits, timedelta(days=10)) for visits in (0, 1)] == [False, True]
    assert [to_specification(visits, timedelta(days=200)) for visits in (1, 2)] == [False, True]


def test_last_digits_give_a_writer_away_and_leave_a_device_alone() -> None:
    chance = random.Random(1)
    fair = [round(chance.gauss(138, 16)) for _ in range(2000)]
    even = [value // 2 * 2 for value in fair]
    rounded = [value if chance.random() < 0.5 else round(value / 10) * 10 for value in fair]
    shaved = [138 if value in (140, 141, 142) else value for value in fair]

    def judged(values: list[int]) -> bool:
        return heaping({value: values.count(value) for value in set(values)}).suspicious

    assert [judged(values) for values in (fair, even, rounded, shaved)] == [False, False, True, True]
    assert not judged([140] * 99), "too few to say"


@pytest.mark.services
async def test_who_is_lost_counts_as_not_controlled_and_late_data_make_a_revision(clinic: Clinic) -> None:
    now = datetime.now(UTC)
    of = indicators.quarter(quarter_of((now + timedelta(hours=8)).date()), ZONE)
    first, second = await clinic.resident(), await clinic.resident(town.PEOPLE[1][3])
    await clinic.send(message(measurement(128, 78)))

    async def figure(code: str = "htn_controlled", level: str = "team", place: str = town.TEAM) -> dict[str, object]:
        async with await database.connect(clinic.conninfo) as connection:
            (row,) = [r for r in await indicators.listing(connection, of.first, level, [place]) if r["code"] == code]
            return row | {"members": await indicators.members(connection, row["indicator"])}

    async def publish() -> int:
        async with await database.connect(clinic.conninfo) as connection:
            made = await indicators.publish(connection, of, now)
            await connection.commit()
            return made

    assert await publish() > 10
    told = await figure()
    assert (told["numerator"], told["denominator"], told["revision"]) == (1, 3, 1)
    members = {m["resident"]: m for m in told["members"]}  # type: ignore[attr-defined]
    assert members[first]["counted"]
    assert members[first]["measurements"] == [await clinic.value("select measurement from measurement")]
    assert (members[second]["counted"], members[second]["why"]) == (False, "not measured in the quarter")
    assert (await figure("signed"))["numerator"] == (await figure("signed"))["denominator"] == 3
    assert (await figure("htn_managed", "grid", town.GRID))["numerator"] == 0, "nobody was visited"
    assert await publish() == 0, "the same data are the same figures"

    await clinic.send(message(measurement(121, 70, device=town.PEOPLE[1][3])))
    assert await publish() > 0
    again = await figure()
    assert (again["numerator"], again["denominator"], again["revision"]) == (2, 3, 2)
    rows = await clinic.rows("select numerator, revision from indicator where code = 'htn_controlled' and level = 'team' order by revision")
    assert [(row["numerator"], row["revision"]) for row in rows] == [(1, 1), (2, 2)], "what was published stays"


@pytest.mark.services
async def test_cases_and_referrals_are_counted_with_their_readings(clinic: Clinic) -> None:
    now = datetime.now(UTC)
    of = indicators.quarter(quarter_of((now + timedelta(hours=8)).date()), ZONE)
    await clinic.send(message(measurement(186, 112, ago=timedelta(minutes=2))), message(measurement(188, 113)))
    await clinic.send(message(measurement(131, 81, device=town.KIOSK_CUFF, setting="kiosk")))
    await clinic.run("insert into referral_log (referral, at, actor, to_state) select referral, now(), 'dr', 'accepted' from referral")
    await clinic.run("update care_case set state = 'dismissed', ended_at = now()")
    async with await database.connect(clinic.conninfo) as connection:
        found = {(one.code, one.level): one for one in await indicators.computed(connection, of)}
    assert (found["acknowledged", "team"].numerator, found["acknowledged", "team"].denominator) == (0, 1)
    assert len(found["acknowledged", "team"].members[0].measurements) == 2
    assert (found["yield", "centre"].numerator, found["yield", "centre"].denominator) == (0, 1)
    assert (found["closed", "district"].numerator, found["closed", "district"].denominator) == (0, 1)
    assert (found["attributed", "centre"].numerator, found["attributed", "centre"].denominator) == (0, 1)
