"""The stream through a real Kafka: every message once, whoever reads, whatever is taken over, lost or cut in parts."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from ingest import bridge, intake, stream
from ingest.bridge import Bridge, Keys, route
from ingest.kafka_source import KafkaSource
from ingest.stream import Fenced, StreamLost
from ingest.worker import Worker
from tests.conftest import missing
from tests.ingest.helpers import TOPIC, Clinic, incoming, measurement, message
from vitals.errors import ConfigError, Unavailable
from vitals.floor import database
from vitals.settings import Settings
from yizhan import kafka, town
from yizhan.compose import steps
from yizhan.composition import Service, free_port

pytestmark = pytest.mark.services

PARTITIONS = 4
_topics = itertools.count(1)


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    """A Kafka for the module: its address."""
    if kafka.jars() is None:
        missing("kafka", "not installed (tests/install_services.sh; Java and Maven needed)")
    folder = Path(tempfile.mkdtemp(prefix="yizhan-kafka-"))
    port = free_port()
    service = Service("kafka", kafka.prepare(folder, port, free_port()), dict(os.environ), folder / "log")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(service.start())
    yield f"127.0.0.1:{port}"
    loop.run_until_complete(service.stop())
    loop.close()
    shutil.rmtree(folder, ignore_errors=True)


class Stream:
    """A topic of a test's own, and the processes' parts that read and write it."""

    def __init__(self, clinic: Clinic, servers: str) -> None:
        self.clinic, self.servers, self.topic = clinic, servers, f"yz.test.{os.getpid()}.{next(_topics)}"
        self.options = {"bootstrap_servers": servers}

    async def open(self, partitions: int = PARTITIONS) -> Stream:
        admin = AIOKafkaAdminClient(**self.options)
        for _ in range(200):
            try:
                await admin.start()
                break
            except Exception:
                await asyncio.sleep(0.1)
        await admin.create_topics([NewTopic(self.topic, partitions, 1)])
        await admin.close()
        return self

    async def put(self, *payloads: bytes, partitions: int = PARTITIONS) -> None:
        """What a bridge does with messages of the town's gateway."""
        producer = AIOKafkaProducer(acks="all", **self.options)
        await producer.start()
        made = Bridge(self.clinic.conninfo, None, producer, partitions, self.topic)  # type: ignore[arg-type]
        async with await database.connect(self.clinic.conninfo, autocommit=True) as connection:
            await made.send(await route(connection, Keys(), [incoming(p, TOPIC) for p in payloads], partitions, datetime.now(UTC)))
        await producer.stop()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[tuple[KafkaSource, Worker]]:
        async with KafkaSource(self.clinic.conninfo, dict(self.options), self.topic) as source:
            worker = Worker(self.clinic.conninfo, steps(Settings()), source, relayed=True)
            yield source, worker
            await worker.close()

    async def drain(self, source: KafkaSource, worker: Worker, enough: Callable[[], object], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not await enough():  # type: ignore[misc]
            assert time.monotonic() < end, "waited too long"
            items = source.take(500)
            if items:
                await worker.process(items)
                source.done(items)
            await asyncio.sleep(0.02)

    async def until_stored(self, source: KafkaSource, worker: Worker, count: int) -> None:
        async def enough() -> bool:
            return bool(await self.clinic.value("select count(*) from measurement") >= count)

        await self.drain(source, worker, enough)


@pytest.fixture
async def flow(clinic: Clinic, servers: str) -> Stream:
    return await Stream(clinic, servers).open()


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.02)


async def test_every_message_is_stored_once_and_the_position_moves_with_it(flow: Stream) -> None:
    payloads = [message(measurement(device=town.PEOPLE[n % 3][3]), boot="b", seq=n) for n in range(60)]
    await flow.put(*payloads)
    await flow.put(*payloads[:20])  # a bridge that died before it acknowledged sends again
    async with flow.reader() as (source, worker):
        await flow.until_stored(source, worker, 60)
    positions = {}
    async with await database.connect(flow.clinic.conninfo) as connection:
        positions = {partition: following for partition, _, following in await stream.positions(connection, flow.topic)}
    async with flow.reader() as (source, worker):  # a second reader begins where the first one ended
        await until(lambda: len(source._positions) == PARTITIONS)
        assert {partition: position.next for partition, position in source._positions.items()} == positions
        await asyncio.sleep(0.5)
        leftover = source.take(500)
        while leftover:
            await worker.process(leftover)
            leftover = source.take(500)
    assert await flow.clinic.value("select count(*) from measurement") == 60
    rows = await flow.clinic.rows("select topic, body from receipt")
    promised = {seq for row in rows for first, last in json.loads(bytes(row["body"]))["stored"] for seq in range(first, last + 1)}
    assert promised == set(range(60))


async def test_a_message_of_several_people_goes_in_parts_and_is_receipted_when_all_are_stored(flow: Stream) -> None:
    people = [person[3] for person in town.PEOPLE]
    async with await database.connect(flow.clinic.conninfo) as connection:
        for number in range(12):
            name = f"extra-{number}"
            await connection.execute("insert into device (device, kind, setting) values (%s, 'blood_pressure', 'home')", (name,))
            people.append(name)
        await connection.commit()
    await flow.put(message(*(measurement(device=name) for name in people), boot="b", seq=7))
    async with flow.reader() as (source, worker):
        receipts_seen = []

        async def enough() -> bool:
            receipts_seen.append(await flow.clinic.value("select count(*) from receipt"))
            return bool(await flow.clinic.value("select count(*) from measurement") == len(people))

        await flow.drain(source, worker, enough)
    assert receipts_seen[0] == 0
    assert await flow.clinic.value("select count(*) from receipt") == 1
    assert await flow.clinic.value("select count(*) from message_part") == 0


async def test_whoever_lost_a_partition_cannot_write(flow: Stream) -> None:
    await flow.put(message(measurement()))
    async with flow.reader() as (source, worker):
        await until(source.waiting)
        items = source.take(10)
        async with await database.connect(flow.clinic.conninfo) as connection:
            await stream.claim(connection, items[0].token[0], flow.topic)  # another reader takes over; this one has not heard of it
            await connection.commit()
        assert await worker.process(items) == []
        assert await flow.clinic.value("select count(*) from measurement") == 0
        assert await flow.clinic.value("select count(*) from receipt") == 0


async def test_what_was_taken_before_a_partition_came_back_is_not_a_reason_to_jump(flow: Stream) -> None:
    """Two batches were taken, the partition was lost and given back in between: the second must not move the position over the first."""
    await flow.put(*(message(measurement(120 + n, 80)) for n in range(10)))
    async with flow.reader() as (source, worker):
        await until(lambda: sum(map(len, source._held.values())) == 10)
        first = source.take(4)
        second = source.take(4)
        partition = first[0].token[0]
        known = source._positions.pop(partition)
        assert await worker.process(first) == [], "taken from us"
        source._positions[partition] = known  # and given back, at the same place
        assert await worker.process(second) == []
        assert await flow.clinic.value("select count(*) from measurement") == 0
        await flow.until_stored(source, worker, 10)
    assert await flow.clinic.value("select count(*) from measurement") == 10


async def test_a_commit_whose_answer_was_lost_is_not_done_twice(flow: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    await flow.put(message(measurement(186, 112)), message(measurement(120, 80)))
    async with flow.reader() as (source, worker):
        await until(source.waiting)
        real, failures = worker._transaction, iter([True])

        async def transaction(items: list[object], *more: object) -> object:
            done = await real(items, *more)  # type: ignore[arg-type]
            if next(failures, False):
                source._positions |= {items[0].token[0]: before}  # type: ignore[attr-defined]
                raise database.psycopg.OperationalError("the connection was lost while it committed")
            return done

        monkeypatch.setattr(worker, "_transaction", transaction)
        while source.waiting():
            items = source.take(10)
            before = source._positions[items[0].token[0]]
            await worker.process(items)
    assert await flow.clinic.value("select count(*) from measurement") == 2
    assert await flow.clinic.value("select count(*) from alert") == 1


async def test_two_readers_share_the_partitions_and_one_takes_over(flow: Stream) -> None:
    devices = [f"many-{n}" for n in range(40)]
    async with await database.connect(flow.clinic.conninfo) as connection:
        for name in devices:
            await connection.execute("insert into device (device, kind, setting) values (%s, 'blood_pressure', 'home')", (name,))
        await connection.commit()
    async with flow.reader() as (first, one):
        await until(lambda: len(first._positions) == PARTITIONS)
        async with flow.reader() as (second, two):
            await until(lambda: len(first._positions) == 2 and len(second._positions) == 2)
            assert first._positions.keys() | second._positions.keys() == set(range(PARTITIONS))
            await flow.put(*(message(measurement(device=name)) for name in devices))

            async def enough() -> bool:
                for source, worker in ((first, one), (second, two)):
                    items = source.take(10)
                    if items:
                        await worker.process(items)
                return bool(await flow.clinic.value("select count(*) from measurement") >= 20)

            await flow.drain(first, one, enough)
        await until(lambda: len(first._positions) == PARTITIONS)
        await flow.until_stored(first, one, 40)
    assert await flow.clinic.value("select count(*) from measurement") == 40


async def test_records_that_retention_took_stop_the_reader_instead_of_being_jumped(flow: Stream) -> None:
    await flow.put(*(message(measurement()) for _ in range(10)))
    admin = AIOKafkaAdminClient(**flow.options)
    await admin.start()
    await admin.delete_records({TopicPartition(flow.topic, n): RecordsToDelete(before_offset=-1) for n in range(PARTITIONS)})
    await admin.close()
    async with flow.reader() as (source, _worker):
        await until(source.waiting)
        with pytest.raises(StreamLost, match="gone before they were read"):
            source.take(10)


async def test_another_number_of_partitions_than_recorded_is_a_configuration_error(flow: Stream) -> None:
    async with flow.reader():
        pass
    admin = AIOKafkaAdminClient(**flow.options)
    await admin.start()
    from aiokafka.admin import NewPartitions

    await admin.create_partitions({flow.topic: NewPartitions(PARTITIONS + 1)})
    await admin.close()
    await asyncio.sleep(0.5)
    with pytest.raises(ConfigError) as error:
        async with flow.reader():
            pass
    assert "drain it" in error.value.problems[0]


async def test_what_people_ask_for_over_http_runs_through_the_same_partition(flow: Stream) -> None:
    resident = await flow.clinic.resident()
    async with await database.connect(flow.clinic.conninfo) as connection:
        number = await intake.submit(connection, "facts", {"facts": {"pregnant": False}}, "tester", resident)
        await connection.commit()
    producer = AIOKafkaProducer(acks="all", **flow.options)
    await producer.start()
    made = Bridge(flow.clinic.conninfo, None, producer, PARTITIONS, flow.topic)  # type: ignore[arg-type]
    for _ in range(2):  # relayed again by a bridge that died in between: applied once
        async with await database.connect(flow.clinic.conninfo) as connection:
            await made._some_intake(connection)
            await connection.execute("update intake set relayed_at = null")
            await connection.commit()
    await producer.stop()
    async with flow.reader() as (source, worker):

        async def enough() -> bool:
            return await flow.clinic.value("select result from intake where id = %s", number) == "applied"

        await flow.drain(source, worker, enough)
        assert source.mine(resident)
    assert await flow.clinic.value("select value from subject_fact where fact = 'pregnant'") is False


async def test_a_deadline_fires_at_whoever_reads_the_persons_partition(flow: Stream) -> None:
    await flow.put(message(measurement(186, 112)))
    async with flow.reader() as (source, worker):
        await flow.until_stored(source, worker, 1)
        await flow.clinic.run("update rule_timer set due_at = now() - interval '1 second'")
        source.mine = lambda _subject: False  # type: ignore[method-assign]
        await worker.process([])
        assert ((await flow.clinic.alert()) or {})["state"] == "pending"
        source.mine = lambda _subject: True  # type: ignore[method-assign]
        await flow.clinic.run("update rule_state set deadline = 1")
        await worker.process([])
        assert ((await flow.clinic.alert()) or {})["state"] == "firing"


async def test_what_cannot_be_read_is_passed_on_whole_and_kept_with_its_reason(flow: Stream) -> None:
    await flow.put(b"\xff not json", message(measurement(device="nobody"), boot="b", seq=3))
    async with flow.reader() as (source, worker):

        async def enough() -> bool:
            return bool(await flow.clinic.value("select count(*) from quarantine") == 2)

        await flow.drain(source, worker, enough)
    rows = await flow.clinic.rows("select reason, payload from quarantine order by reason")
    assert [row["reason"] for row in rows] == ["not_json", "unknown_device"]
    assert bytes(rows[0]["payload"]) == b"\xff not json"


def test_a_person_has_one_partition_and_the_message_is_cut_along_it() -> None:
    item = incoming(message(*(measurement(device=f"d{n}") for n in range(8)), boot="b", seq=1), TOPIC)
    found = bridge.outline(item.payload)
    assert found is not None
    subjects = [f"r-{n // 2}" for n in range(8)]
    records = bridge.split(item, found[0], subjects, 16)
    parts = [json.loads(record.value) for record in records]
    assert sum(len(part["measurements"]) for part in parts) == 8
    for record, part in zip(records, parts, strict=True):
        numbers = [int(m["device"][1:]) for m in part["measurements"]]
        assert {stream.partition_of(subjects[n], 16) for n in numbers} == {record.partition}
        assert (part["boot"], part["seq"], part["v"]) == ("b", 1, 1)
    assert bridge.split(item, found[0], ["r-1"] * 8, 16)[0].value == item.payload, "one person: the very same bytes"


async def test_a_position_moves_only_for_its_owner(conninfo: str) -> None:
    async with await database.connect(conninfo) as connection:
        mine = await stream.claim(connection, 0, "t")
        theirs = await stream.claim(connection, 0, "t")
        assert (theirs.epoch, theirs.next) == (mine.epoch + 1, mine.next)
        with pytest.raises(Fenced):
            await stream.advance(connection, 0, mine, 5, "t")
        await stream.advance(connection, 0, theirs, 5, "t")
        with pytest.raises(Fenced):
            await stream.advance(connection, 0, theirs, 6, "t")  # it stands at 5 by now, not where `theirs` says


async def test_kafka_over_tls_asks_for_a_password_and_the_right_authority(tmp_path: Path) -> None:
    """The settings that a city uses, against a Kafka that insists on them."""
    if kafka.jars() is None:
        missing("kafka", "not installed (tests/install_services.sh; Java and Maven needed)")
    certificate(tmp_path, "kafka")
    certificate(tmp_path, "stranger")
    (tmp_path / "keystore.pem").write_text((tmp_path / "kafka.key").read_text() + (tmp_path / "kafka.pem").read_text())
    port, word = free_port(), "a-long-password-of-a-test"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    more = {
        "listeners": f"SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{(controller := free_port())}",
        "advertised.listeners": f"SASL_SSL://127.0.0.1:{port}", "inter.broker.listener.name": "SASL_SSL",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL", "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN", "ssl.keystore.type": "PEM", "ssl.keystore.location": str(tmp_path / "keystore.pem"),
        "ssl.truststore.type": "PEM", "ssl.truststore.location": str(tmp_path / "kafka.pem"),
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{login} username="b" password="{word}" user_b="{word}" user_yizhan="{word}";',
    }  # fmt: skip
    service = Service("kafka", kafka.prepare(tmp_path / "kafka", port, controller, more), dict(os.environ), tmp_path / "log")
    await service.start()
    try:
        given = {
            "kafka_servers": f"127.0.0.1:{port}", "kafka_ca": tmp_path / "kafka.pem", "kafka_user": "yizhan", "kafka_sasl": "PLAIN",
            "kafka_password": word, "kafka_partitions": 3,
        }  # fmt: skip
        await until_async(lambda: bridge.ensure_topic(Settings(**given), "secured"))
        assert await bridge.ensure_topic(Settings(**given), "secured") == 3
        for wrong in ({"kafka_password": "another"}, {"kafka_ca": tmp_path / "stranger.pem"}):
            with pytest.raises((KafkaError, OSError, Unavailable)):
                await bridge.ensure_topic(Settings(**given | wrong), "secured")
    finally:
        await service.stop()


async def until_async(attempt: Callable[[], Awaitable[object]], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            await attempt()
            return
        except Exception:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.3)


def certificate(folder: Path, name: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
    subprocess.run([*command, *more], check=True, capture_output=True)
