"""What follows from alerts, from cases that ended, and from the calendar: referrals suggested, visits and checks put on lists."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from care import contracts, referrals, staff, tasks
from care.referral import SUGGESTS
from care.task import BEFORE_EXPIRY, SOON, groups, plan
from rules.facts import age_years
from vitals.alert import Change, Severity
from vitals.floor.database import Connection

AHEAD = timedelta(days=14)  # how early a planned visit appears on a list


async def after_alert(connection: Connection, case: dict[str, Any], change: Change, now: datetime, zone: str) -> None:
    """A referral is suggested where the clause says so, never by a weak source; a sentinel looks in on who fell silent."""
    code = change.explanation.get("action", {}).get("code")
    if code in SUGGESTS and not change.explanation.get("weak"):
        criterion = {"alert": change.alert, "zh": change.explanation.get("zh"), "en": change.explanation.get("en"),
                     "clause": change.explanation.get("clause"), "pack": change.explanation.get("pack")}  # fmt: skip
        await referrals.suggest(connection, case["care_case"], case["resident"], SUGGESTS[code], [criterion], now)
    if change.family == "silence" and change.severity <= Severity.P3:
        calendar = await staff.calendar(connection, case["team"], now, zone)
        key = f"home_check:alert:{change.alert}"
        await tasks.look_in(connection, key, case["resident"], case["team"], "多次未测量 measured nothing", now, calendar)


async def after_case(connection: Connection, case: dict[str, Any], action: str, now: datetime, zone: str) -> None:
    """Two weeks after a danger that was resolved somebody looks again, unless a referral's own clock runs."""
    if action != "resolve" or case["resident"] is None or case["paged_at"] is None:
        return
    cursor = await connection.execute(
        "select 1 from task where care_case = %s and kind = 'referral_follow_up' and state = 'open'", (case["care_case"],)
    )
    if await cursor.fetchone() is None and case["called"] in (Severity.P1, Severity.P2):
        calendar = await staff.calendar(connection, case["team"], now, zone)
        await tasks.make(
            connection, f"follow_up:case:{case['care_case']}", "follow_up", case["team"], "family_doctor", now + SOON, now, calendar,
            resident=case["resident"], case=case["care_case"], reason="danger",
        )  # fmt: skip


_SIGNED = """
select r.resident, r.birth_date, k.team, k.doctor, lower(k.during) as since,
  (select jsonb_object_agg(f.fact, f.value) from subject_fact f where f.subject = r.resident) as facts,
  (select max(t.ended_at) from task t where t.resident = r.resident and t.state = 'done'
     and t.kind in ('follow_up', 'referral_follow_up') and t.outcome in ('done', 'visited')) as visited,
  (select max(t.ended_at) from task t where t.resident = r.resident and t.state = 'done') as contacted,
  exists (select 1 from alert a where a.subject = r.resident and a.family in ('bp_control', 'glucose_control') and a.state = 'firing')
    as uncontrolled
from resident r join contract k on k.resident = r.resident and k.during @> %(today)s::date
where r.deceased_on is null and r.moved_on is null
"""


async def daily(connection: Connection, now: datetime, zone: str) -> int:
    """Put what the plans ask for in the next days on the teams' lists; asking again changes nothing. Returns how many are new."""
    today = now.astimezone(ZoneInfo(zone)).date()
    cursor = await connection.execute(_SIGNED, {"today": today})
    wanted: list[tuple[Any, Any]] = []
    for row in await cursor.fetchall():
        facts = row["facts"] or {}
        age = age_years(row["birth_date"].isoformat(), today) if row["birth_date"] else None
        last = [row[name].date() if row[name] else None for name in ("visited", "contacted")]
        found = plan(row["resident"], groups(age, facts), row["since"], last[0], last[1], row["uncontrolled"], today)
        wanted += [(row, due) for due in found if due.due_on <= today + AHEAD]
    known = await connection.execute("select key from task where key = any(%s)", ([due.key for _, due in wanted],))
    there = {row["key"] for row in await known.fetchall()}
    calendars: dict[str, Any] = {}
    made = 0
    for row, due in wanted:
        if due.key in there:
            continue
        if row["team"] not in calendars:
            calendars[row["team"]] = await staff.calendar(connection, row["team"], now, zone)
        calendar = calendars[row["team"]]
        number = await tasks.make(
            connection, due.key, due.kind, row["team"], "family_doctor" if due.kind == "follow_up" else "nurse",
            calendar.at(due.due_on, calendar.closes), now, calendar, resident=row["resident"], reason=due.reason,
        )  # fmt: skip
        made += number is not None
    for contract in await contracts.expiring(connection, today, BEFORE_EXPIRY):
        calendar = await staff.calendar(connection, contract["team"], now, zone)
        number = await tasks.make(
            connection, f"renewal:{contract['contract']}:{contract['until']}", "renewal", contract["team"], "nurse",
            calendar.at(contract["until"], calendar.closes), now, calendar, resident=contract["resident"],
        )  # fmt: skip
        made += number is not None
    return made
