"""What people and kiosks ask for over HTTP, on its way into the stream.

The API commits a row and answers with its id; the worker applies rows in order, before the measurements of the
same transaction: whoever was told "accepted" may rely on what follows being seen in that light.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from ingest.batch import Event
from vitals.errors import Refused
from vitals.floor.database import Connection

# applied by the ingest room itself; every other kind belongs to a step
ATTRIBUTION = frozenset({"bind", "unbind", "checkin", "checkout"})


async def submit(
    connection: Connection, kind: str, body: dict[str, Any], account: str, subject: str | None = None, idempotency_key: str | None = None
) -> uuid.UUID:
    """Commit to the stream; returns the id. The same key and body again is the same row.

    Raises Refused `idempotency_conflict` for the same key with another body.
    """
    number = uuid.uuid4()
    digest = hashlib.sha256(msgspec.json.encode((kind, subject, body), order="sorted")).digest()
    cursor = await connection.execute(
        "insert into intake (id, kind, subject, body, account, idempotency_key, digest) values (%s, %s, %s, %s, %s, %s, %s)"
        " on conflict (account, idempotency_key) do nothing returning id",
        (number, kind, subject, Jsonb(body), account, idempotency_key, digest),
    )
    if await cursor.fetchone() is not None:
        return number
    cursor = await connection.execute(
        "select id, digest from intake where account = %s and idempotency_key = %s", (account, idempotency_key)
    )
    row = await cursor.fetchone()
    if row is None or row["digest"] != digest:
        raise Refused("idempotency_conflict")
    found: uuid.UUID = row["id"]
    return found


async def take(connection: Connection, limit: int) -> list[Event]:
    """The next rows to apply, locked for this transaction."""
    cursor = await connection.execute(
        "select intake, kind, subject, body, account, created_at from intake where applied_at is null"
        " order by intake limit %s for update skip locked",
        (limit,),
    )
    return [Event(**row) for row in await cursor.fetchall()]


async def named(connection: Connection, numbers: list[int]) -> list[Event]:
    """These rows, in order, locked, unless they were applied before."""
    if not numbers:
        return []
    cursor = await connection.execute(
        "select intake, kind, subject, body, account, created_at from intake where intake = any(%s) and applied_at is null"
        " order by intake for update",
        (numbers,),
    )
    return [Event(**row) for row in await cursor.fetchall()]


async def finish(connection: Connection, results: dict[int, str], now: datetime) -> None:
    """Write what became of the rows."""
    if results:
        await connection.execute(
            "update intake i set applied_at = %s, result = r.result from unnest(%s::bigint[], %s::text[]) as r(intake, result)"
            " where i.intake = r.intake",
            (now, list(results), list(results.values())),
        )


async def status(connection: Connection, number: uuid.UUID, account: str) -> dict[str, Any] | None:
    """What became of a submission of this account."""
    cursor = await connection.execute(
        "select id, kind, created_at, applied_at, result from intake where id = %s and account = %s", (number, account)
    )
    return await cursor.fetchone()
