"""All SQL about residents, teams, staff and contracts (签约)."""

from __future__ import annotations

import secrets
from datetime import date
from typing import Any, NamedTuple

from vitals.errors import Refused
from vitals.floor.database import Connection

CENTRE = "centre"  # the queue of last resort, made by the migration


class Route(NamedTuple):
    """Whose queue a subject's case goes to, and why."""

    team: str
    routed_by: str


async def add_team(connection: Connection, team: str, name: str, centre: str) -> None:
    await connection.execute("insert into team values (%s, %s, %s) on conflict do nothing", (team, name, centre))


async def add_staff(connection: Connection, staff: str, name: str, team: str) -> None:
    await connection.execute("insert into staff values (%s, %s, %s) on conflict do nothing", (staff, name, team))


async def set_duty(connection: Connection, site: str, team: str) -> None:
    await connection.execute("insert into duty values (%s, %s) on conflict (site) do update set team = excluded.team", (site, team))


async def add(connection: Connection, name: str, sex: str | None, birth_date: date | None, site: str | None) -> str:
    """A new resident; returns the opaque id, the only name of this person anywhere else."""
    resident = f"r-{secrets.token_hex(8)}"
    await connection.execute(
        "insert into resident (resident, name, sex, birth_date, site) values (%s, %s, %s, %s, %s)", (resident, name, sex, birth_date, site)
    )
    return resident


async def sign(connection: Connection, resident: str, doctor: str, since: date) -> None:
    """Sign a contract with a doctor's team; the one before it ends. Raises Refused `unknown_doctor`."""
    cursor = await connection.execute("select team from staff where staff = %s", (doctor,))
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_doctor")
    await connection.execute(
        "update contract set during = daterange(lower(during), %s) where resident = %s and upper_inf(during) and lower(during) < %s",
        (since, resident, since),
    )
    await connection.execute(
        "insert into contract (resident, team, doctor, during) values (%s, %s, %s, daterange(%s, null))",
        (resident, row["team"], doctor, since),
    )


async def get(connection: Connection, resident: str) -> dict[str, Any] | None:
    """A resident with the current contract."""
    cursor = await connection.execute(
        "select r.*, c.team, c.doctor, s.name as doctor_name from resident r"
        " left join lateral (select * from contract c where c.resident = r.resident and c.during @> current_date"
        "   order by lower(c.during) desc limit 1) c on true"
        " left join staff s on s.staff = c.doctor where r.resident = %s",
        (resident,),
    )
    return await cursor.fetchone()


async def listing(connection: Connection, team: str | None, limit: int) -> list[dict[str, Any]]:
    """Residents, of one team's contracts or of all (team None)."""
    cursor = await connection.execute(
        "select r.resident, r.name, r.sex, r.birth_date, c.team, c.doctor from resident r"
        " left join contract c on c.resident = r.resident and c.during @> current_date"
        " where %s::text is null or c.team = %s order by r.created_at limit %s",
        (team, team, limit),
    )
    return await cursor.fetchall()


async def doctors(connection: Connection) -> dict[str, str]:
    """resident → who they are signed with today."""
    cursor = await connection.execute("select resident, doctor from contract where during @> current_date and doctor is not null")
    return {row["resident"]: row["doctor"] for row in await cursor.fetchall()}


async def route(connection: Connection, resident: str | None, site: str | None) -> Route:
    """The signed team; unsigned, expired or unclaimed: the duty team of the site; failing that, the centre's own."""
    if resident is not None:
        found = await get(connection, resident)
        if found is not None and found["team"] is not None:
            return Route(found["team"], "contract")
        site = (found or {}).get("site") or site
    cursor = await connection.execute("select team from duty where site = %s", (site,))
    row = await cursor.fetchone()
    return Route(row["team"] if row is not None else CENTRE, "duty")


async def duty_sites(connection: Connection, team: str) -> set[str]:
    """The sites a team answers for."""
    cursor = await connection.execute("select site from duty where team = %s", (team,))
    return {row["site"] for row in await cursor.fetchall()}
