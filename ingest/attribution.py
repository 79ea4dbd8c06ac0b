"""Whose measurement is it? The backend's intervals decide; the edge never holds a person's identity.

A person's own device belongs to whoever was bound to it at the time of measuring. A station belongs to the
resident whose check-in was open then: it ends at check-out, at the next check-in, after two minutes without
activity (while a repeat is asked for: at that deadline) or fifteen minutes after its start; the measurement must
name the same check-in. What fits no interval waits in the unclaimed pool under the device's own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from ingest.batch import Event
from ingest.devices import DeviceRow
from vitals.errors import Refused
from vitals.floor.columns import micros, times
from vitals.floor.database import Connection
from vitals.measurement import Measurement

IDLE = timedelta(minutes=2)
LONGEST = timedelta(minutes=15)


class Owner(NamedTuple):
    """resident and checkin are None for the unclaimed."""

    resident: str | None
    checkin: str | None


def moment_of(measurement: Measurement) -> datetime:
    """The time at which attribution is decided: when it was measured, or received if the clock is no good."""
    return measurement.received_at if measurement.time_quality == "untrusted" else measurement.measured_at


async def attribute(connection: Connection, items: Sequence[tuple[DeviceRow, Measurement]]) -> list[Owner]:
    """One owner for each measurement, in the same order; keeps the check-ins it hits alive."""
    owners = [Owner(None, None)] * len(items)
    worn = [number for number, (device, _) in enumerate(items) if device.station is None]
    for number, resident in await _wearers(connection, worn, [items[number] for number in worn]):
        owners[number] = Owner(resident, None)
    standing = [number for number, (device, _) in enumerate(items) if device.station is not None]
    for number, visitor, checkin in await _visitors(connection, standing, [items[number] for number in standing]):
        owners[number] = Owner(visitor, checkin)
    active = {owner.checkin: moment_of(m) for owner, (_, m) in zip(owners, items, strict=True) if owner.checkin}
    for checkin, at in sorted(active.items()):
        await extend(connection, checkin, at + IDLE)
    return owners


async def _wearers(connection: Connection, numbers: Sequence[int], items: Sequence[tuple[DeviceRow, Measurement]]) -> list[tuple[int, str]]:
    """(number, resident) of personal devices that somebody was bound to at the time of measuring."""
    if not items:
        return []
    cursor = connection.cursor(row_factory=tuple_row, binary=True)
    await cursor.execute(
        "select w.n, b.resident from unnest(%s, %s, %s) as w(n, device_no, at)"
        " join binding b on b.device_no = w.device_no and b.during @> w.at",
        (
            np.array(numbers, np.int64),
            np.array([device.device_no for device, _ in items], np.int64),
            times([micros(moment_of(measurement)) for _, measurement in items]),
        ),
    )
    found: list[tuple[int, str]] = await cursor.fetchall()
    return found


async def _visitors(
    connection: Connection, numbers: Sequence[int], items: Sequence[tuple[DeviceRow, Measurement]]
) -> list[tuple[int, str, str]]:
    """(number, resident, check-in) of a station's devices whose measurement names the check-in that was open."""
    if not items:
        return []
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "select w.n, c.resident, c.checkin from unnest(%s::int[], %s::text[], %s::timestamptz[], %s::text[]) as w(n, station, at, claimed)"
        " join checkin c on c.station = w.station and c.checkin = w.claimed and c.started_at <= w.at and w.at < c.ends_at",
        (
            list(numbers),
            [device.station for device, _ in items],
            [moment_of(measurement) for _, measurement in items],
            [measurement.checkin for _, measurement in items],
        ),
    )
    return await cursor.fetchall()


async def wearers_now(connection: Connection, devices: Sequence[int], now: datetime) -> dict[int, str]:
    """device number → resident bound to it now: for routing, not for deciding."""
    cursor = connection.cursor(row_factory=tuple_row, binary=True)
    await cursor.execute(
        "select device_no, resident from binding where device_no = any(%s) and during @> %s::timestamptz",
        (np.array(devices, np.int64), now),
    )
    return dict(await cursor.fetchall())


async def visitors_of(connection: Connection, checkins: Sequence[str]) -> dict[str, str]:
    """check-in → resident: for routing, not for deciding."""
    if not checkins:
        return {}
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute("select checkin, resident from checkin where checkin = any(%s)", (list(checkins),))
    return dict(await cursor.fetchall())


async def extend(connection: Connection, checkin: str, until: datetime) -> None:
    """Keep a check-in open until `until`, never beyond its fifteen minutes, never after a person ended it."""
    await connection.execute(
        "update checkin set ends_at = greatest(ends_at, least(latest_at, %s)) where checkin = %s and ended_by is null", (until, checkin)
    )


async def apply(connection: Connection, event: Event) -> None:
    """Apply an attribution event: bind, unbind, checkin, checkout. Raises Refused with a stable reason."""
    body = event.body
    match event.kind:
        case "bind":
            await bind(connection, str(body["device"]), str(body["resident"]), event.created_at)
        case "unbind":
            await _unbind(connection, str(body["device"]), event.created_at)
        case "checkin":
            await _check_in(connection, body, event.created_at)
        case "checkout":
            await _check_out(connection, str(body["checkin"]), event.created_at)


async def bind(connection: Connection, device: str, resident: str, at: datetime) -> None:
    """Bind from `at` on; raises Refused `unknown_device` or `already_bound`."""
    try:
        async with connection.transaction():
            cursor = await connection.execute(
                "insert into binding (device_no, resident, during)"
                " select device_no, %s, tstzrange(%s, null) from device where device = %s and station is null returning binding",
                (resident, at, device),
            )
            if await cursor.fetchone() is None:
                raise Refused("unknown_device")
    except psycopg.errors.ExclusionViolation:
        raise Refused("already_bound") from None


async def _unbind(connection: Connection, device: str, at: datetime) -> None:
    cursor = await connection.execute(
        "update binding b set during = tstzrange(lower(b.during), %s) from device d"
        " where d.device = %s and b.device_no = d.device_no and upper_inf(b.during) and lower(b.during) < %s returning binding",
        (at, device, at),
    )
    if await cursor.fetchone() is None:
        raise Refused("not_bound")


async def rebind(connection: Connection, device: str, resident: str | None, since: datetime, until: datetime | None) -> list[str]:
    """Correct who wore a device in [since, until): cut it out of every other interval, and give it to `resident`, if to anybody.

    Returns the subjects who may have measurements of that time. Raises Refused `unknown_device`.
    """
    row = await (await connection.execute("select device_no from device where device = %s and station is null", (device,))).fetchone()
    if row is None:
        raise Refused("unknown_device")
    number = row["device_no"]
    cursor = await connection.execute(
        "delete from binding where device_no = %s and during && tstzrange(%s, %s) returning resident, lower(during) as since,"
        " upper(during) as until",
        (number, since, until),
    )
    former = await cursor.fetchall()
    for one in former:
        if one["since"] is None or one["since"] < since:
            await connection.execute(
                "insert into binding (device_no, resident, during) values (%s, %s, tstzrange(%s, %s))",
                (number, one["resident"], one["since"], since),
            )
        if until is not None and (one["until"] is None or one["until"] > until):
            await connection.execute(
                "insert into binding (device_no, resident, during) values (%s, %s, tstzrange(%s, %s))",
                (number, one["resident"], until, one["until"]),
            )
    if resident is not None:
        await connection.execute(
            "insert into binding (device_no, resident, during) values (%s, %s, tstzrange(%s, %s))", (number, resident, since, until)
        )
    return sorted({one["resident"] for one in former} | {f"device:{device}"})


async def _check_in(connection: Connection, body: dict[str, Any], at: datetime) -> None:
    """A new check-in ends the one before it; tell the gateway, so that its measurements name it."""
    await connection.execute(
        "update checkin set ends_at = %s, ended_by = 'next_checkin' where station = %s and started_at <= %s and ends_at > %s",
        (at, body["station"], at, at),
    )
    await connection.execute(
        "insert into checkin (checkin, station, resident, started_at, ends_at, latest_at) values (%s, %s, %s, %s, %s, %s)"
        " on conflict (checkin) do nothing",
        (body["checkin"], body["station"], body["resident"], at, at + IDLE, at + LONGEST),
    )
    command = {"command": "checkin", "checkin": body["checkin"], "until": (at + LONGEST).isoformat()}
    await _tell_gateway(connection, str(body["station"]), command)


async def _check_out(connection: Connection, checkin: str, at: datetime) -> None:
    cursor = await connection.execute(
        "update checkin set ends_at = greatest(started_at, %s), ended_by = 'checkout'"
        " where checkin = %s and ends_at > %s returning station",
        (at, checkin, at),
    )
    row = await cursor.fetchone()
    if row is None:
        raise Refused("checkin_over")
    await _tell_gateway(connection, row["station"], {"command": "checkout", "checkin": checkin})


async def _tell_gateway(connection: Connection, gateway: str, command: dict[str, Any]) -> None:
    await connection.execute("insert into outbox (kind, gateway, body) values ('command', %s, %s)", (gateway, Jsonb(command)))


async def open_checkin(connection: Connection, checkin: str, now: datetime) -> dict[str, Any]:
    """Station and resident of a check-in that is open now, or that is accepted and about to be applied.

    Raises Refused `unknown_checkin` or `checkin_over`.
    """
    cursor = await connection.execute("select checkin, station, resident, ends_at from checkin where checkin = %s", (checkin,))
    row = await cursor.fetchone()
    if row is None:
        cursor = await connection.execute(
            "select body->>'checkin' as checkin, body->>'station' as station, body->>'resident' as resident from intake"
            " where kind = 'checkin' and applied_at is null and body->>'checkin' = %s",
            (checkin,),
        )
        row = await cursor.fetchone()
        if row is None:
            raise Refused("unknown_checkin")
        return row
    if row["ends_at"] <= now:
        raise Refused("checkin_over")
    return row
