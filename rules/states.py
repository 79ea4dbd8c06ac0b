"""All SQL about the engine's state and timers. Memory is a cache of these rows; here it is filled and written back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from rules.engine import STATE, Array
from vitals.floor.database import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Aware time → µs since the epoch."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """µs since the epoch → aware UTC."""
    return _EPOCH + timedelta(microseconds=value)


class Timer(NamedTuple):
    subject: str
    rule: str
    due_at: datetime


async def due(connection: Connection, now: datetime, limit: int = 1000) -> list[Timer]:
    """Take the timers that are due and journal their ticks; nobody else can take them in the meantime."""
    cursor = await connection.execute(
        "delete from rule_timer where (subject, rule) in"
        " (select subject, rule from rule_timer where due_at <= %s order by due_at limit %s for update skip locked)"
        " returning subject, rule, due_at",
        (now, limit),
    )
    timers = sorted((Timer(**row) for row in await cursor.fetchall()), key=lambda t: (t.due_at, t.subject, t.rule))
    if timers:
        await connection.execute(
            "insert into rule_tick (at, subject, rule, due_at) select %s, * from unnest(%s::text[], %s::text[], %s::timestamptz[])",
            (now, [t.subject for t in timers], [t.rule for t in timers], [t.due_at for t in timers]),
        )
    return timers


async def next_due(connection: Connection) -> datetime | None:
    row = await (await connection.execute("select min(due_at) as due from rule_timer")).fetchone()
    return row["due"] if row is not None else None


async def read(connection: Connection, subjects: Sequence[str], rules: Sequence[str]) -> dict[str, Array]:
    """rule → state of the given subjects (m,), zero where nothing is stored."""
    found = {rule: np.zeros(len(subjects), STATE) for rule in rules}
    position = {subject: number for number, subject in enumerate(subjects)}
    cursor = await connection.execute(
        "select * from rule_state where subject = any(%s) order by subject, rule for update", (list(subjects),)
    )
    for row in await cursor.fetchall():
        if row["rule"] in found:
            found[row["rule"]][position[row["subject"]]] = tuple(row[name] for name in STATE.names or ())
    return found


async def write(connection: Connection, subjects: Sequence[str], before: dict[str, Array], after: dict[str, Array]) -> None:
    """Write the rows that changed, and the timers that follow from their deadlines."""
    names = STATE.names or ()
    for rule, state in after.items():
        for number in np.flatnonzero(state != before[rule]).tolist():
            subject, row = subjects[number], state[number]
            if row == np.zeros(1, STATE)[0]:
                await connection.execute("delete from rule_state where subject = %s and rule = %s", (subject, rule))
            else:
                values: list[Any] = [row[name].item() for name in names]
                await connection.execute(
                    "insert into rule_state (subject, rule, phase, first, last, deadline, clears, last_clear, weak, count)"
                    " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (subject, rule) do update set"
                    " (phase, first, last, deadline, clears, last_clear, weak, count) = (excluded.phase, excluded.first, excluded.last,"
                    " excluded.deadline, excluded.clears, excluded.last_clear, excluded.weak, excluded.count)",
                    (subject, rule, *values),
                )
            if row["deadline"] > 0:
                await connection.execute(
                    "insert into rule_timer (subject, rule, due_at) values (%s, %s, %s)"
                    " on conflict (subject, rule) do update set due_at = excluded.due_at",
                    (subject, rule, moment(int(row["deadline"]))),
                )
            else:
                await connection.execute("delete from rule_timer where subject = %s and rule = %s", (subject, rule))
