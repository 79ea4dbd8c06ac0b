"""All SQL about residents: who they are, where they live and with whom, what identifies them, and whose queue they belong to."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from psycopg.errors import UniqueViolation

from care.identity import Seal, normal
from care.staff import LAST_RESORT
from vitals.errors import Refused
from vitals.floor.database import Connection


class Route(NamedTuple):
    """Whose queue a subject's case goes to, and why."""

    team: str
    routed_by: str


async def set_duty(connection: Connection, site: str, team: str) -> None:
    await connection.execute("insert into duty values (%s, %s) on conflict (site) do update set team = excluded.team", (site, team))


async def add(
    connection: Connection, name: str, sex: str | None, birth_date: date | None, site: str | None, *, region: str | None = None,
    by: str = "system",
) -> str:  # fmt: skip
    """A new resident; returns the opaque id, the only name of this person anywhere else."""
    resident = f"r-{secrets.token_hex(8)}"
    await connection.execute(
        "insert into resident (resident, name, sex, birth_date, site, region) values (%s, %s, %s, %s, %s, %s)",
        (resident, name, sex, birth_date, site, region),
    )
    await note(connection, resident, by, "record made")
    return resident


async def note(connection: Connection, resident: str, actor: str, what: str) -> None:
    """The record of a person moved: for its history, and for how alive the records are."""
    await connection.execute("insert into resident_log (resident, actor, what) values (%s, %s, %s)", (resident, actor, what))
    await connection.execute("update resident set updated_at = now() where resident = %s", (resident,))


async def identify(connection: Connection, seal: Seal, resident: str, numbers: Mapping[str, str], today: date, by: str) -> None:
    """Keep what identifies a person, sealed. Raises BadInput `bad_id_number`, `bad_identity`; Refused `identity_taken`."""
    for kind, text in numbers.items():
        plain = normal(kind, text, today)
        lookup = seal.lookup(kind, plain)
        try:
            async with connection.transaction():
                await connection.execute(
                    "insert into resident_identity values (%s, %s, %s, %s)"
                    " on conflict (resident, kind) do update set sealed = excluded.sealed, lookup = excluded.lookup",
                    (resident, kind, seal.seal(resident, kind, plain), lookup),
                )
        except UniqueViolation:
            raise Refused("identity_taken", kind) from None
    await note(connection, resident, by, "identity recorded")


async def found_by(connection: Connection, seal: Seal, kind: str, text: str, today: date) -> list[str]:
    """Who has this number; more than one only where a number may be shared, like a phone."""
    cursor = await connection.execute(
        "select resident from resident_identity where kind = %s and lookup = %s", (kind, seal.lookup(kind, normal(kind, text, today)))
    )
    return [row["resident"] for row in await cursor.fetchall()]


async def identities(connection: Connection, seal: Seal, resident: str) -> dict[str, str]:
    """What identifies a person, in clear: for who may read it, and never for a log."""
    cursor = await connection.execute("select kind, sealed from resident_identity where resident = %s", (resident,))
    return {row["kind"]: seal.open(resident, row["kind"], row["sealed"]) for row in await cursor.fetchall()}


async def place(connection: Connection, resident: str, region: str | None, tier: str | None, by: str) -> None:
    """The grid cell somebody lives in, and the tier (分级分标) of their care."""
    await connection.execute("update resident set region = %s, tier = %s where resident = %s", (region, tier, resident))
    await note(connection, resident, by, "place and tier")


async def leave(connection: Connection, resident: str, on: date, how: str, by: str) -> None:
    """Died or moved away: the record stays, contracts end, nothing new is planned. how: deceased | moved."""
    column = {"deceased": "deceased_on", "moved": "moved_on"}[how]
    await connection.execute(f"update resident set {column} = %s where resident = %s", (on, resident))  # noqa: S608
    await connection.execute(
        "update contract set during = daterange(lower(during), %s), ended_why = %s"
        " where resident = %s and lower(during) < %s and (upper_inf(during) or upper(during) > %s)",
        (on, how, resident, on, on),
    )
    await connection.execute(
        "update task set state = 'dropped', outcome = %s, ended_at = now(), ended_by = %s, version = version + 1"
        " where resident = %s and state = 'open' and care_case is null",
        (how, by, resident),
    )
    await note(connection, resident, by, how)


async def household(connection: Connection, members: Sequence[str], region: str | None) -> int:
    """People who live together."""
    row = await (await connection.execute("insert into household (region) values (%s) returning household", (region,))).fetchone()
    assert row is not None
    await connection.execute("update resident set household = %s where resident = any(%s)", (row["household"], list(members)))
    number: int = row["household"]
    return number


async def guard(connection: Connection, resident: str, guardian: str, relation: str, since: date, by: str) -> None:
    """Somebody who may look and answer for this person."""
    await connection.execute(
        "insert into guardian (resident, guardian, relation, since) values (%s, %s, %s, %s) on conflict (resident, guardian) do update"
        " set relation = excluded.relation, until = null",
        (resident, guardian, relation, since),
    )
    await note(connection, resident, by, "guardian recorded")


async def guards(connection: Connection, guardian: str, resident: str, on: date) -> bool:
    """Whether this person is a guardian of that one on a day."""
    cursor = await connection.execute(
        "select 1 from guardian where guardian = %s and resident = %s and since <= %s and (until is null or until > %s)",
        (guardian, resident, on, on),
    )
    return await cursor.fetchone() is not None


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


async def listing(connection: Connection, teams: Sequence[str] | None, limit: int) -> list[dict[str, Any]]:
    """Residents, of these teams' contracts or of all (teams None)."""
    cursor = await connection.execute(
        "select r.resident, r.name, r.sex, r.birth_date, c.team, c.doctor from resident r"
        " left join contract c on c.resident = r.resident and c.during @> current_date"
        " where %s::text[] is null or c.team = any(%s) order by r.created_at limit %s",
        (listed := None if teams is None else list(teams), listed, limit),
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
    return Route(row["team"] if row is not None else LAST_RESORT, "duty")


async def duty_sites(connection: Connection, teams: Sequence[str]) -> set[str]:
    """The sites that these teams answer for."""
    cursor = await connection.execute("select site from duty where team = any(%s)", (list(teams),))
    return {row["site"] for row in await cursor.fetchall()}


async def with_team(connection: Connection, resident: str, team: str | None, teams: Sequence[str]) -> bool:
    """Whether a person is one of these teams' to look after: by contract, or by a case that is in their queue."""
    if team is not None and team in teams:
        return True
    cursor = await connection.execute(
        "select 1 from care_case where resident = %s and team = any(%s) and state not in ('resolved', 'dismissed')", (resident, list(teams))
    )
    return await cursor.fetchone() is not None
