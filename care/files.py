"""What is read about residents for a page: one person's file, a team's people, a grid cell's. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitals.floor.database import Connection


async def listing(connection: Connection, teams: Sequence[str], wanted: str, limit: int = 200) -> list[dict[str, Any]]:
    """Signed residents of these teams; open cases first, then by name. wanted: part of a name."""
    cursor = await connection.execute(
        "select r.resident, r.name, r.sex, r.birth_date, r.tier, k.doctor, k.package, upper(k.during) as until, c.severity, c.care_case,"
        " (select measured_at from measurement m where m.subject = r.resident order by measured_at desc limit 1) as measured_at"
        " from resident r join contract k on k.resident = r.resident and k.during @> current_date and k.team = any(%s)"
        " left join care_case c on c.resident = r.resident and c.state not in ('resolved', 'dismissed')"
        " where r.deceased_on is null and r.moved_on is null and r.name like %s order by c.severity nulls last, r.name limit %s",
        (list(teams), f"%{wanted.replace('%', '').replace('_', '')}%", limit),
    )
    return await cursor.fetchall()


async def of_regions(connection: Connection, regions: Sequence[str], limit: int = 500) -> list[dict[str, Any]]:
    """Who lives in these grid cells: a name to choose, nothing about their health."""
    cursor = await connection.execute(
        "select resident, name from resident where region = any(%s) and deceased_on is null and moved_on is null order by name limit %s",
        (list(regions), limit),
    )
    return await cursor.fetchall()


_PARTS = {
    "facts": "select fact, value, recorded_at, recorded_by from subject_fact where subject = %s order by fact",
    "goals": "select pack, name, value, recorded_at, recorded_by from parameter where level = 'resident' and scope = %s"
    " order by pack, name",
    "devices": "select device, kind, model, lower(during) as since, upper(during) as until from binding join device using (device_no)"
    " where resident = %s order by lower(during) desc",
    "cases": "select care_case, state, severity, opened_at, ended_at, outcome from care_case where resident = %s"
    " order by care_case desc limit 50",
    "referrals": "select referral, state, urgency, hospital, suggested_at from referral where resident = %s"
    " order by referral desc limit 20",
    "identities": "select kind from resident_identity where resident = %s order by kind",
    "guardians": "select g.guardian, r.name, g.relation from guardian g join resident r on r.resident = g.guardian"
    " where g.resident = %s and (g.until is null or g.until > current_date)",
    "changes": "select at, actor, what from resident_log where resident = %s order by entry desc limit 20",
}


async def of_resident(connection: Connection, resident: str) -> dict[str, list[dict[str, Any]]]:
    """The parts of one person's file (一人一档)."""
    return {part: await (await connection.execute(query.encode(), (resident,))).fetchall() for part, query in _PARTS.items()}
