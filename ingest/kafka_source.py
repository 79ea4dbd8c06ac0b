"""The Kafka source of the distributed composition: one partition at a time, from the position the database knows.

Reading goes on beside the worker, at most HOLD records ahead of it; a partition that is ahead is paused, and so is
everything while the database is away. The consumer group only says who reads what; offsets in Kafka are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from ingest import stream
from ingest.admit import INTAKE
from ingest.batch import Incoming
from ingest.stream import Fenced, Position, StreamLost
from vitals.floor import database, metrics
from vitals.floor.database import Connection

log = logging.getLogger("ingest.kafka_source")

GROUP = "yizhan-worker"
HOLD = 3_000  # records of one partition read ahead of the worker
FETCH = 4 << 20  # bytes of one partition in one fetch
_INTAKE, _TOPIC, _PART = "intake", "topic", "part"


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]
    """A `Source` over one consumer of the group; `async with` joins and leaves it."""

    def __init__(self, conninfo: str, options: dict[str, Any], topic: str = stream.TOPIC, name: str | None = None) -> None:
        self._conninfo, self._topic = conninfo, topic
        self._consumer = AIOKafkaConsumer(
            group_id=GROUP, enable_auto_commit=False, auto_offset_reset="none", session_timeout_ms=6000, heartbeat_interval_ms=1500,
            max_poll_interval_ms=300_000, max_partition_fetch_bytes=FETCH, fetch_max_wait_ms=100, rebalance_timeout_ms=10_000,
            partition_assignment_strategy=(StickyPartitionAssignor,), group_instance_id=name, **options,
        )  # fmt: skip
        self._held: dict[int, deque[Incoming]] = {}
        self._positions: dict[int, Position] = {}
        self._paused: set[int] = set()
        self._something = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        self.partitions = 0

    async def __aenter__(self) -> KafkaSource:
        try:
            await self._consumer.start()
            self.partitions = len(await self._known_partitions())
            async with await database.connect(self._conninfo) as connection:
                await stream.record_partitions(connection, self.partitions, self._topic)
                await connection.commit()
        except BaseException:
            await self._consumer.stop()
            raise
        self._consumer.subscribe([self._topic], listener=self)
        self._reading = asyncio.create_task(self._read())
        return self

    async def _known_partitions(self) -> set[int]:
        for _ in range(100):
            await self._consumer._client.force_metadata_update()
            found = await self._consumer._client.fetch_all_metadata()
            partitions = found.partitions_for_topic(self._topic)
            if partitions:
                return set(partitions)
            await asyncio.sleep(0.2)
        raise StreamLost(f"there is no topic {self._topic}: start a bridge, which makes it")

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._consumer.stop()

    # the group's side

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """What is held is dropped; the one who reads it next begins where the database says."""
        for one in revoked:
            self._held.pop(one.partition, None)
            self._positions.pop(one.partition, None)
            self._paused.discard(one.partition)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        taken = sorted(one for one in assigned if one.partition not in self._positions)
        while taken:
            try:
                async with await database.connect(self._conninfo) as connection:
                    for one in taken:
                        self._positions[one.partition] = await stream.claim(connection, one.partition, self._topic)
                    await connection.commit()
                break
            except (psycopg.Error, OSError):
                log.warning("database away, partitions wait")
                await asyncio.sleep(0.5)
        for one in taken:
            self._held[one.partition] = deque()
            self._consumer.seek(one, self._positions[one.partition].next)
        log.info("partitions assigned", extra={"partitions": [one.partition for one in taken]})

    async def _check(self) -> None:
        """Nobody jumps over records that retention took, or reads a topic that was made anew as if it were the old one."""
        for partition, position in list(self._positions.items()):
            one = TopicPartition(self._topic, partition)
            first, end = (await self._consumer.beginning_offsets([one]))[one], (await self._consumer.end_offsets([one]))[one]
            if position.next < first:
                raise StreamLost(f"partition {partition}: records {position.next} to {first - 1} are gone before they were read")
            if position.next > end:
                raise StreamLost(f"partition {partition}: read up to {position.next}, but it ends at {end}: another topic?")

    async def _read(self) -> None:
        checked: set[int] = set()
        while True:
            try:
                if checked != set(self._positions):
                    checked = set(self._positions)
                    await self._check()
                found = await self._consumer.getmany(timeout_ms=200, max_records=HOLD)
            except OffsetOutOfRangeError as error:
                self._fail(StreamLost(f"records are gone before they were read: {error}"))
                return
            except StreamLost as error:
                self._fail(error)
                return
            except KafkaError as error:
                log.warning("kafka does not answer", extra={"error": type(error).__name__})
                await asyncio.sleep(0.5)
                continue
            except Exception as error:  # noqa: BLE001  told to the worker, which ends with it
                self._fail(error)
                return
            for one, records in found.items():
                held = self._held.get(one.partition)
                if held is None:
                    continue  # taken from us while it was on its way
                held.extend(_incoming(record) for record in records)
                if len(held) >= HOLD and one.partition not in self._paused:
                    self._consumer.pause(one)
                    self._paused.add(one.partition)
            if found:
                self._something.set()

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self._something.set()

    # the worker's side

    def waiting(self) -> bool:
        return self.failure is not None or any(self._held.values())

    async def wait(self) -> None:
        while not self.waiting():
            self._something.clear()
            await self._something.wait()

    def take(self, limit: int) -> list[Incoming]:
        """From the partition with the most; raises what stopped the reading."""
        if self.failure is not None:
            raise self.failure
        partition = max(self._held, key=lambda one: len(self._held[one]), default=None)
        if partition is None:
            return []
        held = self._held[partition]
        return [held.popleft() for _ in range(min(limit, len(held)))]

    def mine(self, subject: str) -> bool:
        """Whether this worker reads the partition of a subject: then its timers are ours to fire."""
        return stream.partition_of(subject, self.partitions) in self._positions

    async def seal(self, connection: Connection, items: list[Incoming]) -> None:
        """Inside the transaction: the position moves with the results, or nothing happens (Fenced)."""
        if not items:
            return
        partition, offset = items[-1].token
        known = self._positions.get(partition)
        if known is None:
            raise Fenced(f"partition {partition} was taken from us")
        if items[0].token[1] != known.next:
            # read before the partition was taken from us and given back: what lies between would be jumped over
            raise Fenced(f"partition {partition} stands at {known.next}, not at {items[0].token[1]}")
        await stream.advance(connection, partition, known, offset + 1, self._topic)

    def committed(self, items: list[Incoming]) -> None:
        if items:
            partition, offset = items[-1].token
            known = self._positions.get(partition)
            if known is not None:
                self._positions[partition] = known._replace(next=offset + 1)

    async def still_waiting(self, connection: Connection, items: list[Incoming]) -> list[Incoming]:
        """After a transaction whose end nobody saw: what of it is not committed. Raises Fenced."""
        if not items:
            return items
        partition, _ = items[-1].token
        known, stored = self._positions.get(partition), await stream.position(connection, partition, self._topic)
        if known is None or stored is None or stored.epoch != known.epoch:
            raise Fenced(f"partition {partition} was taken from us")
        self._positions[partition] = stored
        return [item for item in items if item.token[1] >= stored.next]

    async def rewind(self, connection: Connection, items: list[Incoming]) -> None:
        """After Fenced: if the partition is still ours, read it again from where the database stands."""
        if not items:
            return
        partition, _ = items[-1].token
        known, stored = self._positions.get(partition), await stream.position(connection, partition, self._topic)
        if known is None or stored is None or stored.epoch != known.epoch:
            return
        self._positions[partition] = stored
        self._held[partition] = deque()
        self._consumer.seek(TopicPartition(self._topic, partition), stored.next)

    def done(self, items: list[Incoming]) -> None:
        for partition in list(self._paused):
            if len(self._held.get(partition, ())) < HOLD // 2:
                with contextlib.suppress(Exception):
                    self._consumer.resume(TopicPartition(self._topic, partition))
                self._paused.discard(partition)
        metrics.stream_ahead.set(sum(len(held) for held in self._held.values()))


def headers(topic: str, part: int, parts: int) -> list[tuple[str, bytes]]:
    """What a record says of the message it came from."""
    return [(_TOPIC, topic.encode()), *([(_PART, f"{part}/{parts}".encode())] if parts > 1 else [])]


def _incoming(record: ConsumerRecord) -> Incoming:
    found = dict(record.headers)
    token = (record.partition, record.offset)
    if _INTAKE in found:
        return Incoming("kafka", INTAKE, found[_INTAKE], token)
    part, _, parts = found.get(_PART, b"0/1").partition(b"/")
    return Incoming("kafka", found.get(_TOPIC, b"").decode("utf-8", "replace"), record.value or b"", token, int(part), int(parts))


def intake_headers(number: int) -> list[tuple[str, bytes]]:
    return [(_INTAKE, str(number).encode())]
