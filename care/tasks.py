"""All SQL about tasks: made once by key, on somebody's list, done with a coded outcome; lapsing tells their owner."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from care import ladders
from care.calendar import Calendar
from care.ladder import resting
from care.task import AGAIN, MOST_TRIES, TRY_AGAIN
from vitals.alert import Severity
from vitals.errors import Refused
from vitals.floor.database import Connection


async def make(
    connection: Connection, key: str, kind: str, team: str, role: str, due: datetime, now: datetime, calendar: Calendar, *,
    resident: str | None = None, case: int | None = None, referral: int | None = None, place: str | None = None, owner: str | None = None,
    reason: str = "",
) -> int | None:  # fmt: skip
    """A task and the ladder for when it lapses; None when it was made before."""
    cursor = await connection.execute(
        "insert into task (key, kind, resident, care_case, referral, team, role, place, owner, reason, opened_at, due_at)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (key) do nothing returning task",
        (key, kind, resident, case, referral, team, role, place, owner, reason, now, due),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    number: int = row["task"]
    await ladders.lay(connection, resting(due, calendar), Severity.P3, now, task=number)
    await _log(connection, number, now, "system", "opened", reason)
    return number


async def _log(connection: Connection, task: int, at: datetime, actor: str, what: str, why: str = "") -> None:
    await connection.execute("insert into task_log (task, at, actor, what, why) values (%s, %s, %s, %s, %s)", (task, at, actor, what, why))


async def get(connection: Connection, task: int) -> dict[str, Any] | None:
    cursor = await connection.execute(
        "select t.*, r.name as resident_name from task t left join resident r using (resident) where t.task = %s", (task,)
    )
    return await cursor.fetchone()


async def finish(
    connection: Connection, task: int, version: int, outcome: str, note: str, measurement: int | None, by: str, now: datetime,
    calendar: Calendar,
) -> str:  # fmt: skip
    """Write what came of it; returns the state it is left in. Whoever was not reached is tried again, then looked in on by the sentinel.

    Raises Refused `unknown_task`, `stale_version`, `wrong_state`.
    """
    cursor = await connection.execute("select * from task where task = %s for update", (task,))
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_task")
    if row["version"] != version:
        raise Refused("stale_version", "somebody else changed this task; look again")
    if row["state"] != "open":
        raise Refused("wrong_state", "it is over")
    await _log(connection, task, now, by, outcome, note)
    if outcome in AGAIN:
        tries = await connection.execute("select count(*) as n from task_log where task = %s and what = any(%s)", (task, list(AGAIN)))
        count = ((await tries.fetchone()) or {"n": 0})["n"]
        due = max(row["due_at"], now + TRY_AGAIN)
        await connection.execute("update task set due_at = %s, version = version + 1 where task = %s", (due, task))
        await ladders.lay(connection, resting(due, calendar), Severity.P3, now, task=task)
        if count >= MOST_TRIES and row["kind"] != "home_check":
            await look_in(connection, f"home_check:{task}", row["resident"], row["team"], "联系不上 not reached", now, calendar)
        return "open"
    await end(connection, task, "done", outcome, by, now, note, measurement)
    return "done"


async def end(
    connection: Connection, task: int, state: str, outcome: str, by: str, now: datetime, note: str = "", measurement: int | None = None
) -> None:  # fmt: skip
    """It is over; nobody is told any more."""
    await connection.execute(
        "update task set state = %s, outcome = %s, note = %s, measurement = %s, ended_at = %s, ended_by = %s, version = version + 1"
        " where task = %s and state = 'open'",
        (state, outcome, note, measurement, now, by, task),
    )
    await ladders.stop(connection, now, task=task)


async def end_of(connection: Connection, referral: int, kinds: list[str], outcome: str, by: str, now: datetime) -> None:
    """The tasks of a referral that its next step answers."""
    cursor = await connection.execute("select task from task where referral = %s and kind = any(%s) and state = 'open'", (referral, kinds))
    for row in await cursor.fetchall():
        await end(connection, row["task"], "done", outcome, by, now)
        await _log(connection, row["task"], now, by, outcome)


async def look_in(
    connection: Connection, key: str, resident: str | None, team: str, reason: str, now: datetime, calendar: Calendar
) -> int | None:  # fmt: skip
    """Ask the sentinel of the resident's grid cell to look in on them; without one it is on the team's list."""
    cursor = await connection.execute(
        "with recursive up as (select region, parent from region where region = (select region from resident where resident = %s)"
        "   union all select r.region, r.parent from region r join up on r.region = up.parent)"
        " select up.region, m.staff from up join membership m on m.role = 'sentinel' and m.place = up.region limit 1",
        (resident,),
    )
    row = await cursor.fetchone()
    role, place, owner = ("sentinel", row["region"], row["staff"]) if row is not None else ("nurse", None, None)
    due = calendar.days_after(now, 1)
    return await make(
        connection, key, "home_check", team, role, due, now, calendar, resident=resident, place=place, owner=owner, reason=reason
    )


async def listing(
    connection: Connection, *, teams: list[str] | None, places: list[str], staff: str | None, overdue: datetime | None = None,
    limit: int = 500,
) -> list[dict[str, Any]]:  # fmt: skip
    """Open tasks of these teams (None: all), of these hospitals and grid cells, or owned by this person; the longest due first."""
    cursor = await connection.execute(
        "select t.*, r.name as resident_name, r.sex, r.birth_date from task t left join resident r using (resident)"
        " where t.state = 'open' and (%(teams)s::text[] is null or (t.team = any(%(teams)s) and t.role not in ('hospital', 'sentinel'))"
        "  or t.place = any(%(places)s) or t.owner = %(staff)s)"
        " and (%(overdue)s::timestamptz is null or t.due_at < %(overdue)s) order by t.due_at, t.task limit %(limit)s",
        {"teams": teams, "places": places, "staff": staff, "overdue": overdue, "limit": limit},
    )
    return await cursor.fetchall()


async def of_resident(connection: Connection, resident: str, limit: int = 30) -> list[dict[str, Any]]:
    """What is planned for a person and what was done, open ones first."""
    cursor = await connection.execute(
        "select * from task where resident = %s order by (state <> 'open'), due_at desc limit %s", (resident, limit)
    )
    return await cursor.fetchall()


async def history(connection: Connection, task: int) -> list[dict[str, Any]]:
    return await (await connection.execute("select * from task_log where task = %s order by entry", (task,))).fetchall()
