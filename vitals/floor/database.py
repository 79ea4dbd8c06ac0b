"""Database pool and migrations: plain SQL files, numbered, each applied once in its own transaction.

A migration file is `NNNN_what.sql` in a room's `migrations/` folder; rooms are applied in the order given (a
room may reference the tables of the rooms it imports). The text of an applied migration never changes: its
digest is compared at every start. Plain SQL and sixty lines are enough here; a migration tool would bring an
ORM's model of the schema with it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from vitals.errors import ConfigError
from vitals.floor import columns

Connection = AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

# Rows that are acknowledged anywhere are committed to disk: see `settle`.
_OPTIONS: dict[str, Any] = {"row_factory": dict_row, "autocommit": False}
_LOCK = 0x7969_7A68  # advisory lock of whoever migrates ("yizh")


def pool(conninfo: str, size: int, configure: Callable[[Connection], Awaitable[None]] | None = None) -> Pool:
    """A pool that opens lazily (use `async with`); connections are checked before they are handed out.

    configure: what is done with a new connection instead of `settle`.
    """
    return AsyncConnectionPool(
        conninfo, kwargs=_OPTIONS, min_size=1, max_size=size, open=False, configure=configure or settle,
        check=AsyncConnectionPool.check_connection, timeout=5.0,
    )  # fmt: skip


async def connect(conninfo: str, *, autocommit: bool = False) -> Connection:
    """One connection outside any pool, for a loop that owns it."""
    connection = await AsyncConnection.connect(conninfo, row_factory=dict_row, autocommit=autocommit, connect_timeout=5)
    await settle(connection)
    return connection


async def settle(connection: Connection) -> None:
    """Promise durability and UTC for a new connection, whatever the server's defaults are."""
    columns.register(connection.adapters)
    before = connection.autocommit
    if not before:
        await connection.set_autocommit(True)
    await connection.execute("set synchronous_commit = on")
    await connection.execute("set timezone = 'UTC'")
    if not before:
        await connection.set_autocommit(False)


async def migrate(conninfo: str, rooms: Sequence[str]) -> list[str]:
    """Apply what is missing; returns the names applied. Raises ConfigError when an applied file has changed."""
    applied: list[str] = []
    async with await AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
        await _use_timescale(connection)
        await connection.execute(
            "create table if not exists migration"
            " (name text primary key, digest text not null, applied_at timestamptz not null default now())"
        )
        cursor = await connection.execute("select name, digest from migration")
        done: dict[str, str] = dict(await cursor.fetchall())
        for room in rooms:
            for path in sorted(files(room).joinpath("migrations").iterdir(), key=lambda p: p.name):
                if not path.name.endswith(".sql"):
                    continue
                name, text = f"{room}/{path.name}", path.read_text(encoding="utf-8")
                digest = hashlib.sha256(text.encode()).hexdigest()
                if name in done:
                    if done[name] != digest:
                        raise ConfigError([f"migration {name} was applied with another text; migrations never change"])
                    continue
                async with connection.transaction():
                    await connection.execute(text.encode())
                    await connection.execute("insert into migration (name, digest) values (%s, %s)", (name, digest))
                applied.append(name)
    return applied


async def _use_timescale(connection: AsyncConnection[Any]) -> None:
    """Create the extension where it is installed and we may; the schema is right with it and without it."""
    cursor = await connection.execute("select 1 from pg_available_extensions where name = 'timescaledb' and installed_version is null")
    if await cursor.fetchone():
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState):
            await connection.execute("create extension timescaledb")


async def pending_migrations(conninfo: str, rooms: Sequence[str]) -> list[str]:
    """Names of migrations that this code has and the database has not."""
    async with await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
        try:
            cursor = await connection.execute("select name from migration")
        except psycopg.errors.UndefinedTable:
            done: set[str] = set()
        else:
            done = {row[0] for row in await cursor.fetchall()}
    known = [f"{room}/{p.name}" for room in rooms for p in files(room).joinpath("migrations").iterdir() if p.name.endswith(".sql")]
    return sorted(set(known) - done)
