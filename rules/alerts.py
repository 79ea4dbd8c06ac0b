"""All SQL about alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from rules.state import Phase
from vitals.alert import OPEN_STATES, Change, Severity, State, Why, may_move
from vitals.floor.database import Connection

# what an alert is while a rule is in this phase
STATE_OF = {Phase.NORMAL: State.CLEARED, Phase.PENDING: State.PENDING, Phase.FIRING: State.FIRING, Phase.UNCONFIRMED: State.UNCONFIRMED}
_OPEN = [state.value for state in OPEN_STATES]


_ORDER = (State.FIRING, State.PENDING, State.UNCONFIRMED)  # what an alert is, of what its reasons are


async def move(connection: Connection, change: Change) -> Change | None:
    """Carry out one movement: open the episode or move the open one, and log it. None if nothing of it changed, or may.

    An alert is of a family; rules are its reasons, each with a state of its own, and it is what the worst of them says. A second rule
    that joins is appended, or worsens the alert; a rule that clears ends it only if it was the last.
    """
    cursor = await connection.execute(
        "select alert, state, severity, rule, reasons from alert where subject = %s and family = %s and state = any(%s) for update",
        (change.subject, change.family, _OPEN),
    )
    row = await cursor.fetchone()
    if row is None:
        return await _open(connection, change) if may_move(None, change.state) else None
    current = State(row["state"])
    if not may_move(current, change.state) and not row["reasons"].keys() - {change.rule}:
        return None
    moved = replace(change, alert=row["alert"])
    reasons = row["reasons"] if change.state is not State.CLOSED else {}
    before = reasons.get(change.rule)
    if change.why is Why.APPENDED and before is not None:
        severity = min(Severity(before["severity"]), change.severity)
        reasons[change.rule] = {"state": before["state"], "severity": severity}
    elif change.state in OPEN_STATES:
        reasons[change.rule] = {"state": change.state, "severity": change.severity}
    else:
        reasons.pop(change.rule, None)
    if reasons:
        moved = _together(moved, reasons, State(row["state"]), Severity(row["severity"]), alone=reasons.keys() <= {change.rule})
    ended = change.at if moved.state in (State.CLEARED, State.CLOSED) else None
    appended = moved.why is Why.APPENDED
    await connection.execute(
        "update alert set state = %s, severity = %s, updated_at = %s, ended_at = %s, reasons = %s,"
        " why = case when %s then why else %s end, deadline = case when %s then deadline else %s end,"
        " explanation = explanation || coalesce(%s, '{}'::jsonb) where alert = %s",
        (
            moved.state, moved.severity, change.at, ended, Jsonb(reasons), appended, moved.why, appended, moved.deadline,
            Jsonb(change.explanation) if change.explanation and not appended else None, moved.alert,
        ),
    )  # fmt: skip
    await _log(connection, moved)
    # that one of several reasons is gone is worth a line in the log, not a doctor's attention
    return None if reasons and change.state is State.CLEARED else moved


def _together(change: Change, reasons: dict[str, dict[str, str]], state: State, severity: Severity, *, alone: bool) -> Change:
    """The change of the alert that follows from the change of one of its reasons."""
    states = {one["state"] for one in reasons.values()}
    # a person may have been paged: what fires stays firing while any reason of it is left
    after = State.FIRING if state is State.FIRING else next(one for one in _ORDER if one in states)
    worst = min(Severity(one["severity"]) for one in reasons.values())
    if alone:
        return replace(change, state=after, severity=worst)
    if change.state is State.CLEARED:
        return replace(change, state=after, severity=worst)
    if (after, worst) == (state, severity) and change.why is not Why.APPENDED:
        return replace(change, state=after, severity=worst, why=Why.APPENDED)
    if after is state and worst < severity:
        return replace(change, state=after, severity=worst, why=Why.WORSENED)
    return replace(change, state=after, severity=worst)


async def _open(connection: Connection, change: Change) -> Change:
    cursor = await connection.execute(
        "insert into alert (subject, family, rule, pack, pack_digest, state, severity, why, opened_at, updated_at, deadline, explanation,"
        " reasons) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning alert",
        (
            change.subject, change.family, change.rule, change.explanation.get("pack", ""), change.explanation.get("pack_digest", ""),
            change.state, change.severity, change.why, change.at, change.at, change.deadline, Jsonb(change.explanation),
            Jsonb({change.rule: {"state": change.state, "severity": change.severity}}),
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
