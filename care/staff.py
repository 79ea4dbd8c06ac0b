"""All SQL about who works where and when: centres, teams, roles, rosters, leave, contacts; and who a rung means at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from psycopg.types.range import TimestamptzRange

from care.calendar import Calendar
from care.identity import Seal
from care.ladder import Role
from vitals.alert import Severity
from vitals.errors import Refused
from vitals.floor.database import Connection

LOOK_AHEAD = timedelta(days=60)
LAST_RESORT = "centre"  # the team of the queue of last resort, made by the migration
PLACES = {
    "family_doctor": "team", "team_lead": "team", "nurse": "team", "public_health": "team", "centre_duty": "centre",
    "supervisor": "centre", "hospital": "hospital", "sentinel": "region",
}  # fmt: skip


async def add_region(connection: Connection, region: str, parent: str | None, level: str, name: str) -> None:
    await connection.execute("insert into region values (%s, %s, %s, %s) on conflict do nothing", (region, parent, level, name))


async def add_centre(
    connection: Connection, centre: str, name: str, region: str | None = None, opens: time = time(8), closes: time = time(17, 30)
) -> None:  # fmt: skip
    await connection.execute(
        "insert into centre values (%s, %s, %s, %s, %s) on conflict (centre) do update"
        " set name = excluded.name, region = excluded.region, opens = excluded.opens, closes = excluded.closes",
        (centre, name, region, opens, closes),
    )


async def add_hospital(connection: Connection, hospital: str, name: str, region: str | None = None) -> None:
    await connection.execute("insert into hospital values (%s, %s, %s) on conflict do nothing", (hospital, name, region))


async def hospitals(connection: Connection) -> list[dict[str, Any]]:
    return await (await connection.execute("select hospital, name from hospital order by name")).fetchall()


async def add_team(connection: Connection, team: str, name: str, centre: str) -> None:
    """A team of a centre; the centre is made under its own name where it is not known yet."""
    await connection.execute("insert into centre (centre, name) values (%s, %s) on conflict do nothing", (centre, centre))
    await connection.execute("insert into team values (%s, %s, %s) on conflict do nothing", (team, name, centre))


async def teams_of(connection: Connection, centre: str) -> list[str]:
    """The teams of a centre."""
    cursor = await connection.execute("select team from team where centre = %s order by team", (centre,))
    return [row["team"] for row in await cursor.fetchall()]


async def names_of(connection: Connection, level: str) -> dict[str, str]:
    """place → name: of teams, of centres, else of regions."""
    table = {"team": "team", "centre": "centre"}.get(level, "region")
    cursor = await connection.execute(f"select {table} as place, name from {table}".encode())  # noqa: S608  one of three
    return {row["place"]: row["name"] for row in await cursor.fetchall()}


async def add(
    connection: Connection, staff: str, name: str, team: str | None, role: str = "family_doctor", place: str | None = None
) -> None:
    """Somebody who works here, in a first role at a place (the team, where none is named)."""
    await connection.execute("insert into staff (staff, name, team) values (%s, %s, %s) on conflict do nothing", (staff, name, team))
    await appoint(connection, staff, role, place or str(team))


async def appoint(connection: Connection, staff: str, role: str, place: str) -> None:
    """Raises Refused `unknown_place` for a role at what is not its kind of place."""
    kind = PLACES[role]
    cursor = await connection.execute(f"select 1 from {kind} where {kind} = %s", (place,))  # noqa: S608  from our table
    if await cursor.fetchone() is None:
        raise Refused("unknown_place", f"{role} at a {kind}")
    await connection.execute("insert into membership values (%s, %s, %s) on conflict do nothing", (staff, role, place))


async def of_team(connection: Connection, team: str) -> list[dict[str, Any]]:
    cursor = await connection.execute(
        "select s.staff, s.name, array_agg(m.role order by m.role) as roles from membership m join staff s using (staff)"
        " where m.place = %s and s.left_on is null group by s.staff, s.name order by s.name",
        (team,),
    )
    return await cursor.fetchall()


async def leave(connection: Connection, staff: str, cover: str | None, since: datetime, until: datetime) -> None:
    """Away, and who covers. Raises Refused `bad_range`."""
    if not since < until:
        raise Refused("bad_range")
    await connection.execute(
        "insert into leave (staff, cover, during) values (%s, %s, %s)", (staff, cover, TimestamptzRange(since, until, "[)"))
    )


async def shift(connection: Connection, staff: str, centre: str, since: datetime, until: datetime) -> None:
    """On duty for a centre. Raises Refused `bad_range`."""
    if not since < until:
        raise Refused("bad_range")
    await connection.execute(
        "insert into shift (staff, centre, during) values (%s, %s, %s)", (staff, centre, TimestamptzRange(since, until, "[)"))
    )


async def set_day(connection: Connection, day: date, works: bool, name: str) -> None:
    """A holiday, or a weekend day that is worked."""
    await connection.execute(
        "insert into calendar_day values (%s, %s, %s) on conflict (day) do update set works = excluded.works, name = excluded.name",
        (day, works, name),
    )


async def set_contacts(
    connection: Connection, seal: Seal, addresses: Sequence[tuple[str, str]], *, staff: str | None = None, resident: str | None = None
) -> None:  # fmt: skip
    """The ways to reach somebody, (kind, address) in the order they are tried; replaces what was there."""
    owner = staff or resident
    assert owner is not None
    column = "staff" if staff is not None else "resident"
    await connection.execute(f"delete from contact where {column} = %s", (owner,))  # noqa: S608  one of two
    for place, (kind, address) in enumerate(addresses):
        await connection.execute(
            f"insert into contact ({column}, place, kind, sealed) values (%s, %s, %s, %s)",  # noqa: S608
            (owner, place, kind, seal.seal(owner, "contact", address)),
        )


async def contact(connection: Connection, owner: str, place: int) -> dict[str, Any] | None:
    """One way to reach somebody, sealed."""
    cursor = await connection.execute(
        "select kind, sealed from contact where (staff = %s or resident = %s) and place = %s", (owner, owner, place)
    )
    return await cursor.fetchone()


async def calendar(connection: Connection, team: str, now: datetime, zone: str) -> Calendar:
    """The working time of a team's centre, with the holidays ahead."""
    row = await (
        await connection.execute("select c.opens, c.closes from team t join centre c using (centre) where t.team = %s", (team,))
    ).fetchone()
    days = await connection.execute(
        "select day, works from calendar_day where day between %s and %s",
        ((now - timedelta(days=1)).date(), (now + LOOK_AHEAD).date()),
    )
    known = {day["day"]: day["works"] for day in await days.fetchall()}
    return Calendar(ZoneInfo(zone), row["opens"], row["closes"], known) if row is not None else Calendar(ZoneInfo(zone), days=known)


_WITH_ROLE = (
    "select m.staff from membership m join staff s using (staff) where m.role = any(%(roles)s)"
    " and (%(place)s::text is null or m.place = %(place)s) and (s.left_on is null or s.left_on > %(now)s)"
    " and not exists (select 1 from leave l where l.staff = m.staff and l.during @> %(now)s) order by m.role, m.staff"
)


async def with_role(connection: Connection, roles: Sequence[str], place: str | None, now: datetime) -> list[str]:
    """Who has one of these roles at a place (None: anywhere) and is not away."""
    cursor = await connection.execute(_WITH_ROLE, {"roles": list(roles), "place": place, "now": now})
    return list(dict.fromkeys(row["staff"] for row in await cursor.fetchall()))


async def present(connection: Connection, staff: str, now: datetime) -> str | None:
    """Who answers for somebody at a moment: themselves, whoever covers their leave (and so on), or nobody."""
    seen: set[str] = set()
    current: str | None = staff
    while current is not None and current not in seen:
        seen.add(current)
        cursor = await connection.execute(
            "select s.left_on, l.staff is not null as away, l.cover from staff s"
            " left join leave l on l.staff = s.staff and l.during @> %s where s.staff = %s order by l.leave desc limit 1",
            (now, current),
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        if not row["away"]:
            return current if row["left_on"] is None or row["left_on"] > now.date() else None
        current = row["cover"]
    return None


async def meant(
    connection: Connection, role: Role, team: str, doctor: str | None, severity: Severity, calendar: Calendar, now: datetime
) -> list[str]:  # fmt: skip
    """Who a rung tells at this moment. doctor: the signed one, the one who claimed, or the owner of a task.

    When the centre is closed, what cannot wait goes to the duty as well: nobody is expected to be on call by having signed a contract.
    """
    row = await (await connection.execute("select centre from team where team = %s", (team,))).fetchone()
    centre = row["centre"] if row is not None else ""
    match role:
        case Role.DOCTOR | Role.OWNER:
            one = await present(connection, doctor, now) if doctor is not None else None
            found = [one] if one is not None else await with_role(connection, ["family_doctor"], team, now)
            if severity <= Severity.P2 and not calendar.is_open(now):
                found = [*found, *await on_duty(connection, centre, now)]
        case Role.DEPUTY:
            found = [one for one in await with_role(connection, ["family_doctor", "nurse"], team, now) if one != doctor]
        case Role.TEAM_LEAD:
            found = await with_role(connection, ["team_lead"], team, now)
        case Role.CENTRE_DUTY:
            found = await on_duty(connection, centre, now) or await with_role(connection, ["centre_duty"], centre, now)
        case Role.SUPERVISOR:
            found = await with_role(connection, ["supervisor"], None if team == LAST_RESORT else centre, now)
    return list(dict.fromkeys(found))


async def on_duty(connection: Connection, centre: str, now: datetime) -> list[str]:
    """Whose shift it is."""
    cursor = await connection.execute("select staff from shift where centre = %s and during @> %s order by staff", (centre, now))
    return [row["staff"] for row in await cursor.fetchall()]


_REACH = """
with covered as (
  select l.staff from leave l where l.cover = %(staff)s and l.during @> now()
), mine as (
  select role, place from membership where staff = %(staff)s or staff in (select staff from covered)
), centres as (
  select place as centre from mine where role in ('supervisor', 'centre_duty')
  union select centre from shift where staff = %(staff)s and during @> now()
)
select array(select team from staff where (staff = %(staff)s or staff in (select staff from covered)) and team is not null
             union select place from mine where role in ('family_doctor', 'team_lead', 'nurse', 'public_health')
             union select t.team from team t join centres using (centre)
             union select %(last)s where exists (select 1 from mine where role = 'supervisor')) as teams,
       array(select place from mine where role in ('hospital', 'sentinel')) as places
from staff where staff = %(staff)s and (left_on is null or left_on > current_date)
"""


async def reach(connection: Connection, staff: str) -> dict[str, list[str]]:
    """Whose queues somebody works at this moment, and the hospitals and grid cells they belong to; nothing for who left.

    Every supervisor also has the queue of last resort, for what nobody is signed for and no station answers for.
    """
    row = await (await connection.execute(_REACH, {"staff": staff, "last": LAST_RESORT})).fetchone()
    return {"teams": sorted(row["teams"]), "places": sorted(row["places"])} if row is not None else {"teams": [], "places": []}
