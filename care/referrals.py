"""All SQL about referrals: each step one transaction with its log entry, its clock, and a version against double clicks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from care import tasks
from care.calendar import Calendar
from care.referral import ANSWER, FOLLOW_UP, Stage, next_stage
from vitals.errors import Refused
from vitals.floor.database import Connection

ANSWERED = ["referral_answer"]


async def suggest(
    connection: Connection, case: int, resident: str, urgency: str, criteria: Sequence[Mapping[str, Any]], now: datetime
) -> int | None:  # fmt: skip
    """The rules suggest one, with the criteria met; None when the case has one under way. A later alert adds its criterion."""
    cursor = await connection.execute(
        "insert into referral (care_case, resident, state, urgency, hospital, reason, suggested_at, follow_up_due, criteria, updated_at)"
        " values (%s, %s, 'suggested', %s, '', '', %s, %s, %s, %s) on conflict (care_case)"
        " where state not in ('rejected', 'community', 'cancelled') do nothing returning referral",
        (case, resident, urgency, now, (now + FOLLOW_UP).date(), Jsonb(list(criteria)), now),
    )
    row = await cursor.fetchone()
    if row is not None:
        await _log(connection, row["referral"], now, "system", None, Stage.SUGGESTED, "")
        return int(row["referral"])
    await connection.execute(
        "update referral set criteria = criteria || %s, urgency = case when %s = 'emergency' then 'emergency' else urgency end"
        " where care_case = %s and state = 'suggested' and not criteria @> %s",
        (Jsonb(list(criteria)), urgency, case, Jsonb(list(criteria))),
    )
    return None


async def _log(connection: Connection, referral: int, at: datetime, actor: str, before: str | None, after: str, why: str) -> None:
    await connection.execute(
        "insert into referral_log (referral, at, actor, from_state, to_state, why) values (%s, %s, %s, %s, %s, %s)",
        (referral, at, actor, before, after, why),
    )


async def get(connection: Connection, referral: int) -> dict[str, Any] | None:
    """A referral with the person's name, the case's team and the hospital's name."""
    cursor = await connection.execute(
        "select f.*, r.name as resident_name, r.sex, r.birth_date, c.team, t.name as team_name, h.name as hospital_name from referral f"
        " join resident r using (resident) join care_case c using (care_case) join team t on t.team = c.team"
        " left join hospital h on h.hospital = f.hospital_id where f.referral = %s",
        (referral,),
    )
    return await cursor.fetchone()


async def history(connection: Connection, referral: int) -> list[dict[str, Any]]:
    cursor = await connection.execute("select * from referral_log where referral = %s order by entry", (referral,))
    return await cursor.fetchall()


async def board(connection: Connection, *, teams: list[str] | None, hospitals: list[str] | None, limit: int = 500) -> list[dict[str, Any]]:
    """Referrals under way of these teams or sent to these hospitals, with the clock that runs; the most pressing first."""
    cursor = await connection.execute(
        "select f.referral, f.care_case, f.resident, f.state, f.urgency, f.hospital_id, coalesce(h.name, f.hospital) as hospital,"
        " f.suggested_at, f.updated_at, f.booked_for, f.version, r.name as resident_name, r.sex, r.birth_date, c.team, t.name as team_name,"
        " (select min(due_at) from task k where k.referral = f.referral and k.state = 'open') as due_at"
        " from referral f join resident r using (resident) join care_case c using (care_case) join team t on t.team = c.team"
        " left join hospital h on h.hospital = f.hospital_id"
        " where f.state not in ('rejected', 'community', 'cancelled')"
        " and ((%(teams)s::text[] is null and %(hospitals)s::text[] is null) or c.team = any(%(teams)s)"
        "  or (f.hospital_id = any(%(hospitals)s) and f.state <> 'suggested'))"
        " order by due_at nulls last, f.referral limit %(limit)s",
        {"teams": teams, "hospitals": hospitals, "limit": limit},
    )
    return await cursor.fetchall()


async def step(
    connection: Connection, referral: int, version: int, action: str, side: str, actor: str, now: datetime, calendar: Calendar, *,
    why: str = "", hospital: str | None = None, urgency: str | None = None,
    booked_for: datetime | None = None, targets: Mapping[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One step by one side; returns the referral as it was before.

    Raises Refused `unknown_referral`, `stale_version`, `wrong_state`, `wrong_side`, `unknown_hospital`, `incomplete`.
    """
    cursor = await connection.execute(
        "select f.*, c.team from referral f join care_case c using (care_case) where f.referral = %s for update of f", (referral,)
    )
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_referral")
    if row["version"] != version:
        raise Refused("stale_version", "somebody else changed this referral; look again")
    after = next_stage(action, Stage(row["state"]), side)
    changes: dict[str, Any] = {"state": after, "updated_at": now}
    match action:
        case "accept":
            changes |= await _destination(connection, hospital, why) | {"urgency": urgency or row["urgency"]}
        case "book":
            if booked_for is None or booked_for <= now:
                raise Refused("incomplete", "booked_for: when, in the future")
            changes |= {"booked_for": booked_for}
        case "see":
            changes |= {"seen_at": now}
        case "report":
            changes |= {"outcome": _needed(why, "diagnosis and plan")}
        case "suggest_down":
            changes |= {"targets": Jsonb(dict(targets or {}))}
        case "reject" | "cancel":
            _needed(why, "why")
    named = ", ".join(f"{name} = %({name})s" for name in changes)  # our own names
    statement = f"update referral set {named}, version = version + 1 where referral = %(referral)s"  # noqa: S608
    await connection.execute(statement, {**changes, "referral": referral})
    await _log(connection, referral, now, actor, row["state"], after, why)
    await _clocks(connection, row | changes, action, actor, now, calendar)
    return row


def _needed(text: str, what: str) -> str:
    if not text.strip():
        raise Refused("incomplete", what)
    return text


async def _destination(connection: Connection, hospital: str | None, why: str) -> dict[str, Any]:
    cursor = await connection.execute("select name from hospital where hospital = %s", (hospital,))
    found = await cursor.fetchone()
    if found is None:
        raise Refused("unknown_hospital")
    return {"hospital_id": hospital, "hospital": found["name"], "reason": _needed(why, "why")}


async def _clocks(connection: Connection, row: dict[str, Any], action: str, actor: str, now: datetime, calendar: Calendar) -> None:
    """End the clocks this step answers, start the ones it begins."""
    referral, team, resident = row["referral"], row["team"], row["resident"]
    about = {"resident": resident, "referral": referral, "case": row["care_case"]}
    if action in ("book", "see", "reject", "cancel"):
        await tasks.end_of(connection, referral, ANSWERED, action, actor, now)
    if action in ("accept_down", "cancel", "reject"):
        await tasks.end_of(connection, referral, ["down_answer"], action, actor, now)
    if action in ("accept_down", "reject", "cancel"):
        await tasks.end_of(connection, referral, ["referral_follow_up"], action, actor, now)

    async def begin(kind: str, role: str, due: datetime, place: str | None = None) -> None:
        await tasks.make(connection, f"{kind}:{referral}:{action}", kind, team, role, due, now, calendar, place=place, **about)

    match action:
        case "accept":
            await begin("referral_answer", "hospital", now + ANSWER[row["urgency"]], row["hospital_id"])
            await begin("referral_follow_up", "family_doctor", now + FOLLOW_UP)
        case "suggest_down":
            await begin("down_answer", "family_doctor", now + ANSWER["routine"])
        case "accept_down":
            await begin("referral_follow_up", "family_doctor", now + FOLLOW_UP)


async def of_case(connection: Connection, case: int) -> list[dict[str, Any]]:
    cursor = await connection.execute(
        "select f.*, h.name as hospital_name from referral f left join hospital h on h.hospital = f.hospital_id"
        " where f.care_case = %s order by f.referral",
        (case,),
    )
    return await cursor.fetchall()


async def sent_to(connection: Connection, resident: str, hospitals: Sequence[str]) -> bool:
    """Whether a referral of this person is under way at one of these hospitals."""
    cursor = await connection.execute(
        "select 1 from referral where resident = %s and hospital_id = any(%s)"
        " and state not in ('suggested', 'rejected', 'community', 'cancelled')",
        (resident, list(hospitals)),
    )
    return await cursor.fetchone() is not None
