"""All SQL about cases. Every transition is one transaction with its log entry and its next clock, versioned against double clicks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from care import ladders, referrals
from care.calendar import Calendar
from care.case import CALLS, LONGEST_SNOOZE, CaseState, next_state
from care.ladder import acknowledge_by, calling, resting, working
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
    alert: int | None = None, why: str = "", coded: str | None = None,
) -> None:  # fmt: skip
    await connection.execute(
        "insert into case_log (care_case, at, actor, what, from_state, to_state, alert, why, coded)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (case, at, actor, what, before, after, alert, why, coded),
    )


async def join_alert(connection: Connection, case: int, alert: int) -> None:
    await connection.execute("insert into case_alert values (%s, %s) on conflict do nothing", (case, alert))


async def refresh(connection: Connection, case: int, now: datetime) -> None:
    """After an alert moved: severity follows the open alerts."""
    await connection.execute(
        "update care_case c set severity = coalesce((select min(a.severity) from case_alert l join alert a using (alert)"
        "   where l.care_case = c.care_case and a.state in ('pending', 'firing', 'unconfirmed')), c.severity),"
        " version = version + 1, updated_at = %s where care_case = %s",
        (now, case),
    )


async def call(connection: Connection, case: int, severity: Severity, now: datetime, calendar: Calendar) -> None:
    """Somebody must see it: a ladder begins, and a case that was acknowledged is so no longer."""
    rungs = calling(severity, now, calendar)
    await ladders.lay(connection, rungs, severity, now, case=case)
    await connection.execute(
        "update care_case set called = %s, paged_at = %s, ack_due_at = %s, snoozed_until = null,"
        " state = case when state in ('acknowledged', 'claimed') then 'open' else state end where care_case = %s",
        (severity, now, acknowledge_by(severity, rungs), case),
    )


async def get(connection: Connection, case: int) -> dict[str, Any] | None:
    """A case with the resident's name, for those who may see it."""
    cursor = await connection.execute(
        "select c.*, r.name as resident_name, r.sex, r.birth_date, t.name as team_name from care_case c"
        " left join resident r using (resident) join team t on t.team = c.team where c.care_case = %s",
        (case,),
    )
    return await cursor.fetchone()


# who is first is decided by the case alone; names and alerts are read of those who are shown
_ORDER = "(snoozed_until is not null and snoozed_until > now()), severity, (state <> 'open'), ack_due_at nulls last, opened_at"
_QUEUE = f"""
with first as (
  select care_case, subject, resident, team, state, severity, version, opened_at, updated_at, ack_due_at, claimed_by, acknowledged_by,
    snoozed_until from care_case
  where state not in ('resolved', 'dismissed') and (%(teams)s::text[] is null or team = any(%(teams)s))
    and (%(case)s::bigint is null or care_case = %(case)s)
  order by {_ORDER} limit %(limit)s
)
select first.*, r.name as resident_name, r.sex, r.birth_date,
  (select jsonb_agg(jsonb_build_object('alert', a.alert, 'family', a.family, 'state', a.state, 'severity', a.severity, 'why', a.why,
      'deadline', a.deadline, 'explanation', a.explanation) order by a.severity, a.alert)
    from case_alert l join alert a using (alert)
    where l.care_case = first.care_case and a.state in ('pending', 'firing', 'unconfirmed')) as alerts
from first left join resident r using (resident) order by {_ORDER}
"""  # noqa: S608  ours


async def queue(connection: Connection, teams: Sequence[str] | None, limit: int, case: int | None = None) -> list[dict[str, Any]]:
    """Cases that are not ended (or the one asked for), worst first: awake, severity, unacknowledged, then who waits longest."""
    cursor = await connection.execute(_QUEUE, {"teams": None if teams is None else list(teams), "case": case, "limit": limit})
    return await cursor.fetchall()


async def how_many(connection: Connection, teams: Sequence[str]) -> int:
    """Cases of these teams that are not ended."""
    cursor = await connection.execute(
        "select count(*) as n from care_case where team = any(%s) and state not in ('resolved', 'dismissed')", (list(teams),)
    )
    return int(((await cursor.fetchone()) or {"n": 0})["n"])


async def alerts_of(connection: Connection, case: int) -> list[int]:
    cursor = await connection.execute("select alert from case_alert where care_case = %s order by alert", (case,))
    return [row["alert"] for row in await cursor.fetchall()]


async def history(connection: Connection, case: int) -> list[dict[str, Any]]:
    cursor = await connection.execute("select * from case_log where care_case = %s order by entry", (case,))
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


async def act(
    connection: Connection, case: int, version: int, action: str, actor: str, now: datetime, calendar: Calendar, *,
    why: str = "", coded: str | None = None, to: str | None = None, until: datetime | None = None,
) -> None:  # fmt: skip
    """What a person does with a case, short of ending or referring it; the clock of whoever has it next begins.

    coded: outcome of a call. to: whom it is handed to. until: end of a snooze. Raises Refused `unknown_case`, `stale_version`,
    `wrong_state`, `unknown_outcome`, `unknown_doctor`, `bad_range`, `cannot_wait`.
    """
    row = await locked(connection, case, version)
    target = next_state(action, CaseState(row["state"]))
    severity = Severity(row["severity"])
    owner, team = row["claimed_by"], row["team"]
    if action == "call" and coded not in CALLS:
        raise Refused("unknown_outcome")
    if action == "snooze":
        if severity is Severity.P1:
            raise Refused("cannot_wait", "P1 is not put off")
        if until is None or not now < until <= now + LONGEST_SNOOZE:
            raise Refused("bad_range", f"until: at most {LONGEST_SNOOZE.days} days ahead")
    match action:
        case "claim":
            owner = actor
        case "release":
            owner = None
        case "hand_over":
            cursor = await connection.execute("select team from staff where staff = %s and left_on is null", (to,))
            found = await cursor.fetchone()
            if found is None or found["team"] is None or to == actor:
                raise Refused("unknown_doctor")
            owner, team = to, found["team"]
    seen = target is not CaseState.OPEN
    if action == "note":  # nothing else moves
        until = row["snoozed_until"]
    changes = {
        "state": target, "updated_at": now, "last_human_at": now, "claimed_by": owner, "team": team, "snoozed_until": until,
        "acknowledged_at": (row["acknowledged_at"] or now) if seen else None,
        "acknowledged_by": (row["acknowledged_by"] or actor) if seen else None,
        "ack_due_at": None if seen else row["ack_due_at"],
    }  # fmt: skip
    named = ", ".join(f"{name} = %({name})s" for name in changes)  # our own names
    await connection.execute(
        f"update care_case set {named}, version = version + 1 where care_case = %(case)s",  # noqa: S608
        {**changes, "case": case},
    )
    await log(connection, case, now, actor, action, row["state"], target, why=why if to is None else f"→ {to} {why}", coded=coded)
    if action in ("release", "hand_over"):
        await call(connection, case, severity, now, calendar)
    elif action == "snooze" and until is not None:
        await ladders.lay(connection, resting(until, calendar), severity, now, case=case)
    elif seen and action != "note":
        await ladders.lay(connection, working(severity, now, calendar), severity, now, case=case)


async def end(connection: Connection, case: int, version: int, action: str, actor: str, why: str, now: datetime) -> dict[str, Any]:
    """resolve or dismiss; returns the case as it was, whose alerts end with it."""
    row = await locked(connection, case, version)
    target = next_state(action, CaseState(row["state"]))
    await connection.execute(
        "update care_case set state = %s, version = version + 1, updated_at = %s, last_human_at = %s, ended_at = %s, ack_due_at = null,"
        " outcome = %s where care_case = %s",
        (target, now, now, now, why, case),
    )
    await log(connection, case, now, actor, action, row["state"], target, why=why)
    await ladders.stop(connection, now, case=case)
    return row


async def refer(
    connection: Connection, case: int, version: int, actor: str, hospital: str, urgency: str, reason: str, now: datetime, calendar: Calendar
) -> int:  # fmt: skip
    """The doctor refers: what the rules suggested, or what they did not; returns the referral.

    Raises Refused `no_resident` for a case that belongs to nobody: a device cannot be referred; `already_referred`, `unknown_hospital`.
    """
    row = await locked(connection, case, version)
    target = next_state("refer", CaseState(row["state"]))
    if row["resident"] is None:
        raise Refused("no_resident")
    await referrals.suggest(connection, case, row["resident"], urgency, [], now)
    waiting = next((one for one in reversed(await referrals.of_case(connection, case)) if one["state"] == "suggested"), None)
    if waiting is None:
        raise Refused("already_referred", "a referral of this case is under way")
    number: int = waiting["referral"]
    await referrals.step(
        connection, number, waiting["version"], "accept", "community", actor, now, calendar, why=reason, hospital=hospital, urgency=urgency
    )
    await connection.execute(
        "update care_case set state = %s, version = version + 1, updated_at = %s, last_human_at = %s, ack_due_at = null"
        " where care_case = %s",
        (target, now, now, case),
    )
    await log(connection, case, now, actor, "refer", row["state"], target, why=reason)
    await ladders.lay(connection, working(Severity.P4, now, calendar), Severity(row["severity"]), now, case=case)
    return number
