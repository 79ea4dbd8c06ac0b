"""The worker's transaction without a broker: admission, ledger, attribution, rules, COPY, commit; then all of it again as duplicates.

Lanes as in `bench e2e`: batched (mixed devices) or dense (a 1 Hz series, twenty samples in a message). Beside it, on the same rows:
COPY of a prebuilt buffer into a table without an index (the limit), COPY through a staging table with ON CONFLICT, and executemany with
ON CONFLICT. Theirs store time, device, metric and value of each reading and nothing else.
"""

from __future__ import annotations

import asyncio
import struct
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from bench import load, rig
from bench.e2e import GATEWAYS, RESIDENTS
from bench.rig import Say, summary, value
from firmware_sim import fleet
from ingest.batch import Incoming
from ingest.worker import Worker
from vitals import wire
from vitals.floor import columns, database
from vitals.measurement import Measurement
from vitals.metric import METRICS
from vitals.settings import load as load_settings
from yizhan.compose import spare_the_collector, steps

READINGS = 200_000
BATCH = 200  # mixed messages of one transaction: 2,000 measurements; five times as many dense ones
TABLE = "(at timestamptz not null, device int not null, metric int2 not null, value float8 not null)"


def messages(readings: int, first: int, dense: bool = False) -> tuple[list[Incoming], dict[str, int]]:
    """What gateways send: twenty readings in a message, of mixed devices or as one dense series."""
    made: list[Incoming] = []
    counts = {"readings": 0, "measurements": 0}
    start = datetime.now(UTC) - timedelta(minutes=50)
    seqs: dict[int, int] = {}
    made_by = (
        fleet.dense(GATEWAYS, RESIDENTS, 1, 20, start, first) if dense
        else fleet.batches(GATEWAYS, RESIDENTS, readings / 2000, 1, 20, start, first)
    )  # fmt: skip
    for batch in made_by:
        seq = seqs[batch.gateway] = seqs.get(batch.gateway, 0) + 1
        payload = wire.encode_message(f"{first:06d}-{batch.gateway:016x}", seq, datetime.now(UTC), batch.bodies)
        topic = wire.topic(fleet.site(batch.gateway), fleet.name(batch.gateway), "up", "readings")
        made.append(Incoming("mqtt", topic, payload, None))
        counts["readings"] += batch.readings
        counts["measurements"] += len(batch.bodies)
        if counts["readings"] >= readings:
            return made, counts
    return made, counts


def rows(made: list[Incoming]) -> list[tuple[int, int, int, float]]:
    """(time in µs, device, metric, value) of every reading, for the others."""
    found = []
    for item in made:
        one: Measurement
        for one in wire.decode_message(item.payload, datetime.now(UTC)).measurements:
            at, device = columns.micros(one.measured_at), int(one.device[6:12]) * 8 + len(one.kind) % 8
            found += [(at, device, METRICS[code].number, float(number)) for code, number in one.values.items() if code not in one.samples]
            for code, series in one.samples.items():
                every = round((series.every_ms or 0) * 1000)
                found += [(at + n * every, device, METRICS[code].number, number) for n, number in enumerate(series.values)]
    return found


def binary(data: list[tuple[int, int, int, float]]) -> bytes:
    """A COPY buffer, made before the clock starts."""
    row = struct.Struct(">hiqiiihid")
    shift = 946_684_800_000_000
    return columns.COPY_HEAD + b"".join(row.pack(4, 8, at - shift, 4, d, 2, m, 8, v) for at, d, m, v in data) + columns.COPY_END


async def _ours(worker: Worker, made: list[Incoming], batch: int) -> float:
    """As the service does it: the next messages are judged while the database works."""
    began = time.monotonic()
    parts = [made[at : at + batch] for at in range(0, len(made), batch)]
    judged = worker.judge(parts[0])
    for number, part in enumerate(parts, 1):
        following = asyncio.ensure_future(asyncio.to_thread(worker.judge, parts[number] if number < len(parts) else []))
        await worker.process(part, judged)
        judged = await following
    return time.monotonic() - began


async def _prebuilt(url: str, buffer: bytes) -> float:
    async with await database.connect(url) as connection:
        await connection.execute(f"create table limit_copy {TABLE}".encode())
        await connection.commit()
        began = time.monotonic()
        async with connection.cursor() as cursor, cursor.copy("copy limit_copy from stdin (format binary)") as copy:
            await copy.write(buffer)
        await connection.commit()
        seconds = time.monotonic() - began
        await connection.execute("drop table limit_copy")
        await connection.commit()
    return seconds


async def _staged(url: str, buffers: list[bytes]) -> float:
    async with await database.connect(url) as connection:
        await connection.execute(f"create table staged {TABLE}; create unique index on staged (at, device, metric)".encode())
        await connection.execute(f"create temporary table incoming {TABLE}".encode())
        await connection.commit()
        began = time.monotonic()
        for buffer in buffers:
            async with connection.cursor() as cursor, cursor.copy("copy incoming from stdin (format binary)") as copy:
                await copy.write(buffer)
            await connection.execute("insert into staged select * from incoming on conflict do nothing")
            await connection.execute("truncate incoming")
            await connection.commit()
        seconds = time.monotonic() - began
        await connection.execute("drop table staged")
        await connection.commit()
    return seconds


async def _executemany(url: str, data: list[tuple[int, int, int, float]]) -> float:
    async with await database.connect(url) as connection:
        await connection.execute(f"create table many {TABLE}; create unique index on many (at, device, metric)".encode())
        await connection.commit()
        prepared = [(columns.EPOCH + timedelta(microseconds=at), device, metric, number) for at, device, metric, number in data]
        began = time.monotonic()
        for at in range(0, len(prepared), 1000):
            async with connection.cursor() as cursor:
                await cursor.executemany("insert into many values (%s, %s, %s, %s) on conflict do nothing", prepared[at : at + 1000])
            await connection.commit()
        seconds = time.monotonic() - began
        await connection.execute("drop table many")
        await connection.commit()
    return seconds


async def sizes(url: str, readings: int, measurements: int) -> dict[str, float]:
    """Bytes on disk for each reading: the measurements, their blocks of samples, their indexes, the ledger."""
    found = {}
    parts = {
        "rows": "sum(pg_relation_size(inhrelid)) from pg_inherits where inhparent = 'measurement'::regclass",
        "blocks": "coalesce(sum(pg_total_relation_size(inhrelid)), 0) from pg_inherits where inhparent = 'block'::regclass",
        "indexes": "sum(pg_indexes_size(inhrelid)) from pg_inherits where inhparent = 'measurement'::regclass",
        "ledger": "pg_total_relation_size('ledger')",
    }
    for name, query in parts.items():
        found[name] = round(float(await value(url, f"select {query}")) / readings, 1)
    return found | {"together": round(sum(found.values()), 1), "readings_per_measurement": round(readings / measurements, 2)}


async def run(say: Say, samples: int, lane: str = "batched", *, replay: bool) -> dict[str, Any]:
    """Readings a second. With `replay` only the second pass counts, where everything is stored already."""
    dense = lane == "dense"
    batch = BATCH * 5 if dense else BATCH
    spare_the_collector()
    rates: dict[str, list[float]] = {}
    total = {"readings": 0, "measurements": 0}

    def note(who: str, count: int, seconds: float) -> None:
        rates.setdefault(who, []).append(count / seconds)
        say(f"{who}: {count / seconds:,.0f} readings/s")

    async with rig.workspace() as folder, rig.cluster(folder) as (url, superuser):
        await load.settle(url, GATEWAYS, RESIDENTS)
        worker = Worker(url, steps(load_settings({})))
        warm, _ = messages(5_000, 900_000_000, dense)
        await _ours(worker, warm, batch)
        for number in range(samples):
            made, counts = messages(READINGS * (5 if dense else 1), number * 1_000_000, dense)
            data = rows(made)
            await rig.checkpoint(superuser)
            before = await value(url, "select count(*) from measurement")
            first = await _ours(worker, made, batch)
            if not replay:
                note("ours", counts["readings"], first)
            await rig.checkpoint(superuser)
            again = await _ours(worker, made, batch)
            note("ours_replay", counts["readings"], again)
            stored = await value(url, "select count(*) from measurement") - before
            if stored != counts["measurements"]:
                raise RuntimeError(f"{counts['measurements']} measurements, {stored} stored")
            total = {name: total[name] + counts[name] for name in total}
            if replay:
                continue
            await rig.checkpoint(superuser)
            note("limit_prebuilt_copy", len(data), await _prebuilt(url, binary(data)))
            await rig.checkpoint(superuser)
            buffers = [binary(data[at : at + 5000]) for at in range(0, len(data), 5000)]
            note("staging_on_conflict", len(data), await _staged(url, buffers))
            await rig.checkpoint(superuser)
            note("executemany_on_conflict", len(data) // 4, await _executemany(url, data[: len(data) // 4]))
        await worker.close()
        bytes_each = await sizes(url, total["readings"], total["measurements"])
    result: dict[str, Any] = {"machine": rig.machine(), "lane": lane, "batch_messages": batch, "bytes_per_reading": bytes_each}
    result |= {who: {"readings_per_second": summary(values)} for who, values in rates.items()}
    if not replay:
        mine = result["ours"]["readings_per_second"]["median"]
        others = ("limit_prebuilt_copy", "staging_on_conflict", "executemany_on_conflict")
        result["ratio"] = {who: round(mine / result[who]["readings_per_second"]["median"], 2) for who in others}
    return result
