"""All SQL about the engine's state and timers. Memory is a cache of these rows; here it is filled and written back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.state import STATE, Array
from vitals.floor.columns import EPOCH, times
from vitals.floor.database import Connection

_NAMES = ", ".join(STATE.names or ())


def moment(value: int) -> datetime:
    """µs since the epoch → aware UTC."""
    return EPOCH + timedelta(microseconds=value)


class Timer(NamedTuple):
    subject: str
    rule: str
    due_at: datetime


async def due(connection: Connection, now: datetime, mine: Callable[[str], bool], limit: int = 1000) -> list[Timer]:
    """Take the timers that are due and ours, and journal their ticks; nobody else can take them in the meantime."""
    cursor = await connection.execute("select subject, rule from rule_timer where due_at <= %s order by due_at limit %s", (now, limit * 10))
    ours = [row for row in await cursor.fetchall() if mine(row["subject"])][:limit]
    if not ours:
        return []
    cursor = await connection.execute(
        "delete from rule_timer where (subject, rule) in"
        " (select subject, rule from rule_timer where due_at <= %s"
        "  and (subject, rule) in (select * from unnest(%s::text[], %s::text[])) for update skip locked)"
        " returning subject, rule, due_at",
        (now, [row["subject"] for row in ours], [row["rule"] for row in ours]),
    )
    timers = sorted((Timer(**row) for row in await cursor.fetchall()), key=lambda t: (t.due_at, t.subject, t.rule))
    if timers:
        await connection.execute(
            "insert into rule_tick (at, subject, rule, due_at) select %s, * from unnest(%s::text[], %s::text[], %s::timestamptz[])",
            (now, [t.subject for t in timers], [t.rule for t in timers], [t.due_at for t in timers]),
        )
    return timers


async def next_due(connection: Connection, mine: Callable[[str], bool]) -> datetime | None:
    """When the earliest timer of ours is due, as far as the next hundred of all show it."""
    cursor = await connection.execute("select subject, due_at from rule_timer order by due_at limit 100")
    return next((row["due_at"] for row in await cursor.fetchall() if mine(row["subject"])), None)


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
    changed = {rule: np.flatnonzero(state != before[rule]) for rule, state in after.items()}
    changed = {rule: at for rule, at in changed.items() if len(at)}
    if not changed:
        return
    rows = np.concatenate([after[rule][at] for rule, at in changed.items()])
    names = [subjects[number] for at in changed.values() for number in at.tolist()]
    rules = [rule for rule, at in changed.items() for _ in at]
    gone = rows == np.zeros(1, STATE)[0]
    await _delete(connection, "rule_state", names, rules, gone)
    await _delete(connection, "rule_timer", names, rules, rows["deadline"] <= 0)
    kept = np.flatnonzero(~gone)
    if len(kept):
        await connection.execute(
            f"insert into rule_state (subject, rule, {_NAMES})"  # noqa: S608  names of ours
            f" select subject, rule, {', '.join(f'{name} <> 0' if STATE[name].kind == 'b' else name for name in STATE.names or ())}"
            f" from unnest(%s::text[], %s::text[], {', '.join('%s' for _ in STATE.names or ())}) as n(subject, rule, {_NAMES})"
            " order by subject, rule on conflict (subject, rule) do update set"
            f" ({_NAMES}) = ({', '.join(f'excluded.{name}' for name in STATE.names or ())})",
            ([names[at] for at in kept], [rules[at] for at in kept], *(rows[kept][name].astype(np.int64) for name in STATE.names or ())),
        )
    waiting = np.flatnonzero(rows["deadline"] > 0)
    if len(waiting):
        await connection.execute(
            "insert into rule_timer (subject, rule, due_at) select * from unnest(%s::text[], %s::text[], %s) order by 1, 2"
            " on conflict (subject, rule) do update set due_at = excluded.due_at",
            ([names[at] for at in waiting], [rules[at] for at in waiting], times(rows["deadline"][waiting])),
        )


async def _delete(connection: Connection, table: str, subjects: list[str], rules: list[str], which: NDArray[np.bool_]) -> None:
    at = np.flatnonzero(which)
    if len(at):
        await connection.execute(
            f"delete from {table} t using unnest(%s::text[], %s::text[]) as g(subject, rule)"  # noqa: S608  two tables of ours
            " where t.subject = g.subject and t.rule = g.rule",
            ([subjects[number] for number in at], [rules[number] for number in at]),
        )
