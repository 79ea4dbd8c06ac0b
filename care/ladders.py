"""All SQL about the rungs of ladders: laid in the transaction that decided it, told once when due, stopped by whoever acts.

Exactly once is the row's doing: a rung is told in the transaction that locks it, writes its notices and marks it; whoever was frozen in
between has lost the lock and with it the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from care import notices, staff
from care.ladder import Role, Rung
from vitals.alert import Severity
from vitals.floor.database import Connection


async def lay(
    connection: Connection, ladder: Sequence[Rung], severity: Severity, now: datetime, *, case: int | None = None, task: int | None = None
) -> None:  # fmt: skip
    """A new ladder for a case or a task; what waits of the one before it is stopped."""
    await stop(connection, now, case=case, task=task)
    cursor = await connection.execute("select coalesce(max(page), 0) + 1 as page from rung where care_case = %s or task = %s", (case, task))
    row = await cursor.fetchone()
    assert row is not None
    await connection.execute(
        "insert into rung (care_case, task, page, level, role, severity, due_at, again) select %s, %s, %s, level, role, %s, due, again"
        " from unnest(%s::int[], %s::text[], %s::timestamptz[], %s::interval[]) as r(level, role, due, again)",
        (case, task, row["page"], severity, [r.level for r in ladder], [r.role.value for r in ladder], [r.due_at for r in ladder],
         [r.again for r in ladder]),
    )  # fmt: skip


async def stop(connection: Connection, now: datetime, *, case: int | None = None, task: int | None = None) -> None:
    """Nobody else needs to be told."""
    await connection.execute(
        "update rung set state = 'stopped', ended_at = %s where state = 'waiting' and (care_case = %s or task = %s)", (now, case, task)
    )


async def next_due(connection: Connection) -> datetime | None:
    """When the next rung is due."""
    row = await (await connection.execute("select min(due_at) as due from rung where state = 'waiting'")).fetchone()
    assert row is not None
    due: datetime | None = row["due"]
    return due


_OF_CASE = """
select r.rung, c.team, c.resident, c.state not in ('resolved', 'dismissed') as alive, coalesce(c.claimed_by, c.acknowledged_by) as owner,
  null as list, null as place
from rung r join care_case c using (care_case) where r.state = 'waiting' and r.due_at <= %s
order by r.due_at, r.level limit 1 for update of c skip locked
"""
_OF_TASK = """
select r.rung, t.team, t.resident, t.state = 'open' as alive, t.owner, t.role as list, t.place
from rung r join task t using (task) where r.state = 'waiting' and r.due_at <= %s
order by r.due_at, r.level limit 1 for update of t skip locked
"""


async def take(connection: Connection, now: datetime) -> dict[str, Any] | None:
    """The rung that is due longest, locked with what it is about; None when none is due, or others work on them.

    The case (the task) is locked before the rung, as whoever acts on it does.
    """
    for query in (_OF_CASE, _OF_TASK):
        about = await (await connection.execute(query, (now,))).fetchone()
        if about is None:
            continue
        rung = await (
            await connection.execute("select * from rung where rung = %s and state = 'waiting' for update", (about["rung"],))
        ).fetchone()
        if rung is None:  # told or stopped between the two: look again
            return await take(connection, now)
        cursor = await connection.execute(
            "select doctor from contract where resident = %s and during @> %s::date", (about["resident"], now)
        )
        signed = await cursor.fetchone()
        return {**about, **rung, "doctor": signed["doctor"] if signed is not None else None}
    return None


async def tell(connection: Connection, rung: dict[str, Any], now: datetime, zone: str) -> list[int]:
    """Tell whom a due rung means; returns the notices. A rung that means nobody hands over to the next one at once."""
    if not rung["alive"]:  # ended while the row waited: nothing to tell
        await connection.execute("update rung set state = 'stopped', ended_at = %s where rung = %s", (now, rung["rung"]))
        return []
    severity, role = Severity(rung["severity"]), Role(rung["role"])
    calendar = await staff.calendar(connection, rung["team"], now, zone)
    people = await staff.meant(connection, role, rung["team"], rung["owner"] or rung["doctor"], severity, calendar, now)
    if role is Role.OWNER and rung["place"] is not None:  # on a hospital's or a grid's list: theirs, and whoever waits for it
        people = list(dict.fromkeys([*await staff.with_role(connection, [rung["list"]], rung["place"], now), *people]))
    made = await notices.put(connection, rung, people, now)
    await connection.execute("update rung set state = 'told', ended_at = %s, told = %s where rung = %s", (now, people, rung["rung"]))
    subject = (rung["care_case"], rung["task"], rung["page"])
    if rung["again"] is not None:
        await connection.execute(
            "insert into rung (care_case, task, page, level, round, role, severity, due_at, again)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (*subject, rung["level"], rung["round"] + 1, role, severity, now + rung["again"], rung["again"]),
        )
    elif not people:
        await connection.execute(
            "update rung set due_at = least(due_at, %s) where rung = (select rung from rung where state = 'waiting'"
            " and (care_case = %s or task = %s) and page = %s order by level limit 1)",
            (now, *subject),
        )
    await _write_down(connection, rung, people, now)
    return made


async def _write_down(connection: Connection, rung: dict[str, Any], people: Sequence[str], now: datetime) -> None:
    words = f"{rung['role']}: {', '.join(people) or 'nobody'}"
    if rung["task"] is not None:
        await connection.execute(
            "insert into task_log (task, at, actor, what, why) values (%s, %s, 'system', 'told', %s)", (rung["task"], now, words)
        )
        return
    await connection.execute(
        "insert into case_log (care_case, at, actor, what, from_state, to_state, why)"
        " select care_case, %s, 'system', 'told', state, state, %s from care_case where care_case = %s",
        (now, words, rung["care_case"]),
    )
    # the queue shows the next clock: whoever is told next
    await connection.execute(
        "update care_case set ack_due_at = (select min(due_at) from rung where care_case = %s and state = 'waiting'), updated_at = %s"
        " where care_case = %s and state = 'open'",
        (rung["care_case"], now, rung["care_case"]),
    )


async def of_case(connection: Connection, case: int) -> list[dict[str, Any]]:
    """The rungs of the present ladder, in order."""
    cursor = await connection.execute(
        "select level, round, role, due_at, state, told from rung where care_case = %s"
        " and page = (select max(page) from rung where care_case = %s) order by level, round",
        (case, case),
    )
    return await cursor.fetchall()
