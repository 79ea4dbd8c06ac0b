"""All SQL about quarantine: what could not be read, with its bytes and the reason. Lossless, and never in the way."""

from __future__ import annotations

import hashlib
from typing import Any

from ingest.batch import Incoming
from vitals.floor import metrics
from vitals.floor.database import Connection


async def keep(connection: Connection, item: Incoming, reason: str, detail: str) -> None:
    """Keep the bytes; the same bytes again only count up."""
    digest = hashlib.sha256(item.topic.encode() + b"\0" + item.payload).digest()
    cursor = await connection.execute(
        "insert into quarantine (digest, source, topic, payload, reason, detail) values (%s, %s, %s, %s, %s, %s)"
        " on conflict (digest) do update set times = quarantine.times + 1, last_at = now() returning times",
        (digest, item.source, item.topic.replace("\0", "\ufffd")[:512], item.payload, reason, detail.replace("\0", "\ufffd")[:500]),
    )
    row = await cursor.fetchone()
    if row is not None and row["times"] == 1:
        metrics.quarantined.labels(reason).inc()


async def counts(connection: Connection) -> dict[str, int]:
    """Reason → how many different payloads."""
    cursor = await connection.execute("select reason, count(*) as n from quarantine group by reason order by reason")
    return {row["reason"]: row["n"] for row in await cursor.fetchall()}


async def listing(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The latest, without their bytes."""
    cursor = await connection.execute(
        "select quarantine, reason, detail, source, topic, length(payload) as bytes, times, first_at, last_at"
        " from quarantine order by last_at desc limit %s",
        (limit,),
    )
    return await cursor.fetchall()
