"""How the tables lie on disk: chunk intervals from memory, columnstore and continuous aggregates where they exist, retention.

Three steps that differ in speed and size, never in what a query says: plain PostgreSQL (monthly partitions), TimescaleDB's Apache
edition (hypertables), its community edition (columnstore, continuous aggregates). `arrange` may run at any time and again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Literal

import psycopg

from vitals.floor.database import Connection

log = logging.getLogger("ingest.storage")

Edition = Literal["plain", "apache", "community"]
INDEX_SHARE = 0.25  # of shared_buffers: the open chunk's indexes must stay in memory, or every insert waits for the disk
SHORTEST, LONGEST = timedelta(hours=1), timedelta(days=30)
COLUMNSTORE_AFTER = "3 days"  # a late reading rarely comes later; what does is stored all the same
SLOTS = 8  # numbers of one measurement that hourly and daily aggregates know

_AGGREGATE = """
create materialized view measurement_{name} with (timescaledb.continuous, timescaledb.materialized_only = false) as
select subject, setting, metrics, time_bucket('{step}', measured_at) as bucket, count(*) as n, {slots}
from measurement where plausible group by subject, setting, metrics, time_bucket('{step}', measured_at) with no data
"""
_UNFOLDED = """
create or replace view reading_{name} as
select subject, m.metric, setting, bucket, sum(v.n)::bigint as n, sum(v.total) / nullif(sum(v.n), 0) as mean, min(v.low) as low,
    max(v.high) as high
from measurement_{name}, unnest(metrics) with ordinality as m(metric, slot),
    lateral (values {values}) as v(slot, n, total, low, high)
where v.slot = m.slot group by 1, 2, 3, 4
"""


async def edition(connection: Connection) -> Edition:
    """What this database is."""
    cursor = await connection.execute("select 1 from pg_extension where extname = 'timescaledb'")
    if await cursor.fetchone() is None:
        return "plain"
    row = await (await connection.execute("select current_setting('timescaledb.license', true) as license")).fetchone()
    return "community" if row is not None and row["license"] == "timescale" else "apache"


def chunk_interval(memory: int, index_bytes_per_day: float) -> timedelta:
    """How long a chunk may be for its indexes to stay within a quarter of `memory` bytes; whole hours."""
    if index_bytes_per_day <= 0:
        return timedelta(days=7)
    hours = int(24 * INDEX_SHARE * memory / index_bytes_per_day)
    return min(LONGEST, max(SHORTEST, timedelta(hours=hours)))


async def arrange(connection: Connection) -> list[str]:
    """Bring the tables into the best form this edition has; returns what could not be done, in words. Commits by itself."""
    kind = await edition(connection)
    problems: list[str] = []
    if kind != "plain":
        await _size_chunks(connection)
    if kind == "community":
        for what, statement in _community():
            try:
                async with connection.transaction():
                    await connection.execute(statement.encode())
            except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateTable):
                continue
            except psycopg.Error as error:
                problems.append(f"{what}: {str(error).splitlines()[0]}")
    await connection.commit()
    for problem in problems:
        log.warning("storage", extra={"problem": problem})
    return problems


async def _size_chunks(connection: Connection) -> None:
    """From what the last days wrote: the next chunk is as long as memory allows."""
    cursor = await connection.execute(
        "select pg_size_bytes(current_setting('shared_buffers')) as memory,"
        " (select coalesce(sum(pg_indexes_size(format('%I.%I', chunk_schema, chunk_name)::regclass)), 0)"
        "   from timescaledb_information.chunks where hypertable_name = 'measurement' and range_end > now() - interval '7 days')::bigint"
        " as bytes"
    )
    row = await cursor.fetchone()
    assert row is not None
    interval = chunk_interval(row["memory"], row["bytes"] / 7)
    await connection.execute("select set_chunk_time_interval('measurement', %s)", (interval,))


def _community() -> list[tuple[str, str]]:
    """(what, statement) of the community edition's features."""
    found = [
        (
            "columnstore",
            "alter table measurement set (timescaledb.compress, timescaledb.compress_segmentby = 'subject',"
            " timescaledb.compress_orderby = 'measured_at desc, measurement desc')",
        ),
        ("columnstore policy", f"select add_compression_policy('measurement', interval '{COLUMNSTORE_AFTER}', if_not_exists => true)"),
    ]
    for name, step, window in (("hourly", "1 hour", "3 days"), ("daily", "1 day", "30 days")):
        parts = ", ".join(
            f"count(numbers[{n}]) as n{n}, sum(numbers[{n}]) as s{n}, min(numbers[{n}]) as l{n}, max(numbers[{n}]) as h{n}"
            for n in range(1, SLOTS + 1)
        )
        values = ", ".join(f"({n}, n{n}, s{n}, l{n}, h{n})" for n in range(1, SLOTS + 1))
        found += [
            (f"{name} aggregate", _AGGREGATE.format(name=name, step=step, slots=parts)),
            (
                f"{name} refresh",
                f"select add_continuous_aggregate_policy('measurement_{name}', start_offset => interval '{window}',"
                f" end_offset => interval '{step}', schedule_interval => interval '{step}', if_not_exists => true)",
            ),
            (f"{name} view", f"drop view if exists reading_{name}"),
            (f"{name} view", _UNFOLDED.format(name=name, values=values).replace("or replace ", "")),
        ]
    return found


async def retire(connection: Connection, before: datetime) -> dict[str, int]:
    """Drop what was measured before a moment, in whole chunks or months, but keep what any alert cites; commits by itself.

    Returns counts: `kept` measurements that alerts cite, `dropped` chunks or partitions.
    """
    kind = await edition(connection)
    columns = (
        "measurement, measured_at, received_at, sent_at, stored_at, device_no, metrics, numbers, subject, kind, setting, time_quality,"
    )
    columns += " source, series, record, raw, device_time, checkin, weak, flags, codes, coded, plausible"
    cursor = await connection.execute(
        f"insert into measurement_kept ({columns}) select {columns} from measurement m where m.measured_at < %s"  # noqa: S608
        " and exists (select from alert_log l where l.measurement = m.measurement) on conflict do nothing",
        (before,),
    )
    kept = cursor.rowcount
    dropped = 0
    for table in ("measurement", "block"):
        if kind == "plain":
            for name in await _months_before(connection, table, before):
                await connection.execute(f"drop table {name}".encode())
                dropped += 1
        else:
            cursor = await connection.execute("select drop_chunks(%s, older_than => %s)", (table, before))
            dropped += len(await cursor.fetchall())
    await connection.commit()
    return {"kept": kept, "dropped": dropped}


async def _months_before(connection: Connection, table: str, before: datetime) -> list[str]:
    cursor = await connection.execute("select inhrelid::regclass::text as name from pg_inherits where inhparent = %s::regclass", (table,))
    names = [row["name"] for row in await cursor.fetchall()]
    latest = before.strftime("%Y%m")
    return sorted(name for name in names if name.rpartition("_")[2] < latest)
