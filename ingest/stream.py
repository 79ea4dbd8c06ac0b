"""The stream through Kafka: which partition a subject belongs to, what a record looks like, and where its readers stand.

A record is what one MQTT message holds for one partition, byte for byte as the gateway sent it. A message whose
measurements belong to several partitions becomes parts; its receipt waits for the last of them. Positions lie in the
database, committed together with the results: a reader that lost its partition cannot write, whatever it believes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
from aiokafka.partitioner import murmur2
from psycopg.rows import tuple_row

from ingest.admit import Admitted
from vitals.errors import ConfigError, Unavailable
from vitals.floor.database import Connection

TOPIC = "yz.readings.v1"


class Fenced(Unavailable):
    """Somebody else reads this partition now: nothing was written, nothing is to be tried again."""


class StreamLost(Exception):
    """Records that were never read are gone, or the topic is another one: a person must look before anything goes on."""


class Position(NamedTuple):
    """epoch: how often the partition was taken over. next: offset of the first record that is not committed."""

    epoch: int
    next: int


def partition_of(subject: str, partitions: int) -> int:
    """Where a subject's records go: Kafka's own default for this key."""
    hashed: int = murmur2(subject.encode())
    return (hashed & 0x7FFF_FFFF) % partitions


async def record_partitions(connection: Connection, partitions: int, topic: str = TOPIC) -> None:
    """Note the partition count at the first start; raises ConfigError when the topic has another one now.

    With another count a subject's records would be read by two workers at once. To change it: stop the bridges, let
    the workers drain the topic, delete the row, recreate the topic.
    """
    await connection.execute("insert into stream (topic, partitions) values (%s, %s) on conflict do nothing", (topic, partitions))
    row = await (await connection.execute("select partitions from stream where topic = %s", (topic,))).fetchone()
    if row is None or row["partitions"] != partitions:
        known = row["partitions"] if row is not None else 0
        raise ConfigError([f"{topic} has {partitions} partitions and was recorded with {known}; drain it before changing that"])


async def claim(connection: Connection, partition: int, topic: str = TOPIC) -> Position:
    """Take a partition over: whoever had it before is fenced from here on. Waits for their transaction under way."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "insert into stream_position (topic, partition) values (%s, %s) on conflict (topic, partition)"
        " do update set epoch = stream_position.epoch + 1, claimed_at = now() returning epoch, next_offset",
        (topic, partition),
    )
    row = await cursor.fetchone()
    assert row is not None
    return Position(*row)


async def advance(connection: Connection, partition: int, position: Position, following: int, topic: str = TOPIC) -> None:
    """Move the position in this transaction; raises Fenced unless the partition is still ours and stands where we think."""
    cursor = await connection.execute(
        "update stream_position set next_offset = %s, moved_at = now()"
        " where topic = %s and partition = %s and epoch = %s and next_offset = %s",
        (following, topic, partition, position.epoch, position.next),
    )
    if cursor.rowcount != 1:
        raise Fenced(f"partition {partition} is read by somebody else")


async def position(connection: Connection, partition: int, topic: str = TOPIC) -> Position | None:
    """Where a partition stands in the database."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute("select epoch, next_offset from stream_position where topic = %s and partition = %s", (topic, partition))
    row = await cursor.fetchone()
    return None if row is None else Position(*row)


async def settle_parts(connection: Connection, judged: Iterable[Admitted]) -> None:
    """Messages that came in parts: only the one that completes a message keeps its receipt."""
    parts: dict[tuple[str, str, int], list[Admitted]] = {}
    for one in judged:
        if one.receipt is not None and one.item.parts > 1:
            parts.setdefault((f"mqtt:{one.gateway}", *one.receipt), []).append(one)
    if not parts:
        return
    keys = sorted(parts)
    bits = [reduce(or_, (1 << one.item.part for one in parts[key])) for key in keys]
    reasons = [next((one.refusal[0] for one in parts[key] if one.refusal), None) for key in keys]
    cursor = await connection.execute(
        "insert into message_part (source, boot, seq, done, reason)"
        " select * from unnest(%s::text[], %s::text[], %s, %s, %s::text[]) on conflict (source, boot, seq)"
        " do update set done = message_part.done | excluded.done, reason = coalesce(message_part.reason, excluded.reason)"
        " returning source, boot, seq, done, reason",
        (
            [key[0] for key in keys],
            [key[1] for key in keys],
            np.array([key[2] for key in keys], np.int64),
            np.array(bits, np.int64),
            reasons,
        ),
    )
    complete = []
    for row in await cursor.fetchall():
        key = row["source"], row["boot"], row["seq"]
        *others, last = parts[key]
        if row["done"] == (1 << last.item.parts) - 1:
            complete.append(key)
            if row["reason"] is not None and last.refusal is None:
                last.refusal = (row["reason"], "")
        else:
            others.append(last)
        for one in others:
            one.receipt = None
    if complete:
        await connection.execute(
            "delete from message_part p using unnest(%s::text[], %s::text[], %s) as c(source, boot, seq)"
            " where (p.source, p.boot, p.seq) = (c.source, c.boot, c.seq)",
            ([key[0] for key in complete], [key[1] for key in complete], np.array([key[2] for key in complete], np.int64)),
        )


async def forget_parts(connection: Connection, days: int = 40) -> None:
    """Parts whose other half never came (a topic that was recreated): the gateway's next try begins anew."""
    await connection.execute("delete from message_part where noted_at < now() - make_interval(days => %s)", (days,))


async def positions(connection: Connection, topic: str = TOPIC) -> Sequence[tuple[int, int, int]]:
    """(partition, epoch, next offset) of every partition ever read."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute("select partition, epoch, next_offset from stream_position where topic = %s order by partition", (topic,))
    return await cursor.fetchall()
