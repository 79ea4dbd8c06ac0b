"""The clock of a connected device: read beside ours, and set where its model wants that."""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from bleak import BleakClient
from bleak.exc import BleakError

from gateway.clock import ClockReading, was_moved
from gateway.devices import Device
from gateway.store import Store
from vitals import gatt
from vitals.errors import DecodeError

log = logging.getLogger("gateway.device_clock")


class DeviceClock:
    """Current Time (2A2B), or the bare date and time (2A08) that some meters keep in its place."""

    def __init__(self, client: BleakClient, device: Device, store: Store, zone: ZoneInfo) -> None:
        self._client, self._device, self._store, self._zone = client, device, store, zone
        names = (gatt.CURRENT_TIME, gatt.DATE_TIME)
        self._uuid = next((name for name in names if client.services.get_characteristic(name) is not None), None)

    async def read(self) -> ClockReading | None:
        """Both clocks at the same moment, and whether the device's was moved since we met last; None if it cannot be read."""
        if self._device.model.time == "none" or self._uuid is None:
            return None
        try:
            before = datetime.now(UTC)
            data = bytes(await self._client.read_gatt_char(self._uuid))
            after = datetime.now(UTC)
            whole = self._uuid == gatt.CURRENT_TIME
            current = gatt.CurrentTime.from_bytes(data) if whole else gatt.CurrentTime(gatt.DeviceTime.from_bytes(data))
        except (BleakError, DecodeError):
            return None
        shown = current.time.calendar()
        if shown is None:
            return None
        shown = shown.replace(microsecond=current.fraction_256 * 1_000_000 // 256)
        clock = ClockReading(shown, before + (after - before) / 2)
        known = self._store.clock_offset(self._device.device)
        moved = was_moved(clock, None if known is None else timedelta(seconds=known), self._zone)
        self._store.note_clock(self._device.device, clock.offset(self._zone).total_seconds())
        return clock._replace(moved=moved)

    async def write(self) -> ClockReading | None:
        """Set it to local time; what the device stored before keeps the old offset. None if it would not."""
        if self._uuid is None:
            return None
        now = datetime.now(UTC)
        local = now.astimezone(self._zone).replace(tzinfo=None)
        told = gatt.DeviceTime.of(local)
        whole = gatt.CurrentTime(told, local.isoweekday(), local.microsecond * 256 // 1_000_000)
        with contextlib.suppress(BleakError):
            await self._client.write_gatt_char(self._uuid, bytes(whole if self._uuid == gatt.CURRENT_TIME else told), response=True)
            self._store.note_clock(self._device.device, 0.0)
            return ClockReading(local, now)
        log.info("clock not set", extra={"device": self._device.device})
        return None
