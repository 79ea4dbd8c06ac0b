"""All SQL about quarantine: what could not be read, with its bytes and the reason. Lossless, and never in the way.

A quarantine that is full or that cannot be written stops the reading of further messages: they wait with whoever sent
them. Nothing is dropped to make room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import psycopg

from ingest.batch import Incoming
from vitals.errors import Unavailable
from vitals.floor import metrics
from vitals.floor.database import Connection

LIMIT = 1 << 30  # bytes that may wait here; a gigabyte of broken messages wants a person


async def keep(connection: Connection, item: Incoming, reason: str, detail: str, limit: int = LIMIT) -> None:
    """Keep the bytes; the same bytes again only count up. Raises Unavailable when they cannot be kept."""
    digest = hashlib.sha256(item.topic.encode() + b"\0" + item.payload).digest()
    try:
        cursor = await connection.execute(
            "insert into quarantine (digest, source, topic, payload, reason, detail) values (%s, %s, %s, %s, %s, %s)"
            " on conflict (digest) do update set times = quarantine.times + 1, last_at = now() returning times",
            (digest, item.source, item.topic.replace("\0", "\ufffd")[:512], item.payload, reason, detail.replace("\0", "\ufffd")[:500]),
        )
        row = await cursor.fetchone()
        if row is None or row["times"] > 1:
            return
        cursor = await connection.execute("update quarantine_volume set bytes = bytes + %s returning bytes", (len(item.payload),))
        volume = await cursor.fetchone()
    except psycopg.errors.DatabaseError as error:
        raise Unavailable("the quarantine cannot be written") from error
    if volume is None or volume["bytes"] > limit:
        metrics.quarantine_full.inc()
        raise Unavailable("the quarantine is full: look at it, replay what can be read, raise its limit")
    metrics.quarantined.labels(reason).inc()


async def counts(connection: Connection) -> dict[str, int]:
    """Reason → how many different payloads wait."""
    cursor = await connection.execute(
        "select reason, count(*) as n from quarantine where outcome is distinct from 'stored' group by reason order by reason"
    )
    return {row["reason"]: row["n"] for row in await cursor.fetchall()}


async def listing(connection: Connection, limit: int, reason: str | None = None) -> list[dict[str, Any]]:
    """The latest, without their bytes."""
    cursor = await connection.execute(
        "select quarantine, reason, detail, source, topic, length(payload) as bytes, times, first_at, last_at, replayed_at, outcome"
        " from quarantine where %s::text is null or reason = %s order by last_at desc limit %s",
        (reason, reason, limit),
    )
    return await cursor.fetchall()


async def show(connection: Connection, number: int, account: str) -> dict[str, Any] | None:
    """One, with its bytes; who looked is written down."""
    cursor = await connection.execute("select * from quarantine where quarantine = %s", (number,))
    row = await cursor.fetchone()
    if row is not None:
        await note_access(connection, [number], account, "show")
    return row


async def note_access(connection: Connection, numbers: Sequence[int], account: str, what: str) -> None:
    await connection.execute(
        "insert into quarantine_access (account, quarantine, what) select session_user || '/' || %s, n, %s from unnest(%s::bigint[]) n",
        (account, what, list(numbers)),
    )


async def waiting(connection: Connection, reason: str | None = None) -> list[int]:
    """Numbers of what was not stored by a replay yet, oldest first."""
    cursor = await connection.execute(
        "select quarantine from quarantine where outcome is distinct from 'stored' and (%s::text is null or reason = %s)"
        " order by quarantine",
        (reason, reason),
    )
    return [row["quarantine"] for row in await cursor.fetchall()]


async def read(connection: Connection, number: int) -> Incoming | None:
    """The message as it came, for a replay; None when there is none, or it was stored by an earlier one."""
    cursor = await connection.execute(
        "select topic, payload from quarantine where quarantine = %s and outcome is distinct from 'stored' for update", (number,)
    )
    row = await cursor.fetchone()
    return None if row is None else Incoming("quarantine", row["topic"], bytes(row["payload"]), None)


async def replayed(connection: Connection, number: int, outcome: str) -> None:
    """What became of a replay; what is stored now no longer fills the quarantine. Its bytes stay."""
    cursor = await connection.execute(
        "update quarantine set replayed_at = now(), outcome = %s where quarantine = %s returning length(payload) as bytes",
        (outcome, number),
    )
    row = await cursor.fetchone()
    if row is not None and outcome == "stored":
        await connection.execute("update quarantine_volume set bytes = bytes - %s", (row["bytes"],))


async def by_gateway(connection: Connection) -> list[dict[str, Any]]:
    """(gateway, reason, how many, the last) of what waits, and no byte of it."""
    return await (await connection.execute("select * from quarantine_waiting order by gateway, n desc")).fetchall()
