"""The second wall: the database itself shows an account only the people it may see; see `migrations/0004_wall.sql`.

Nothing here decides. A connection of the API's role reads through the wall's views, and each transaction begins by saying who asks.
"""

from __future__ import annotations

from vitals.floor import database
from vitals.floor.database import Connection

ROLE = "yizhan_api"


async def behind(connection: Connection) -> None:
    """A new connection of the API's pool: with the API's role, `measurement` is the wall's view of it."""
    await database.settle(connection)
    await connection.set_autocommit(True)
    row = await (await connection.execute("select current_user = %s as behind", (ROLE,))).fetchone()
    if row is not None and row["behind"]:
        await connection.execute("set search_path = wall, public")
    await connection.set_autocommit(False)


async def enter(connection: Connection, account: str) -> None:
    """Who asks, until this transaction ends."""
    await connection.execute("select wall.enter(%s)", (account,))


async def enter_team(connection: Connection, team: str) -> None:
    """What is read once for everybody who works this team's queue."""
    await connection.execute("select wall.enter_team(%s)", (team,))


async def found(connection: Connection, kind: str, lookup: bytes) -> list[str]:
    """Who has a number, by its keyed digest: opaque ids and nothing more."""
    cursor = await connection.execute("select resident from wall.found(%s, %s)", (kind, lookup))
    return [row["resident"] for row in await cursor.fetchall()]


async def exists(connection: Connection, resident: str) -> bool:
    """Whether there is such a person: all that a kiosk, or whoever breaks the glass, may ask."""
    row = await (await connection.execute("select wall.exists(%s) as yes", (resident,))).fetchone()
    return row is not None and bool(row["yes"])
