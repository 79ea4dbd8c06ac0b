"""All SQL about alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from vitals.alert import OPEN_STATES, Change, Severity, State, Why, may_move
from vitals.floor.database import Connection

_OPEN = [state.value for state in OPEN_STATES]


async def move(connection: Connection, change: Change) -> Change | None:
    """Carry out one movement: open the episode or move the open one, and log it. None if the table forbids it.

    An append keeps the alert's state and the more severe severity; the rest of the change replaces what was there.
    """
    cursor = await connection.execute(
        "select alert, state, severity, rule from alert where subject = %s and family = %s and state = any(%s) for update",
        (change.subject, change.family, _OPEN),
    )
    row = await cursor.fetchone()
    current = State(row["state"]) if row is not None else None
    if not may_move(current, change.state):
        return None
    if row is None:
        return await _open(connection, change)
    severity = min(Severity(row["severity"]), change.severity) if change.why is Why.APPENDED else change.severity
    moved = replace(change, alert=row["alert"], severity=severity)
    ended = change.at if change.state in (State.CLEARED, State.CLOSED) else None
    explanation = Jsonb(change.explanation) if change.explanation and change.why is not Why.APPENDED else None
    await connection.execute(
        "update alert set state = %s, severity = %s, updated_at = %s, ended_at = %s,"
        " why = case when %s = 'appended' then why else %s end,"
        " deadline = case when %s = 'appended' then deadline else %s end,"
        " explanation = explanation || coalesce(%s, '{}'::jsonb) where alert = %s",
        (
            moved.state, severity, change.at, ended, change.why, change.why, change.why, change.deadline, explanation, moved.alert,
        ),
    )  # fmt: skip
    await _log(connection, moved)
    return moved


async def _open(connection: Connection, change: Change) -> Change:
    cursor = await connection.execute(
        "insert into alert (subject, family, rule, pack, pack_digest, state, severity, why, opened_at, updated_at, deadline, explanation)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning alert",
        (
            change.subject, change.family, change.rule, change.explanation.get("pack", ""), change.explanation.get("pack_digest", ""),
            change.state, change.severity, change.why, change.at, change.at, change.deadline, Jsonb(change.explanation),
        ),
    )  # fmt: skip
    row = await cursor.fetchone()
    assert row is not None
    opened = replace(change, alert=row["alert"])
    await _log(connection, opened)
    return opened


async def _log(connection: Connection, change: Change) -> None:
    await connection.execute(
        "insert into alert_log (alert, n, at, state, severity, why, measurement, explanation)"
        " select %s, coalesce(max(n), 0) + 1, %s, %s, %s, %s, %s, %s from alert_log where alert = %s",
        (
            change.alert, change.at, change.state, change.severity, change.why, change.measurement, Jsonb(change.explanation), change.alert,
        ),
    )  # fmt: skip


async def open_of(connection: Connection, subjects: Sequence[str], family: str | None = None) -> list[dict[str, Any]]:
    """Open alerts of subjects, of one family or of all."""
    cursor = await connection.execute(
        "select * from alert where subject = any(%s) and state = any(%s) and (%s::text is null or family = %s) order by alert",
        (list(subjects), _OPEN, family, family),
    )
    return await cursor.fetchall()


async def rests_on(connection: Connection, alert: int, measurements: set[int]) -> bool:
    """Whether any of these measurements moved the alert."""
    cursor = await connection.execute(
        "select 1 from alert_log where alert = %s and measurement = any(%s) limit 1", (alert, sorted(measurements))
    )
    return await cursor.fetchone() is not None


async def close_all(connection: Connection, subject: str, now: datetime) -> list[Change]:
    """A person ended the episode: every open alert of the subject is closed."""
    changes = []
    for row in await open_of(connection, [subject]):
        moved = await move(
            connection, Change(subject, row["family"], row["rule"], State.CLOSED, Severity(row["severity"]), Why.CLOSED, now)
        )
        if moved is not None:
            changes.append(moved)
    return changes


async def by_number(connection: Connection, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Alerts with their log, oldest first."""
    cursor = await connection.execute("select * from alert where alert = any(%s) order by alert", (list(numbers),))
    found = await cursor.fetchall()
    cursor = await connection.execute("select * from alert_log where alert = any(%s) order by alert, n", (list(numbers),))
    log = await cursor.fetchall()
    for row in found:
        row["log"] = [entry for entry in log if entry["alert"] == row["alert"]]
    return found
