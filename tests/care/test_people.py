"""People and places in the database: numbers that find somebody, households, guardians, contracts, shifts, holidays."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from api.accounts import Account
from api.worklists import Finish, TaskOutcome, finished
from care import contracts, plans, residents, staff
from care.identity import Seal
from tests.ingest.helpers import FIELD_KEY, Clinic
from vitals.errors import BadInput, Refused
from vitals.floor import database
from yizhan import town

pytestmark = pytest.mark.services
SEAL = Seal(FIELD_KEY)
ZONE = "Asia/Shanghai"


async def test_a_number_finds_one_person_and_stands_nowhere_in_clear(clinic: Clinic) -> None:
    today = datetime.now(UTC).date()
    number = town.identity_number(town.PEOPLE[0][2], town.PEOPLE[0][1], 1)
    async with await database.connect(clinic.conninfo) as connection:
        first = await clinic.resident()
        second = await clinic.resident(town.PEOPLE[1][3])
        assert await residents.found_by(connection, SEAL, "id_card", number.lower(), today) == [first]
        assert await residents.found_by(connection, Seal("another key of another place"), "id_card", number, today) == []
        with pytest.raises(Refused, match="identity_taken"):
            await residents.identify(connection, SEAL, second, {"id_card": number}, today, "nurse-zhao")
        with pytest.raises(BadInput, match="bad_id_number"):
            await residents.identify(connection, SEAL, second, {"id_card": number[:-1] + ("1" if number[-1] != "1" else "2")}, today, "x")
        await residents.identify(connection, SEAL, second, {"phone": "1390000 0001"}, today, "nurse-zhao")
        assert set(await residents.found_by(connection, SEAL, "phone", "13900000001", today)) == {first, second}, "a phone may be shared"
        assert (await residents.identities(connection, SEAL, first))["id_card"] == number
        cursor = await connection.execute("select i::text as row from resident_identity i union all select l::text from resident_log l")
        assert not any(number in row["row"] or "13900000001" in row["row"] for row in await cursor.fetchall())


async def test_a_guardian_looks_after_somebody_until_a_day(clinic: Clinic) -> None:
    today = datetime.now(UTC).date()
    parent, child = await clinic.resident(), await clinic.resident(town.PEOPLE[1][3])
    async with await database.connect(clinic.conninfo) as connection:
        assert not await residents.guards(connection, parent, child, today)
        await residents.guard(connection, child, parent, "母亲", today, "nurse-zhao")
        assert await residents.guards(connection, parent, child, today)
        assert not await residents.guards(connection, child, parent, today)
        assert not await residents.guards(connection, parent, child, today - timedelta(days=1))
        await connection.execute("update guardian set until = %s", (today,))
        assert not await residents.guards(connection, parent, child, today)
        number = await residents.household(connection, [parent, child], town.GRID)
        await residents.place(connection, child, town.GRID, "red", "dr-zhang")
        row = await residents.get(connection, child)
        assert row is not None
        assert (row["household"], row["tier"], row["region"]) == (number, "red", town.GRID)


async def test_a_person_has_one_contract_at_a_time_and_a_renewal_is_asked_for_each_time_it_runs_out(clinic: Clinic) -> None:
    resident, now = await clinic.resident(), datetime.now(UTC)
    today = now.date()
    async with await database.connect(clinic.conninfo) as connection:
        await connection.execute("delete from contract")
        await contracts.sign(connection, resident, town.DOCTOR, today - timedelta(days=350), until=today + timedelta(days=15))
        later = await contracts.sign(connection, resident, "dr-liu", today + timedelta(days=15))
        await contracts.end(connection, later, today + timedelta(days=400), "changed their mind", "dr-liu")
        with pytest.raises(Refused, match="already_ended"):
            await contracts.end(connection, later, today + timedelta(days=400), "again", "dr-liu")
        assert await contracts.expiring(connection, today, contracts.TERM) == [], "it has a successor"
        await contracts.sign(connection, resident, town.DOCTOR, today, until=today + timedelta(days=20))
        held = [row for row in await contracts.of_resident(connection, resident) if row["since"] is not None]
        assert [(row["since"], row["until"]) for row in held] == [
            (today, today + timedelta(days=20)), (today - timedelta(days=350), today),
        ]  # fmt: skip
        assert await plans.daily(connection, now, ZONE) > 0
        cursor = await connection.execute("select task, version from task where kind = 'renewal' and state = 'open'")
        (task,) = await cursor.fetchall()
        nurse = Account("nurse-1", "nurse", "nurse-zhao", (town.TEAM,))
        assert await finished(connection, nurse, task["task"], Finish(version=task["version"], outcome=TaskOutcome.RENEWED), ZONE) == "done"
        assert (await contracts.of_resident(connection, resident))[0]["until"] == today + timedelta(days=20) + contracts.TERM
        await plans.daily(connection, now + contracts.TERM, ZONE)
        cursor = await connection.execute("select count(*) as n from task where kind = 'renewal' and state = 'open'")
        assert await cursor.fetchone() == {"n": 1}, "a year later it is asked for again"
        await residents.leave(connection, resident, today, "deceased", "dr-zhang")
        with pytest.raises(Refused, match="deceased"):
            await contracts.sign(connection, resident, town.DOCTOR, today)


async def test_shifts_and_holidays_are_what_they_say(clinic: Clinic) -> None:
    now = datetime.now(UTC)

    async def duty(connection: Any) -> list[str]:
        return await staff.on_duty(connection, town.CENTRE, now)

    async with await database.connect(clinic.conninfo) as connection:
        assert await duty(connection) == []
        await staff.shift(connection, "dr-liu", town.CENTRE, now - timedelta(hours=1), now + timedelta(hours=1))
        assert await duty(connection) == ["dr-liu"]
        assert set((await staff.reach(connection, "dr-liu"))["teams"]) == {town.TEAM}
        with pytest.raises(Refused, match="bad_range"):
            await staff.shift(connection, "dr-liu", town.CENTRE, now, now)
        with pytest.raises(Refused, match="unknown_place"):
            await staff.appoint(connection, "dr-liu", "hospital", town.TEAM)
        monday = now.date() + timedelta(days=7 - now.weekday())
        await staff.set_day(connection, monday, False, "节日")
        calendar = await staff.calendar(connection, town.TEAM, now, ZONE)
        assert not calendar.works(monday)
        assert calendar.works(monday + timedelta(days=1))
        await staff.add_centre(connection, town.CENTRE, "清河社区卫生服务中心", town.DISTRICT, time(9), time(12))
        noon = datetime.combine(monday + timedelta(days=1), time(12, 30), ZoneInfo(ZONE))
        assert not (await staff.calendar(connection, town.TEAM, now, ZONE)).is_open(noon)


async def test_whoever_is_said_to_have_died_on_the_telephone_has_no_contract_any_more(clinic: Clinic) -> None:
    from api import queue
    from tests.ingest.helpers import measurement, message

    await clinic.run("update contract set during = daterange(%s, null)", date(2026, 1, 1))
    await clinic.send(message(measurement(186, 112)))
    case = (await clinic.rows("select care_case, version, resident from care_case"))[0]
    doctor = Account("doctor-1", "doctor", town.DOCTOR, (town.TEAM,))
    async with await database.connect(clinic.conninfo) as connection:
        await queue.act(connection, doctor, case["care_case"], "call", case["version"], ZONE, coded="deceased")
        row = await residents.get(connection, case["resident"])
    assert row is not None
    assert (row["deceased_on"] is not None, row["team"]) == (True, None)
