"""The bridge of the distributed composition: broker → Kafka, acknowledged to the broker only after Kafka acknowledged.

It reads no more of a message than says whom it concerns, and passes the bytes on as they came; judging is the
worker's, in its transaction. Several bridges share one subscription. It also relays intake rows, so that everything
that changes what the rules conclude about a person runs through that person's partition, and sends what workers
wrote for gateways (receipts, commands, advice), because it holds the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import psycopg
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from ingest import attribution, devices, kafka_source, stream
from ingest.batch import Incoming
from ingest.mqtt_source import MqttSource
from ingest.service import Hints, backend_link, send_outbox, send_receipts, watch_books
from vitals import wire
from vitals.errors import BadInput, ConfigError, Unavailable
from vitals.floor import database, kafka, metrics
from vitals.floor.database import Connection
from vitals.floor.mqtt_reader import Reader
from vitals.settings import Settings

log = logging.getLogger("ingest.bridge")

SHARE = "$share/yizhan"
MOST_PARTS = 60  # of one message: their bits fit one number
BATCH_BYTES = 1 << 20
PROBE_PATIENCE = 5.0


class _Whose(msgspec.Struct, gc=False):
    """What of a measurement says whom it concerns."""

    device: str
    checkin: str | None = None


class _Outline(msgspec.Struct, gc=False):
    boot: str
    seq: int
    measurements: list[msgspec.Raw]
    v: int = 0
    sent_at: str | None = None
    gaps: msgspec.Raw = msgspec.Raw(b"[]")


_outline, _whose = msgspec.json.Decoder(_Outline), msgspec.json.Decoder(_Whose)
_outline_encoder = msgspec.json.Encoder()


class Record(NamedTuple):
    """One record on its way to a partition."""

    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class Keys:
    """device → the subject whose partition it goes to. Only a matter of routing: the worker decides whose it is.

    Remembered for a moment, because a device's owner changes seldom and a partition that is wrong once costs nothing:
    the database's rows of a subject are locked whoever writes them.
    """

    REMEMBERED = 5.0  # s

    def __init__(self) -> None:
        self._worn: dict[str, str] = {}
        self._until = 0.0

    async def subjects(
        self, connection: Connection, whose: Iterable[tuple[str, str | None]], now: datetime
    ) -> dict[tuple[str, str | None], str]:
        clock = asyncio.get_running_loop().time()
        if clock > self._until:
            self._worn.clear()
            self._until = clock + self.REMEMBERED
        wanted = set(whose)
        unknown = sorted({device for device, checkin in wanted if checkin is None and device not in self._worn})
        if unknown:
            known = await devices.by_name(connection, unknown)
            worn = await attribution.wearers_now(connection, [row.device_no for row in known.values() if row.station is None], now)
            for device in unknown:
                row = known.get(device)
                resident = worn.get(row.device_no) if row is not None else None
                self._worn[device] = resident or f"device:{device}"
        visitors = await attribution.visitors_of(connection, sorted({checkin for _, checkin in wanted if checkin is not None}))
        return {
            (device, checkin): self._worn[device] if checkin is None else visitors.get(checkin, f"device:{device}")
            for device, checkin in wanted
        }


def outline(payload: bytes) -> tuple[_Outline, list[_Whose]] | None:
    """Whom a payload concerns; None when it cannot be told, and the worker will say why."""
    try:
        found = _outline.decode(payload)
        return found, [_whose.decode(raw) for raw in found.measurements]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def split(item: Incoming, found: _Outline, subjects: Sequence[str], partitions: int) -> list[Record]:
    """A message as one record for each partition that its subjects belong to, in the order in which they appear."""
    groups: dict[int, list[int]] = {}
    for number, subject in enumerate(subjects):
        partition = stream.partition_of(subject, partitions)
        if partition not in groups and len(groups) == MOST_PARTS:
            partition = next(reversed(groups))
        groups.setdefault(partition, []).append(number)
    if len(groups) == 1:
        ((partition, numbers),) = groups.items()
        return [Record(partition, subjects[numbers[0]].encode(), item.payload, kafka_source.headers(item.topic, 0, 1))]
    records = []
    for part, (partition, numbers) in enumerate(groups.items()):
        own = _Outline(
            found.boot, found.seq, [found.measurements[n] for n in numbers], found.v, found.sent_at,
            found.gaps if part == 0 else msgspec.Raw(b"[]"),
        )  # fmt: skip
        value = _outline_encoder.encode(own)
        records.append(Record(partition, subjects[numbers[0]].encode(), value, kafka_source.headers(item.topic, part, len(groups))))
    return records


def whole(item: Incoming, partitions: int) -> Record:
    """A message that cannot be told apart goes on as it is, under its gateway's name."""
    try:
        key = f"gateway:{wire.parse_topic(item.topic).gateway}"
    except BadInput:
        key = "gateway:"
    return Record(stream.partition_of(key, partitions), key.encode(), item.payload, kafka_source.headers(item.topic, 0, 1))


async def route(connection: Connection, keys: Keys, items: Sequence[Incoming], partitions: int, now: datetime) -> list[Record]:
    """Every message as its records."""
    outlines = [outline(item.payload) if item.topic.endswith("/readings") else None for item in items]
    subjects = await keys.subjects(connection, ((one.device, one.checkin) for found in outlines if found for one in found[1]), now)
    records: list[Record] = []
    for item, found in zip(items, outlines, strict=True):
        if found is None or not found[1]:
            records.append(whole(item, partitions))
        else:
            records += split(item, found[0], [subjects[one.device, one.checkin] for one in found[1]], partitions)
    return records


class Bridge:
    """Takes from the link, gives to Kafka; `run` until stopped."""

    def __init__(self, conninfo: str, link: Reader, producer: AIOKafkaProducer, partitions: int, topic: str = stream.TOPIC) -> None:
        self._conninfo, self._link, self._producer, self._partitions, self._topic = conninfo, link, producer, partitions, topic
        self._keys = Keys()
        self._connection: Connection | None = None

    async def connection(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await database.connect(self._conninfo, autocommit=True)
        return self._connection

    async def relay(self, items: list[Incoming]) -> None:
        """Pass messages on; returns when Kafka has all of them. While it, or the database, is away, tries for ever."""
        while True:
            try:
                connection = await self.connection()
                row = await (await connection.execute("select now() as now")).fetchone()
                assert row is not None
                await self.send(await route(connection, self._keys, items, self._partitions, row["now"]))
            except (psycopg.Error, OSError, KafkaError) as error:
                log.warning("cannot relay, nothing acknowledged", extra={"error": type(error).__name__, "items": len(items)})
                await asyncio.sleep(0.5)
            else:
                metrics.relayed.inc(len(items))
                return

    async def send(self, records: Iterable[Record]) -> None:
        """Batches of a partition, `acks=all`; raises KafkaError. A repeat after it is absorbed by the ledger."""
        groups: dict[int, list[Record]] = {}
        for record in records:
            groups.setdefault(record.partition, []).append(record)
        waits = []
        for partition, group in groups.items():
            builder = self._producer.create_batch()
            for record in group:
                if builder.append(key=record.key, value=record.value, timestamp=None, headers=record.headers) is None:
                    waits.append(await self._producer.send_batch(builder, self._topic, partition=partition))
                    builder = self._producer.create_batch()
                    builder.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
            if builder.record_count():
                waits.append(await self._producer.send_batch(builder, self._topic, partition=partition))
        for result in await asyncio.gather(*waits, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def consume(self, limit: int, stop: asyncio.Event) -> None:
        source = MqttSource(self._link)
        while not stop.is_set():
            waits = [asyncio.ensure_future(source.wait()), asyncio.ensure_future(stop.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            items = source.take(limit)
            if items:
                relaying = asyncio.ensure_future(self.relay(items))
                stopping = asyncio.ensure_future(stop.wait())
                await asyncio.wait([relaying, stopping], return_when=asyncio.FIRST_COMPLETED)
                if not relaying.done():
                    await asyncio.wait([relaying], timeout=5.0)
                stopping.cancel()
                if not relaying.done():
                    relaying.cancel()
                    await asyncio.gather(relaying, return_exceptions=True)
                    return  # nothing acknowledged: all of it comes again
                relaying.result()
                source.done(items)

    async def relay_intake(self, hint: asyncio.Event) -> None:
        """Intake rows into the stream, in order, under the key of whom they concern; for ever."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError, KafkaError):
                async with await database.connect(self._conninfo) as connection:
                    while True:
                        hint.clear()
                        while await self._some_intake(connection):
                            pass
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(5.0):
                                await hint.wait()
            await asyncio.sleep(0.5)

    async def _some_intake(self, connection: Connection) -> int:
        cursor = await connection.execute(
            "select intake, subject, body from intake where relayed_at is null and applied_at is null order by intake limit 200"
            " for update skip locked"
        )
        rows = await cursor.fetchall()
        records = []
        for row in rows:
            subject = str(row["subject"] or row["body"].get("resident") or row["body"].get("device") or row["body"].get("checkin") or "")
            partition = stream.partition_of(subject, self._partitions)
            records.append(Record(partition, subject.encode(), b"", kafka_source.intake_headers(row["intake"])))
        await self.send(records)
        await connection.execute("update intake set relayed_at = now() where intake = any(%s)", ([row["intake"] for row in rows],))
        await connection.commit()
        return len(rows)


async def ensure_topic(settings: Settings, topic: str = stream.TOPIC) -> int:
    """Make the topic if it is not there; returns its partition count."""
    admin = AIOKafkaAdminClient(**kafka.options(settings))
    await admin.start()
    try:
        made = NewTopic(
            topic, settings.kafka_partitions, settings.kafka_replicas,
            topic_configs={
                "retention.ms": str(settings.kafka_retention_hours * 3_600_000), "retention.bytes": "-1",
                "min.insync.replicas": "2" if settings.kafka_replicas > 2 else "1",
            },
        )  # fmt: skip
        with contextlib.suppress(TopicAlreadyExistsError):
            await admin.create_topics([made])
        for _ in range(50):
            found = await admin.describe_topics([topic])
            if found and not found[0]["error_code"] and found[0]["partitions"]:
                return len(found[0]["partitions"])
            await asyncio.sleep(0.1)
    finally:
        await admin.close()
    raise Unavailable(f"kafka does not show {topic}")


async def probe(settings: Settings) -> None:
    """Whether this broker really shares subscriptions: a granted one proves nothing. Raises ConfigError."""
    user = settings.mqtt_user or "worker"
    topic = wire.topic("probe", user, "up", "status")
    link = backend_link(settings, [f"$share/probe-{user}/{topic}"])
    async with link:
        await link.connected.wait()
        for _ in range(int(PROBE_PATIENCE / 0.5)):
            await link.publish(topic, b"{}", qos=0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    link.acknowledge(await link.deliveries.get())
                    return
    raise ConfigError(["the broker grants shared subscriptions and delivers nothing by them; take mosquitto or EMQX"])


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """The bridge process, until `stop`."""
    conninfo = settings.database()
    partitions = await _patiently(settings, stop)
    if partitions is None:
        return
    async with await database.connect(conninfo) as connection:
        await stream.record_partitions(connection, partitions)
        await connection.commit()
    await probe(settings)
    metrics.serve(settings.metrics_port)
    hints = Hints(conninfo, "intake", "outbox", "receipt")
    link = backend_link(settings, [f"{SHARE}/{wire.ROOT}/+/+/up/{what}" for what in ("readings", "pairing", "status")])
    producer = AIOKafkaProducer(
        acks="all", linger_ms=0, max_batch_size=BATCH_BYTES, max_request_size=4 * BATCH_BYTES, **kafka.options(settings)
    )
    await producer.start()
    bridge = Bridge(conninfo, link, producer, partitions)
    try:
        async with link, asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(hints.run()),
                tasks.create_task(bridge.relay_intake(hints.of["intake"])),
                tasks.create_task(send_outbox(conninfo, link, hints.of["outbox"])),
                tasks.create_task(watch_books(conninfo)),
                tasks.create_task(send_receipts(conninfo, link, hints.of["receipt"])),
            ]
            log.info("bridge started", extra={"partitions": partitions})
            await tasks.create_task(bridge.consume(settings.batch_limit, stop))
            for helper in helpers:
                helper.cancel()
    finally:
        await producer.stop()


async def _patiently(settings: Settings, stop: asyncio.Event) -> int | None:
    """The partition count; Kafka may start after us."""
    while not stop.is_set():
        try:
            return await ensure_topic(settings)
        except (KafkaError, OSError, Unavailable) as error:
            log.warning("kafka does not answer", extra={"error": type(error).__name__})
            await asyncio.sleep(0.5)
    return None
