"""Who read what about whom: an append-only log in chains, one for each process and day, whose heads are anchored together.

An entry's digest is HMAC-SHA-256 over the digest before it and its own fields, so that a changed, missing, inserted or exchanged entry
breaks its chain; an anchor holds every chain's length and head under a digest that covers the anchor before, so that a chain whose tail
was cut, or that is gone altogether, is missed. The key is the deployment's, not the database's. What is not written is not read: the entry
is committed before the answer leaves.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from vitals.floor.database import Connection, Pool

log = logging.getLogger("api.audit")

ANCHOR_EVERY = 300.0  # s
EMPTY = bytes(32)
FIELDS = ("account", "role", "what", "residents", "about", "why", "outcome")


class Entry(NamedTuple):
    """One access. what: method and path. residents: the opaque ids of whose data it was. about: cases, referrals, tasks."""

    account: str
    role: str
    what: str
    residents: list[str]
    about: str
    why: str
    outcome: str


def digest(key: bytes, before: bytes, chain: str, n: int, at: datetime, entry: Mapping[str, Any]) -> bytes:
    """What an entry's digest must be."""
    content = msgspec.json.encode([chain, n, at.isoformat(), *(entry[name] for name in FIELDS)])
    return hmac.digest(key, bytes(before) + content, "sha256")


class Book:
    """This process's chain. Entries are written one after another, in transactions of their own."""

    def __init__(self, secret: str) -> None:
        self.key = hmac.digest(secret.encode(), b"yizhan audit", "sha256")
        self._name = secrets.token_hex(4)
        self._chain, self._n, self._head = "", 0, EMPTY
        self._turn = asyncio.Lock()

    async def write(self, connection: Connection, entries: Sequence[Entry], now: datetime) -> None:
        """Append and commit, all together. If it cannot be written the caller's read fails."""
        async with self._turn:
            chain = f"{now:%Y-%m-%d}.{self._name}"
            n, head = (self._n, self._head) if chain == self._chain else (0, EMPTY)
            rows = []
            for entry in entries:
                n += 1
                head = digest(self.key, head, chain, n, now, entry._asdict())
                rows.append((chain, n, now, *entry, head))
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "insert into audit (chain, n, at, account, role, what, residents, about, why, outcome, digest)"
                    " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    rows,
                )
            await connection.commit()
            self._chain, self._n, self._head = chain, n, head


async def anchor(connection: Connection, key: bytes, now: datetime) -> None:
    """Put down the length and head of every chain of these days, all together."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('yizhan audit anchor'))")
    # a chain is a day's: one that ended earlier is in the anchors of its day
    cursor = await connection.execute("select * from wall.heads(%s)", (now - timedelta(days=2),))
    heads = {row["chain"]: [row["n"], bytes(row["digest"]).hex()] for row in await cursor.fetchall()}
    row = await (await connection.execute("select digest, heads from audit_anchor order by anchor desc limit 1")).fetchone()
    if row is not None and row["heads"] == heads:
        return
    made = _anchored(key, row["digest"] if row is not None else EMPTY, now, heads)
    await connection.execute("insert into audit_anchor (at, heads, digest) values (%s, %s, %s)", (now, Jsonb(heads), made))


async def anchoring(pool: Pool, key: bytes) -> None:
    """Anchor every five minutes, whoever does it."""
    while True:
        await asyncio.sleep(ANCHOR_EVERY)
        try:
            async with pool.connection() as connection:
                await anchor(connection, key, datetime.now(UTC))
        except (psycopg.Error, PoolTimeout):
            log.warning("the audit log was not anchored")


def _anchored(key: bytes, before: bytes, at: datetime, heads: Mapping[str, Any]) -> bytes:
    return hmac.digest(key, bytes(before) + msgspec.json.encode([at.isoformat(), dict(sorted(heads.items()))]), "sha256")


async def verify(connection: Connection, key: bytes) -> list[str]:
    """Every place where the log is not what was written: chain and number. Empty: nothing was touched (up to the last anchor's tail)."""
    problems: list[str] = []
    heads: dict[str, tuple[int, bytes]] = {}
    seen: dict[tuple[str, int], bytes] = {}
    wanted: dict[str, set[int]] = {}
    anchors = await (await connection.execute("select * from audit_anchor order by anchor")).fetchall()
    for row in anchors:
        for chain, (n, _) in row["heads"].items():
            wanted.setdefault(chain, set()).add(n)
    async with connection.cursor(name="audit") as cursor:
        await cursor.execute("select * from audit order by chain, n")
        async for row in cursor:
            chain, n = row["chain"], row["n"]
            length, before = heads.get(chain, (0, EMPTY))
            if n != length + 1:
                problems.append(f"{chain}: entry {length + 1} is missing")
            if digest(key, before, chain, n, row["at"], row) != bytes(row["digest"]):
                problems.append(f"{chain}: entry {n} is not what was written")
            heads[chain] = n, bytes(row["digest"])
            if n in wanted.get(chain, ()):
                seen[chain, n] = bytes(row["digest"])
    before = EMPTY
    for row in anchors:
        if _anchored(key, before, row["at"], row["heads"]) != bytes(row["digest"]):
            problems.append(f"anchor {row['anchor']} is not what was written")
        before = row["digest"]
        for chain, (n, head) in row["heads"].items():
            if seen.get((chain, n), EMPTY).hex() != head:
                problems.append(f"{chain}: entry {n}, which was anchored at {row['at']:%Y-%m-%d %H:%M}, is gone or another")
    return problems


async def of_resident(connection: Connection, resident: str, limit: int = 100) -> list[dict[str, Any]]:
    """Who looked at a person's data, newest first."""
    cursor = await connection.execute(
        "select at, account, role, what, about, why, outcome from audit where residents @> array[%s] order by at desc limit %s",
        (resident, limit),
    )
    return await cursor.fetchall()
