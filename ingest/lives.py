"""All SQL about the lives of a gateway's spool: how far each stream came, what it had to drop, and whether its disk was copied.

A spool's life is named by a number that counts its openings. Two names with the same number come from one disk that was
copied to two boxes, or set back to an old image: somebody must look, because records of the lost life may be missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from vitals.floor import metrics
from vitals.floor.database import Connection
from vitals.wire import Gap, generation_of

log = logging.getLogger("ingest.lives")


async def note_positions(connection: Connection, seen: dict[tuple[str, str], list[int]]) -> None:
    """seen: (source, boot) → numbers of the messages in this batch."""
    if not seen:
        return
    keys = sorted(seen)
    cursor = await connection.execute(
        "insert into position (source, boot, high, messages)"
        " select source, boot, high, messages from unnest(%s::text[], %s::text[], %s, %s) as n(source, boot, high, messages)"
        " on conflict (source, boot) do update"
        " set high = greatest(position.high, excluded.high), messages = position.messages + excluded.messages, updated_at = now()"
        " returning source, boot, (xmax = 0) as first",
        (
            [source for source, _ in keys],
            [boot for _, boot in keys],
            np.array([max(seen[key]) for key in keys], np.int64),
            np.array([len(seen[key]) for key in keys], np.int64),
        ),
    )
    for row in await cursor.fetchall():
        if row["first"]:
            await _look_for_fork(connection, row["source"], row["boot"])


async def _look_for_fork(connection: Connection, source: str, boot: str) -> None:
    generation = generation_of(boot)
    if generation is None:
        return
    cursor = await connection.execute(
        "update gateway g set forked_at = coalesce(forked_at, now()) where g.gateway = %s and exists"
        " (select 1 from position p where p.source = %s and p.boot <> %s and p.boot like %s and p.updated_at >= g.enrolled_at)"
        " returning g.gateway",
        (source.removeprefix("mqtt:"), source, boot, boot.partition("-")[0] + "-%"),
    )
    if await cursor.fetchone() is not None:
        metrics.gateway_forks.inc()
        log.error("two lives of one spool with the same number: its disk was copied or set back", extra={"source": source, "boot": boot})


async def note_gaps(connection: Connection, source: str, gaps: Iterable[Gap]) -> None:
    """What a full spool dropped; told twice it is noted once."""
    for gap in gaps:
        log.warning("gap", extra={"source": source, "reason": gap.reason, "worth": gap.worth, "ranges": len(gap.lost)})
        for first, last in gap.lost:
            await connection.execute(
                "insert into gap (source, boot, first, last, reason, worth) values (%s, %s, %s, %s, %s, %s) on conflict do nothing",
                (source, gap.boot, first, last, gap.reason, gap.worth),
            )


async def forked(connection: Connection) -> list[str]:
    """Gateways whose disk was copied or set back since they were enrolled."""
    cursor = await connection.execute("select gateway from gateway where forked_at >= enrolled_at and revoked_at is null order by gateway")
    return [row["gateway"] for row in await cursor.fetchall()]
