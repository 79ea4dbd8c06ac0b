"""All SQL about cases and referrals. Every transition is one statement with its log entry, versioned against double clicks."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from care.case import FOLLOW_UP, CaseState, next_state
from care.residents import Route
from vitals.alert import Severity
from vitals.errors import Refused
from vitals.floor.database import Connection


async def active_of(connection: Connection, subject: str) -> dict[str, Any] | None:
    """The subject's case that is not ended, locked."""
    cursor = await connection.execute(
        "select * from care_case where subject = %s and state not in ('resolved', 'dismissed') for update", (subject,)
    )
    return await cursor.fetchone()


async def open_new(connection: Connection, subject: str, resident: str | None, route: Route, severity: Severity, now: datetime) -> int:
    cursor = await connection.execute(
        "insert into care_case (subject, resident, team, routed_by, state, severity, opened_at, updated_at)"
        " values (%s, %s, %s, %s, 'open', %s, %s, %s) returning care_case",
        (subject, resident, route.team, route.routed_by, severity, now, now),
    )
    row = await cursor.fetchone()
    assert row is not None
    await log(connection, row["care_case"], now, "system", "opened", None, CaseState.OPEN)
    number: int = row["care_case"]
    return number


async def log(
    connection: Connection, case: int, at: datetime, actor: str, what: str, before: str | None, after: str,
    alert: int | None = None, why: str = "",
) -> None:  # fmt: skip
    await connection.execute(
        "insert into case_log (care_case, at, actor, what, from_state, to_state, alert, why) values (%s, %s, %s, %s, %s, %s, %s, %s)",
        (case, at, actor, what, before, after, alert, why),
    )


async def join_alert(connection: Connection, case: int, alert: int) -> None:
    await connection.execute("insert into case_alert values (%s, %s) on conflict do nothing", (case, alert))


async def refresh(
    connection: Connection, case: int, now: datetime, *, paged: bool, again: bool, ack_due: datetime | None
) -> None:  # fmt: skip
    """After an alert moved: severity follows the open alerts; a page starts the clock, a second one unacknowledges."""
    await connection.execute(
        "update care_case c set severity = coalesce((select min(a.severity) from case_alert l join alert a using (alert)"
        "   where l.care_case = c.care_case and a.state in ('pending', 'firing', 'unconfirmed')), c.severity),"
        " paged_at = case when %s then %s else paged_at end,"
        " ack_due_at = least(ack_due_at, %s),"
        " state = case when %s and state = 'acknowledged' then 'open' else state end,"
        " version = version + 1, updated_at = %s where care_case = %s",
        (paged, now, ack_due, again, now, case),
    )


async def get(connection: Connection, case: int) -> dict[str, Any] | None:
    """A case with the resident's name, for those who may see it."""
    cursor = await connection.execute(
        "select c.*, r.name as resident_name, r.sex, r.birth_date, t.name as team_name from care_case c"
        " left join resident r using (resident) join team t on t.team = c.team where c.care_case = %s",
        (case,),
    )
    return await cursor.fetchone()


async def queue(connection: Connection, team: str | None, limit: int, case: int | None = None) -> list[dict[str, Any]]:
    """Cases that are not ended (or the one asked for), worst first: severity, unacknowledged, then who waits longest."""
    cursor = await connection.execute(
        "select c.care_case, c.subject, c.resident, c.team, c.state, c.severity, c.version, c.opened_at, c.updated_at, c.ack_due_at,"
        " c.claimed_by, c.acknowledged_by, r.name as resident_name, r.sex, r.birth_date,"
        " (select jsonb_agg(jsonb_build_object('alert', a.alert, 'family', a.family, 'state', a.state, 'severity', a.severity,"
        "   'why', a.why, 'deadline', a.deadline, 'explanation', a.explanation) order by a.severity, a.alert)"
        "  from case_alert l join alert a using (alert) where l.care_case = c.care_case"
        "  and a.state in ('pending', 'firing', 'unconfirmed')) as alerts"
        " from care_case c left join resident r using (resident)"
        " where c.state not in ('resolved', 'dismissed') and (%s::text is null or c.team = %s)"
        " and (%s::bigint is null or c.care_case = %s)"
        " order by c.severity, (c.state <> 'open'), c.ack_due_at nulls last, c.opened_at limit %s",
        (team, team, case, case, limit),
    )
    return await cursor.fetchall()


async def alerts_of(connection: Connection, case: int) -> list[int]:
    cursor = await connection.execute("select alert from case_alert where care_case = %s order by alert", (case,))
    return [row["alert"] for row in await cursor.fetchall()]


async def history(connection: Connection, case: int) -> list[dict[str, Any]]:
    cursor = await connection.execute("select * from case_log where care_case = %s order by entry", (case,))
    return await cursor.fetchall()


async def referrals_of(connection: Connection, case: int) -> list[dict[str, Any]]:
    cursor = await connection.execute("select * from referral where care_case = %s order by referral", (case,))
    return await cursor.fetchall()


async def locked(connection: Connection, case: int, version: int) -> dict[str, Any]:
    """The case, locked, if it still is what the caller saw. Raises Refused `unknown_case` or `stale_version`."""
    cursor = await connection.execute("select * from care_case where care_case = %s for update", (case,))
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_case")
    if row["version"] != version:
        raise Refused("stale_version", "somebody else changed this case; look again")
    return row


async def act(connection: Connection, case: int, version: int, action: str, actor: str, now: datetime, why: str = "") -> None:
    """acknowledge or claim: one transition with its log entry."""
    row = await locked(connection, case, version)
    target = next_state(action, CaseState(row["state"]))
    await connection.execute(
        "update care_case set state = %s, version = version + 1, updated_at = %s, last_human_at = %s,"
        " acknowledged_at = coalesce(acknowledged_at, %s), acknowledged_by = coalesce(acknowledged_by, %s), ack_due_at = null,"
        " claimed_by = case when %s = 'claim' then %s else claimed_by end where care_case = %s",
        (target, now, now, now, actor, action, actor, case),
    )
    await log(connection, case, now, actor, f"{action}{'d' if action.endswith('e') else 'ed'}", row["state"], target, why=why)


async def end(connection: Connection, case: int, version: int, action: str, actor: str, why: str, now: datetime) -> str:
    """resolve or dismiss; returns the subject whose alerts end with it."""
    row = await locked(connection, case, version)
    target = next_state(action, CaseState(row["state"]))
    await connection.execute(
        "update care_case set state = %s, version = version + 1, updated_at = %s, last_human_at = %s, ended_at = %s, ack_due_at = null,"
        " outcome = %s where care_case = %s",
        (target, now, now, now, why, case),
    )
    await log(connection, case, now, actor, target, row["state"], target, why=why)
    subject: str = row["subject"]
    return subject


async def refer(
    connection: Connection, case: int, version: int, actor: str, hospital: str, urgency: str, reason: str, now: datetime
) -> int:  # fmt: skip
    """The doctor refers: the referral is suggested by the rules and accepted by the doctor in one act.

    Raises Refused `no_resident` for a case that belongs to nobody: a device cannot be referred.
    """
    row = await locked(connection, case, version)
    target = next_state("refer", CaseState(row["state"]))
    if row["resident"] is None:
        raise Refused("no_resident")
    due: date = (now + FOLLOW_UP).date()
    cursor = await connection.execute(
        "insert into referral (care_case, resident, state, urgency, hospital, reason, suggested_at, follow_up_due)"
        " values (%s, %s, 'accepted', %s, %s, %s, %s, %s) returning referral",
        (case, row["resident"], urgency, hospital, reason, now, due),
    )
    made = await cursor.fetchone()
    assert made is not None
    for before, after in ((None, "suggested"), ("suggested", "accepted")):
        await connection.execute(
            "insert into referral_log (referral, at, actor, from_state, to_state, why) values (%s, %s, %s, %s, %s, %s)",
            (made["referral"], now, actor, before, after, reason),
        )
    await connection.execute(
        "update care_case set state = %s, version = version + 1, updated_at = %s, last_human_at = %s, ack_due_at = null"
        " where care_case = %s",
        (target, now, now, case),
    )
    await log(connection, case, now, actor, "referred", row["state"], target, why=reason)
    number: int = made["referral"]
    return number
