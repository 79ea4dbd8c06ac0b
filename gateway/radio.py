"""The radio: a scan that never stops, and one session at a time with each device that speaks up.

A measuring device is awake for seconds: it is connected on first sight, while the scan goes on (a device found by
a finished scan may already be forgotten). The host confirms an indication before our code sees it, so the
callback makes the bytes durable synchronously, before anything else happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import BleakError

from gateway.devices import Device
from gateway.translate import ClockReading
from vitals import gatt
from vitals.errors import DecodeError
from vitals.floor import metrics

log = logging.getLogger("gateway.radio")

CONNECT_TIMEOUT = 20.0
SESSION_LIMIT = 60.0
QUIET_LIMIT = 10.0  # s without a frame after which we hang up ourselves
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.5, 60.0

# called with (device, frame, clock, received_at); must be durable when it returns
OnFrame = Callable[[Device, bytes, ClockReading | None, datetime], None]


class Radio:
    """Scan and read the allowed devices. scanner, client: bleak backend classes, None for the machine's own."""

    def __init__(
        self, devices: dict[str, Device], on_frame: OnFrame, scanner: type[Any] | None = None, client: type[Any] | None = None
    ) -> None:
        self._devices = devices
        self._on_frame = on_frame
        self._scanner_backend, self._client_backend = scanner, client
        self._sessions: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._back_off: dict[str, float] = {}
        self._connecting = 0
        self._rescan = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until cancelled; raises what `on_frame` raised, because what cannot be made durable must stop the process."""
        scanner = BleakScanner(self._seen, backend=self._scanner_backend) if self._scanner_backend else BleakScanner(self._seen)
        refreshing = asyncio.ensure_future(self._refresh(scanner))
        try:
            async with scanner:
                log.info("scanning", extra={"devices": len(self._devices)})
                await asyncio.wait([self._failure, refreshing], return_when=asyncio.FIRST_COMPLETED)
                self._failure.result()
        finally:
            refreshing.cancel()
            for session in self._sessions.values():
                session.cancel()
            await asyncio.gather(*self._sessions.values(), return_exceptions=True)

    async def _refresh(self, scanner: BleakScanner) -> None:
        """Begin the scan anew after sessions, between connection attempts.

        BlueZ reports a known device again only when its data or its signal (by 8 dB) changed; a cuff that wakes
        up beside the station would go unheard. Stopping the discovery makes it forget the signal.
        """
        while True:
            await self._rescan.wait()
            for _ in range(100):
                if not self._connecting:
                    break
                await asyncio.sleep(0.1)
            self._rescan.clear()
            try:
                await scanner.stop()
                await scanner.start()
            except (BleakError, OSError, EOFError) as error:
                self._fail(error)  # the adapter or its daemon is gone: the process starts anew

    def _fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    def _seen(self, found: BLEDevice, _advertisement: Any) -> None:
        device = self._devices.get(found.address.upper())
        if device is None or found.address in self._sessions or time.monotonic() < self._not_before.get(found.address, 0.0):
            return
        session = asyncio.get_running_loop().create_task(self._session(device, found))
        self._sessions[found.address] = session
        session.add_done_callback(lambda _task: self._sessions.pop(found.address, None))

    async def _session(self, device: Device, found: BLEDevice) -> None:
        frames = 0
        try:
            async with asyncio.timeout(SESSION_LIMIT):
                frames = await self._read(device, found)
            outcome = "read" if frames else "empty"
        except (BleakError, TimeoutError, OSError, EOFError) as error:
            outcome = "failed"
            log.info("session failed", extra={"device": device.device, "error": type(error).__name__, "text": str(error)[:120]})
        except Exception:  # one bad device never stalls another
            outcome = "failed"
            log.exception("session failed", extra={"device": device.device})
        metrics.sessions.labels(outcome).inc()
        self._pause(found.address, quiet=outcome == "read")
        self._rescan.set()

    def _pause(self, address: str, *, quiet: bool) -> None:
        """When to look at this device again: at once after a good session, else later each time, with jitter."""
        wait = 0.0 if quiet else min(self._back_off.get(address, FIRST_BACK_OFF / 2) * 2, LONGEST_BACK_OFF)
        self._back_off[address] = wait if wait else FIRST_BACK_OFF / 2
        self._not_before[address] = time.monotonic() + wait * random.uniform(0.75, 1.25)  # noqa: S311

    async def _read(self, device: Device, found: BLEDevice) -> int:
        """One session: connect, bond, read the clock, subscribe, take what comes until the device hangs up."""
        gone, heard = asyncio.Event(), asyncio.Event()
        options: dict[str, Any] = {"backend": self._client_backend} if self._client_backend else {}
        client = BleakClient(found, disconnected_callback=lambda _client: gone.set(), timeout=CONNECT_TIMEOUT, **options)
        frames = 0
        self._connecting += 1
        try:
            await client.connect()
        finally:
            self._connecting -= 1
        try:
            await client.pair()
            clock = await self._read_clock(client)

            def on_indication(_characteristic: Any, data: bytearray) -> None:
                nonlocal frames
                frames += 1
                heard.set()
                try:
                    self._on_frame(device, bytes(data), clock, datetime.now(UTC))
                except Exception as error:  # noqa: BLE001  handed to `run`, which ends the process with it
                    self._fail(error)

            await client.start_notify(gatt.BLOOD_PRESSURE_MEASUREMENT, on_indication)
            await _until_quiet(gone, heard)
        finally:
            await client.disconnect()
        return frames

    @staticmethod
    async def _read_clock(client: BleakClient) -> ClockReading | None:
        if client.services.get_characteristic(gatt.CURRENT_TIME) is None:
            return None
        with contextlib.suppress(BleakError, DecodeError):
            before = datetime.now(UTC)
            data = await client.read_gatt_char(gatt.CURRENT_TIME)
            after = datetime.now(UTC)
            current = gatt.CurrentTime.from_bytes(bytes(data))
            shown = current.time.calendar()
            if shown is not None:
                return ClockReading(shown.replace(microsecond=current.fraction_256 * 1_000_000 // 256), before + (after - before) / 2)
        return None


async def _until_quiet(gone: asyncio.Event, heard: asyncio.Event) -> None:
    """Until the device hangs up, or says nothing for QUIET_LIMIT."""
    while not gone.is_set():
        heard.clear()
        waiting = [asyncio.ensure_future(gone.wait()), asyncio.ensure_future(heard.wait())]
        done, rest = await asyncio.wait(waiting, timeout=QUIET_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        if not done:
            return
