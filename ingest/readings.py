"""All SQL about measurements, and the ledger that makes each of them exist once."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from psycopg.rows import scalar_row, tuple_row

from ingest.batch import Stored
from ingest.devices import DeviceRow
from vitals.floor import columns
from vitals.floor.database import Connection
from vitals.measurement import Measurement, Samples
from vitals.metric import BY_NUMBER, METRICS

BLOCK = 1000  # numbers that one step of measurement_seq stands for


class Candidate(NamedTuple):
    """An admitted measurement on its way to the ledger."""

    device: DeviceRow
    measurement: Measurement
    source: str
    sent_at: datetime | None


Key = tuple[int, int]  # device number, key of the record


class Entry(NamedTuple):
    """What the ledger let through: a number and, after a series break, the series it now belongs to."""

    number: int
    candidate: Candidate


_first_eight = struct.Struct(">q").unpack_from


def content_digest(measurement: Measurement) -> int:
    """What "the same bytes" means: the raw bytes, or the values and samples where none were sent. 64 bits, signed."""
    if measurement.raw:
        content = bytes.fromhex(measurement.raw)
    elif measurement.samples:
        content = msgspec.json.encode((measurement.values, measurement.codes, measurement.samples), order="sorted")
    else:
        content = msgspec.json.encode((measurement.values, measurement.codes), order="sorted")
    number: int = _first_eight(hashlib.sha256(content).digest())[0]
    return number


def record_key(series: str, record: int | str) -> int:
    """The ledger's key of a record: its number in the first series; everything else is hashed below zero.

    Two records under one key are told apart by their digests, and then the later one is stored as a series break: a
    collision of hashes loses nothing.
    """
    if type(record) is int and series == "1" and record >= 0:
        return record
    text = str(record)
    if series == "1" and text.isascii() and text.isdecimal() and len(text) <= 18 and (text == "0" or text[0] != "0"):
        return int(text)
    number: int = _first_eight(hashlib.sha256(series.encode() + b"\0" + text.encode()).digest())[0]
    return -1 - (number & 0x7FFF_FFFF_FFFF_FFFF)


class _Item(NamedTuple):
    """A candidate with what the ledger knows it by."""

    key: Key
    number: int
    digest: int
    candidate: Candidate


def _item(number: int, candidate: Candidate) -> _Item:
    measurement = candidate.measurement
    key = candidate.device.device_no, record_key(measurement.series, measurement.record)
    return _Item(key, number, content_digest(measurement), candidate)


def _broken(item: _Item) -> _Item:
    """Same key, other bytes: a series of its own, named after its bytes so that a repeat finds it again."""
    before = item.candidate.measurement
    series = f"{before.series}~{item.digest & 0xFFFF_FFFF_FFFF_FFFF:016x}"[:64]
    measurement = msgspec.structs.replace(before, series=series, flags=[*before.flags, "series_break"])
    return _item(item.number, item.candidate._replace(measurement=measurement))


async def enter(connection: Connection, candidates: Sequence[Candidate]) -> list[Entry]:
    """Pass candidates through the ledger, in order; returns the new ones. Locks rows in key order.

    A second copy by any path (redelivery, another gateway, a corrected clock) is absorbed; the same key with
    other bytes is kept, as a new series.
    """
    if not candidates:
        return []
    entries: list[Entry] = []
    remaining = [_item(number, one) for number, one in zip(await _numbers(connection, len(candidates)), candidates, strict=True)]
    while remaining:
        first: dict[Key, _Item] = {}
        for item in remaining:
            first.setdefault(item.key, item)
        new = await _insert(connection, [first[key] for key in sorted(first)])
        entries += [Entry(item.number, item.candidate) for item in first.values() if item.number in new]
        if len(new) == len(remaining):
            break
        known = {item.key: item.digest for item in first.values() if item.number in new}
        known |= await _digests(connection, [item.key for item in first.values() if item.number not in new])
        remaining = [_broken(item) for item in remaining if item.digest != known[item.key]]
    return sorted(entries, key=lambda entry: entry.number)


async def _numbers(connection: Connection, count: int) -> list[int]:
    """Numbers in stream order: a measurement with a higher number came later. What is left of a block is not used."""
    cursor = connection.cursor(row_factory=scalar_row)
    await cursor.execute("select nextval('measurement_seq') from generate_series(1, %s)", (-(-count // BLOCK),))
    return [number for first in await cursor.fetchall() for number in range(first, first + BLOCK)][:count]


def _bigints(values: Sequence[int]) -> Any:
    return np.array(values, np.int64)


async def _insert(connection: Connection, items: list[_Item]) -> set[int]:
    """Numbers of those (sorted by key) that were not there yet; the database decides."""
    cursor = connection.cursor(row_factory=scalar_row, binary=True)
    await cursor.execute(
        "insert into ledger (device_no, key, digest, measurement) select * from unnest(%s, %s, %s, %s)"
        " on conflict do nothing returning measurement",
        (
            _bigints([item.key[0] for item in items]),
            _bigints([item.key[1] for item in items]),
            _bigints([item.digest for item in items]),
            _bigints([item.number for item in items]),
        ),
    )
    return set(await cursor.fetchall())


async def _digests(connection: Connection, keys: list[Key]) -> dict[Key, int]:
    if not keys:
        return {}
    cursor = connection.cursor(row_factory=tuple_row, binary=True)
    await cursor.execute(
        "select l.device_no, l.key, l.digest from unnest(%s, %s) as k(device_no, key) join ledger l using (device_no, key)",
        (_bigints([key[0] for key in keys]), _bigints([key[1] for key in keys])),
    )
    return {(device, key): digest for device, key, digest in await cursor.fetchall()}


_COLUMNS = (
    "measurement, measured_at, received_at, sent_at, stored_at, device_no, metrics, numbers, subject, kind, setting, time_quality, source,"
    " series, record, raw, device_time, checkin, weak, flags, codes, coded, plausible"
)
_COUNT = struct.pack(">h", _COLUMNS.count(",") + 1)
_words = lru_cache(8192)(lambda *words: b"".join(map(columns.text, words)))
_when = lru_cache(8192)(columns.when)
_metrics = lru_cache(1024)(lambda codes: columns.smallints([METRICS[code].number for code in codes]))
_bigint = struct.Struct(">iq").pack


_PLAUSIBLE, _IMPLAUSIBLE = b"\0\0\0\x01\x01", b"\0\0\0\x01\x00"
_PLAIN_TAIL = columns.NULL * 4 + _PLAUSIBLE


def _implausible(weak: Sequence[str]) -> bool:
    return any(reason.startswith("implausible") for reason in weak)


async def write(connection: Connection, items: Sequence[tuple[Stored, Candidate]], now: datetime) -> None:
    """Write measurements by binary COPY."""
    if not items:
        return
    months = {(at.year, at.month): at for at in {stored.measurement.measured_at for stored, _ in items}}
    await connection.execute("select ensure_partitions(%s)", (list(months.values()),))
    stored_at = columns.when(now)
    rows = [_row(stored, candidate, stored_at) for stored, candidate in items]
    async with connection.cursor() as cursor, cursor.copy(f"copy measurement ({_COLUMNS}) from stdin (format binary)") as copy:
        await copy.write(columns.COPY_HEAD + b"".join(rows) + columns.COPY_END)
    dense = [stored for stored, _ in items if stored.measurement.samples]
    if dense:
        blocks = [_block(stored, code, one) for stored in dense for code, one in stored.measurement.samples.items()]
        async with connection.cursor() as cursor, cursor.copy(f"copy block ({_BLOCK}) from stdin (format binary)") as copy:
            await copy.write(columns.COPY_HEAD + b"".join(blocks) + columns.COPY_END)


_BLOCK = "measured_at, measurement, metric, every_ms, offsets, numbers"


def _block(stored: Stored, code: str, samples: Samples) -> bytes:
    every = columns.NULL if samples.every_ms is None else struct.pack(">if", 4, samples.every_ms)
    offsets = columns.array(samples.offsets_ms, ">i4", 23) if samples.offsets_ms else columns.NULL
    metric = struct.pack(">ih", 2, METRICS[code].number)
    return b"".join((
        b"\0\x06", columns.when(stored.measurement.measured_at), _bigint(8, stored.number), metric, every, offsets,
        columns.array(samples.values, ">f4", 700),
    ))  # fmt: skip


def _row(stored: Stored, candidate: Candidate, stored_at: bytes) -> bytes:
    m = stored.measurement
    numbers = m.values
    coded = None
    if str in map(type, numbers.values()):
        coded = {code: value for code, value in numbers.items() if isinstance(value, str)}
        numbers = {code: value for code, value in numbers.items() if not isinstance(value, str)}
    tail = _PLAIN_TAIL
    if stored.weak or m.flags or m.codes or coded:
        tail = b"".join((
            columns.texts(stored.weak), columns.texts(m.flags), columns.jsonb(msgspec.json.encode(m.codes) if m.codes else None),
            columns.jsonb(msgspec.json.encode(coded) if coded else None), _IMPLAUSIBLE if _implausible(stored.weak) else _PLAUSIBLE,
        ))  # fmt: skip
    return b"".join((
        _COUNT, _bigint(8, stored.number), _when(m.measured_at), _when(m.received_at), _when(candidate.sent_at),
        stored_at, _bigint(8, candidate.device.device_no), _metrics(tuple(numbers)), columns.floats(tuple(numbers.values())),  # type: ignore[arg-type]
        _words(stored.subject, m.kind, m.setting, m.time_quality, candidate.source, m.series),
        columns.text(str(m.record)), columns.field(bytes.fromhex(m.raw)), columns.text(m.device_time), columns.text(stored.checkin), tail,
    ))  # fmt: skip


_RESIDENT = "case when m.subject not like 'device:%%' then m.subject end"
_DETAIL = (
    "select m.measurement, m.measured_at, m.received_at, m.sent_at, m.stored_at, m.device_time, m.time_quality, m.kind, m.setting,"  # noqa: S608
    f" m.subject, {_RESIDENT} as resident, m.checkin, coalesce(m.weak, '{{}}') as weak, coalesce(m.flags, '{{}}') as flags,"
    " coalesce(m.codes, '{}') as codes, coalesce(m.coded, '{}') as coded, encode(m.raw, 'hex') as raw, m.series, m.record,"
    " m.metrics, m.numbers, d.device, d.site, d.station from measurement m join device d using (device_no)"
)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    numbers = zip(row.pop("metrics"), row.pop("numbers"), strict=True)
    row["values"] = {BY_NUMBER[number].code: value for number, value in numbers} | row.pop("coded")
    return row


async def by_number(connection: Connection, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Measurements with their readings, oldest first."""
    cursor = await connection.execute(_DETAIL + " where m.measurement = any(%s) order by m.measured_at", (list(numbers),))
    rows = await cursor.fetchall()
    missing = set(numbers) - {row["measurement"] for row in rows}
    if missing:  # retention took the rest of their month
        kept = _DETAIL.replace("from measurement m", "from measurement_kept m")
        cursor = await connection.execute(kept + " where m.measurement = any(%s)", (list(missing),))
        rows = sorted([*rows, *await cursor.fetchall()], key=lambda row: row["measured_at"])
    return [_named(row) for row in rows]


async def of_subject(connection: Connection, subject: str, since: datetime, until: datetime, limit: int) -> list[dict[str, Any]]:
    """A subject's measurements in [since, until), newest `limit`, oldest first."""
    cursor = await connection.execute(
        _DETAIL + " where m.subject = %s and m.measured_at >= %s and m.measured_at < %s order by m.measured_at desc limit %s",
        (subject, since, until, limit),
    )
    return [_named(row) for row in reversed(await cursor.fetchall())]


async def latest(connection: Connection, subject: str) -> dict[str, dict[str, Any]]:
    """metric → the subject's newest measurement that has it: {value, measured_at, setting}; within the last year."""
    cursor = await connection.execute(
        "select m.measured_at, m.setting, m.metrics, m.numbers from measurement m"
        " where m.subject = %s and m.measured_at >= now() - interval '1 year' order by m.measured_at desc limit 200",
        (subject,),
    )
    found: dict[str, dict[str, Any]] = {}
    for row in await cursor.fetchall():
        for number, value in zip(row["metrics"], row["numbers"], strict=True):
            told = {"value": value, "measured_at": row["measured_at"], "setting": row["setting"]}
            found.setdefault(BY_NUMBER[number].code, told)
    return found


async def last_of(
    connection: Connection, subjects: Sequence[str], since: datetime, until: datetime
) -> dict[str, dict[str, dict[str, Any]]]:  # fmt: skip
    """subject → systolic, glucose (fasting) → the newest measurement in [since, until) that is not weak: its number, values, setting."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for metric, kind, flag in (("systolic", "blood_pressure", None), ("glucose", "glucose", "fasting")):
        cursor = await connection.execute(
            "select distinct on (m.subject) m.subject, m.measurement, m.measured_at, m.setting, m.metrics, m.numbers,"
            " '{}'::jsonb as coded"
            " from measurement m where m.subject = any(%s) and m.measured_at >= %s and m.measured_at < %s and m.kind = %s"
            " and m.weak is null and m.metrics @> %s::smallint[] and (%s::text is null or %s = any(m.flags))"
            " order by m.subject, m.measured_at desc",
            (list(subjects), since, until, kind, [METRICS[metric].number], flag, flag),
        )
        for row in await cursor.fetchall():
            found.setdefault(row["subject"], {})[metric] = _named(row)
    return found


async def of_stations(connection: Connection, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """What station devices measured in [since, until): number, whose it is (None: nobody's), and the centre that answers for the site."""
    cursor = await connection.execute(
        f"select m.measurement, {_RESIDENT} as resident, t.centre from measurement m join device d using (device_no)"  # noqa: S608
        " left join duty u on u.site = d.site left join team t using (team)"
        " where d.station is not null and m.measured_at >= %s and m.measured_at < %s",
        (since, until),
    )
    return await cursor.fetchall()


async def systolic_counts(connection: Connection, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """(device, whole mm[Hg], how often) of systolic values in [since, until)."""
    cursor = await connection.execute(
        "select d.device, round(r.value)::int as value, count(*)::int as n from measurement m join device d using (device_no),"
        " unnest(m.metrics, m.numbers) as r(metric, value)"
        " where r.metric = %s and m.kind = 'blood_pressure' and m.measured_at >= %s and m.measured_at < %s group by 1, 2",
        (METRICS["systolic"].number, since, until),
    )
    return await cursor.fetchall()


async def unclaimed(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The unclaimed pool: measurements that belong to nobody yet, newest first."""
    cursor = await connection.execute(_DETAIL + " where m.subject like 'device:%%' order by m.measured_at desc limit %s", (limit,))
    return [_named(row) for row in await cursor.fetchall()]


def stored_of(row: dict[str, Any]) -> Stored:
    """A measurement's row, as `by_number` gives it, as the rules take it."""
    measurement = Measurement(
        device=row["device"], kind=row["kind"], record=row["record"], series=row["series"], measured_at=row["measured_at"],
        received_at=row["received_at"], device_time=row["device_time"], time_quality=row["time_quality"], setting=row["setting"],
        values=row["values"], codes=row["codes"], flags=row["flags"], raw=row["raw"],
    )  # fmt: skip
    return Stored(
        row["measurement"], measurement, row["subject"], row["resident"], row["checkin"], row["station"], row["site"], tuple(row["weak"])
    )


async def move(connection: Connection, numbers: Sequence[int], resident: str | None, account: str, why: str) -> dict[str, list[Stored]]:
    """Give measurements to a resident, or back to their devices (None): former subject → what was taken from it.

    The measurements come back as what they are now; those that are where they should be are left alone. Logged.
    """
    cursor = await connection.execute(
        "select m.measurement, m.measured_at, m.subject, d.device from measurement m join device d using (device_no)"
        " where m.measurement = any(%s) order by m.measurement for update of m",
        (list(numbers),),
    )
    former: dict[int, str] = {}
    for row in await cursor.fetchall():
        owner = resident or f"device:{row['device']}"
        if row["subject"] == owner:
            continue
        former[row["measurement"]] = row["subject"]
        await connection.execute(
            "update measurement set subject = %s where measurement = %s and measured_at = %s",
            (owner, row["measurement"], row["measured_at"]),
        )
        await connection.execute(
            "insert into attribution_log (at, measurement, from_subject, to_subject, account, why) values (now(), %s, %s, %s, %s, %s)",
            (row["measurement"], row["subject"], owner, account, why),
        )
    taken: dict[str, list[Stored]] = {}
    for row in await by_number(connection, list(former)):
        taken.setdefault(former[row["measurement"]], []).append(stored_of(row))
    return taken


async def of_device(connection: Connection, device: str, subjects: Sequence[str], since: datetime, until: datetime | None) -> list[int]:
    """Numbers of what a device measured in [since, until) and these subjects have."""
    cursor = await connection.execute(
        "select m.measurement from measurement m join device d using (device_no) where d.device = %s and m.subject = any(%s)"
        " and m.measured_at >= %s and m.measured_at < coalesce(%s, 'infinity'::timestamptz) order by m.measurement",
        (device, list(subjects), since, until),
    )
    return [row["measurement"] for row in await cursor.fetchall()]
