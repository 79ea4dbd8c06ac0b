"""All SQL about measurements, readings and the ledger that makes each of them exist once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from psycopg.types.json import Jsonb

from ingest.batch import Stored
from ingest.devices import DeviceRow
from vitals.floor.database import Connection
from vitals.measurement import Measurement
from vitals.metric import BY_NUMBER, METRICS


class Candidate(NamedTuple):
    """An admitted measurement on its way to the ledger."""

    device: DeviceRow
    measurement: Measurement
    source: str
    sent_at: datetime | None


Key = tuple[int, str, str]  # device number, series, record


class Entry(NamedTuple):
    """What the ledger let through: a number and, after a series break, the series it now belongs to."""

    number: int
    candidate: Candidate


def content_digest(measurement: Measurement) -> bytes:
    """What "the same bytes" means: the raw bytes, or the values where a kiosk sent none."""
    if measurement.raw:
        return hashlib.sha256(bytes.fromhex(measurement.raw)).digest()[:16]
    return hashlib.sha256(msgspec.json.encode((measurement.values, measurement.codes), order="sorted")).digest()[:16]


def _key(candidate: Candidate) -> Key:
    return candidate.device.device_no, candidate.measurement.series, str(candidate.measurement.record)


def _broken(candidate: Candidate, digest: bytes) -> Candidate:
    """Same key, other bytes: a series of its own, named after its bytes so that a repeat finds it again."""
    measurement = msgspec.structs.replace(
        candidate.measurement,
        series=f"{candidate.measurement.series}~{digest.hex()[:12]}",
        flags=[*candidate.measurement.flags, "series_break"],
    )
    return candidate._replace(measurement=measurement)


async def enter(connection: Connection, candidates: Sequence[Candidate]) -> list[Entry]:
    """Pass candidates through the ledger, in order; returns the new ones. Locks rows in key order.

    A second copy by any path (redelivery, another gateway, a corrected clock) is absorbed; the same key with
    other bytes is kept, as a new series.
    """
    entries: list[Entry] = []
    remaining = list(zip(await _numbers(connection, len(candidates)), candidates, strict=True))
    while remaining:
        first: dict[Key, Entry] = {}
        for number, candidate in remaining:
            first.setdefault(_key(candidate), Entry(number, candidate))
        new = await _insert(connection, [(key, first[key].number) for key in sorted(first)])
        known = await _digests(connection, [key for key in first if key not in new])
        known |= {key: content_digest(first[key].candidate.measurement) for key in new}
        await _note_digests(connection, [(key, known[key]) for key in sorted(new)])
        entries += [first[key] for key in new]
        digests = [(number, candidate, content_digest(candidate.measurement)) for number, candidate in remaining]
        remaining = [(number, _broken(candidate, digest)) for number, candidate, digest in digests if digest != known[_key(candidate)]]
    return sorted(entries, key=lambda entry: entry.number)


async def _numbers(connection: Connection, count: int) -> list[int]:
    """Numbers in stream order: a measurement with a higher number came later."""
    if not count:
        return []
    cursor = await connection.execute("select nextval('measurement_seq') as n from generate_series(1, %s)", (count,))
    return [row["n"] for row in await cursor.fetchall()]


async def _insert(connection: Connection, keys: list[tuple[Key, int]]) -> set[Key]:
    """Which of these (sorted) keys were not there yet; the database decides."""
    cursor = await connection.execute(
        "insert into ledger (device_no, series, record, digest, measurement)"
        " select k.device_no, k.series, k.record, '', k.number"
        " from unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[]) with ordinality as k(device_no, series, record, number, n)"
        " order by k.n on conflict do nothing returning device_no, series, record",
        ([k[0] for k, _ in keys], [k[1] for k, _ in keys], [k[2] for k, _ in keys], [number for _, number in keys]),
    )
    return {(row["device_no"], row["series"], row["record"]) for row in await cursor.fetchall()}


async def _note_digests(connection: Connection, digests: list[tuple[Key, bytes]]) -> None:
    if not digests:
        return
    await connection.execute(
        "update ledger l set digest = d.digest"
        " from unnest(%s::bigint[], %s::text[], %s::text[], %s::bytea[]) as d(device_no, series, record, digest)"
        " where (l.device_no, l.series, l.record) = (d.device_no, d.series, d.record)",
        ([k[0] for k, _ in digests], [k[1] for k, _ in digests], [k[2] for k, _ in digests], [d for _, d in digests]),
    )


async def _digests(connection: Connection, keys: list[Key]) -> dict[Key, bytes]:
    if not keys:
        return {}
    cursor = await connection.execute(
        "select device_no, series, record, digest from ledger where (device_no, series, record) in"
        " (select * from unnest(%s::bigint[], %s::text[], %s::text[]))",
        ([k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys]),
    )
    return {(row["device_no"], row["series"], row["record"]): row["digest"] for row in await cursor.fetchall()}


async def write(connection: Connection, items: Sequence[tuple[Stored, Candidate]], now: datetime) -> None:
    """Write measurements and their readings by COPY."""
    if not items:
        return
    moments = sorted({stored.measurement.measured_at for stored, _ in items})
    await connection.execute("select ensure_partitions(%s)", (moments,))
    async with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy measurement (measurement, measured_at, received_at, sent_at, stored_at, device_time, time_quality, device_no, series,"
            " record, kind, setting, subject, resident, checkin, source, weak, flags, codes, coded, raw) from stdin"
        ) as copy,
    ):
        for stored, candidate in items:
            await copy.write_row(_measurement_row(stored, candidate, now))
    async with (
        connection.cursor() as cursor,
        cursor.copy("copy reading (measured_at, measurement, metric, value, subject, setting, plausible) from stdin") as copy,
    ):
        for stored, _ in items:
            m = stored.measurement
            plausible = not any(reason.startswith("implausible") for reason in stored.weak)
            for code, value in m.values.items():
                if not isinstance(value, str):
                    await copy.write_row(
                        (m.measured_at, stored.number, METRICS[code].number, float(value), stored.subject, m.setting, plausible)
                    )


def _measurement_row(stored: Stored, candidate: Candidate, now: datetime) -> tuple[Any, ...]:
    m = stored.measurement
    coded = {code: value for code, value in m.values.items() if isinstance(value, str)}
    return (
        stored.number, m.measured_at, m.received_at, candidate.sent_at, now, m.device_time, m.time_quality, candidate.device.device_no,
        m.series, str(m.record), m.kind, m.setting, stored.subject, stored.resident, stored.checkin, candidate.source,
        list(stored.weak), m.flags, Jsonb(m.codes), Jsonb(coded), bytes.fromhex(m.raw),
    )  # fmt: skip


_DETAIL = (
    "select m.measurement, m.measured_at, m.received_at, m.sent_at, m.stored_at, m.device_time, m.time_quality, m.kind, m.setting,"
    " m.subject, m.resident, m.checkin, m.weak, m.flags, m.codes, m.coded, encode(m.raw, 'hex') as raw, m.series, m.record,"
    " d.device, d.site, d.station,"
    " coalesce((select jsonb_object_agg(r.metric::text, r.value) from reading r"
    "   where r.measurement = m.measurement and r.measured_at = m.measured_at and r.subject = m.subject), '{}') as numbers"
    " from measurement m join device d using (device_no)"
)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    numbers = row.pop("numbers")
    row["values"] = {BY_NUMBER[int(number)].code: value for number, value in numbers.items()} | row.pop("coded")
    return row


async def by_number(connection: Connection, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Measurements with their readings, oldest first."""
    cursor = await connection.execute(_DETAIL + " where m.measurement = any(%s) order by m.measured_at", (list(numbers),))
    return [_named(row) for row in await cursor.fetchall()]


async def of_subject(connection: Connection, subject: str, since: datetime, until: datetime, limit: int) -> list[dict[str, Any]]:
    """A subject's measurements in [since, until), newest `limit`, oldest first."""
    cursor = await connection.execute(
        _DETAIL + " where m.subject = %s and m.measured_at >= %s and m.measured_at < %s order by m.measured_at desc limit %s",
        (subject, since, until, limit),
    )
    return [_named(row) for row in reversed(await cursor.fetchall())]


async def unclaimed(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The unclaimed pool: measurements that belong to nobody yet, newest first."""
    cursor = await connection.execute(
        _DETAIL + " where m.resident is null and m.subject like 'device:%%' order by m.measured_at desc limit %s", (limit,)
    )
    return [_named(row) for row in await cursor.fetchall()]


async def claim(connection: Connection, number: int, resident: str) -> Stored | None:
    """Move an unclaimed measurement to its owner; returns it as new input for the rules, None if already claimed."""
    cursor = await connection.execute(
        "update measurement set subject = %s, resident = %s where measurement = %s and resident is null returning measured_at",
        (resident, resident, number),
    )
    if await cursor.fetchone() is None:
        return None
    await connection.execute("update reading set subject = %s where measurement = %s", (resident, number))
    row = (await by_number(connection, [number]))[0]
    measurement = Measurement(
        device=row["device"], kind=row["kind"], record=row["record"], series=row["series"], measured_at=row["measured_at"],
        received_at=row["received_at"], device_time=row["device_time"], time_quality=row["time_quality"], setting=row["setting"],
        values=row["values"], codes=row["codes"], flags=row["flags"], raw=row["raw"],
    )  # fmt: skip
    return Stored(number, measurement, resident, resident, None, row["station"], row["site"], tuple(row["weak"]))
