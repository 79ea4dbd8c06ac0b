"""The radio: a scan that never stops, and one session at a time with each device that speaks up.

A measuring device is awake for seconds: it is connected on first sight, while the scan goes on (a device found by
a finished scan may already be forgotten). One device that fails waits longer each time and never stalls another.
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
from zoneinfo import ZoneInfo

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakError

from gateway import broadcast
from gateway.devices import Device
from gateway.session import Session
from gateway.store import Store
from gateway.translate import Frame
from vitals.errors import Unavailable
from vitals.floor import metrics

log = logging.getLogger("gateway.radio")

CONNECT_TIMEOUT = 20.0
SESSION_LIMIT = 120.0  # s; a device that streams is left alone
DROPS = 3
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.5, 60.0


class Radio:
    """Scan and read the allowed devices. scanner, client: bleak backend classes, None for the machine's own.

    devices: address → device; may gain and lose rows while this runs.
    """

    def __init__(
        self, devices: dict[str, Device], store: Store, zone: ZoneInfo, scanner: type[Any] | None = None, client: type[Any] | None = None
    ) -> None:
        self._devices, self._store, self._zone = devices, store, zone
        self._scanner_backend, self._client_backend = scanner, client
        self._sessions: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._back_off: dict[str, float] = {}
        self._broadcasts: dict[str, bytes] = {}
        self._connecting = 0
        self._dropped: dict[str, int] = {}  # times in a row that a device hung up before it had said anything
        self.on_bond_lost: Callable[[Device], None] = lambda _device: None
        self._rescan = asyncio.Event()
        self._closing = False
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listening: dict[str, AdvertisementData] | None = None
        self._sought: dict[str, asyncio.Future[tuple[BLEDevice, AdvertisementData]]] = {}

    async def run(self) -> None:
        """Until cancelled; raises what the store raised, because what cannot be made durable must stop the process."""
        scanner = BleakScanner(self._seen, backend=self._scanner_backend) if self._scanner_backend else BleakScanner(self._seen)
        try:
            async with scanner:
                log.info("scanning", extra={"devices": len(self._devices)})
                refreshing = asyncio.ensure_future(self._refresh(scanner))
                try:
                    await asyncio.wait([self._failure, refreshing], return_when=asyncio.FIRST_COMPLETED)
                    self._failure.result()
                finally:  # ended before the scanner is stopped: nobody may start it again behind our back
                    self._closing = True
                    refreshing.cancel()
                    await asyncio.wait([refreshing])
        finally:
            for session in self._sessions.values():
                session.cancel()
            await asyncio.gather(*self._sessions.values(), return_exceptions=True)

    async def _refresh(self, scanner: BleakScanner) -> None:
        """Begin the scan anew after sessions, between connection attempts.

        BlueZ reports a known device again only when its data or its signal (by 8 dB) changed; a cuff that wakes
        up beside the station would go unheard. Stopping the discovery makes it forget the signal.
        """
        while not self._closing:  # a cancellation alone can be lost in a driver's wait_for (Python 3.11)
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
                self.fail(error)  # the adapter or its daemon is gone: the process starts anew

    def fail(self, error: Exception) -> None:
        """End `run` with this error."""
        if not self._failure.done():
            self._failure.set_exception(error)

    def _seen(self, found: BLEDevice, advertisement: AdvertisementData) -> None:
        address = found.address.upper()
        if self._listening is not None:
            self._listening[address] = advertisement
        sought = self._sought.get(address)
        if sought is not None and not sought.done():
            sought.set_result((found, advertisement))
        device = self._devices.get(address)
        if device is None:
            return
        protocol = device.model.protocol
        if protocol is not None and protocol.endswith("_adv"):
            self._hear(device, protocol, advertisement)
            return
        if found.address in self._sessions or time.monotonic() < self._not_before.get(found.address, 0.0):
            return
        session = asyncio.get_running_loop().create_task(self._session(device, found))
        self._sessions[found.address] = session
        session.add_done_callback(lambda _task: self._sessions.pop(found.address, None))

    def _hear(self, device: Device, protocol: str, advertisement: AdvertisementData) -> None:
        """A broadcast is repeated for seconds: what was heard last is not heard again."""
        data = broadcast.payload(protocol, advertisement.service_data, advertisement.manufacturer_data)
        if data is None or self._broadcasts.get(device.address) == data:
            return
        self._broadcasts[device.address] = data
        try:
            broadcast.accept(self._store, device, Frame(protocol, data, datetime.now(UTC)))
        except Exception as error:  # noqa: BLE001  what cannot be made durable must stop the process
            self.fail(error)

    async def _session(self, device: Device, found: BLEDevice) -> None:
        frames = 0
        try:
            async with asyncio.timeout(None if device.model.history == "stream" else SESSION_LIMIT):
                frames = await self._read(device, found)
            outcome = "read" if frames else "empty"
            self._dropped.pop(device.address, None)
        except (BleakError, TimeoutError, Unavailable, OSError, EOFError) as error:
            outcome = "failed"
            self._note_drop(device, error)
            log.info("session failed", extra={"device": device.device, "error": type(error).__name__, "text": str(error)[:120]})
        except Exception:  # one bad device never stalls another
            outcome = "failed"
            log.exception("session failed", extra={"device": device.device})
        metrics.sessions.labels(outcome).inc()
        self._pause(found.address, quiet=outcome == "read")

    def _note_drop(self, device: Device, error: Exception) -> None:
        """A bonded device that hangs up on us again and again before it is even asked has lost our key: a person must pair it anew."""
        if device.model.bond == "none" or not isinstance(error, BleakError) or "disconnect" not in str(error).lower():
            self._dropped.pop(device.address, None)
            return
        self._dropped[device.address] = self._dropped.get(device.address, 0) + 1
        if self._dropped[device.address] == DROPS:
            log.warning("bond lost, it seems", extra={"device": device.device})
            self.on_bond_lost(device)

    def _pause(self, address: str, *, quiet: bool) -> None:
        """When to look at this device again: at once after a good session, else later each time, with jitter.

        The scan begins anew when the pause is over, not before: what BlueZ tells within it would be told for nothing.
        """
        wait = 0.0 if quiet else min(self._back_off.get(address, FIRST_BACK_OFF / 2) * 2, LONGEST_BACK_OFF)
        self._back_off[address] = wait if wait else FIRST_BACK_OFF / 2
        wait *= random.uniform(0.75, 1.25)  # noqa: S311
        self._not_before[address] = time.monotonic() + wait
        asyncio.get_running_loop().call_later(wait + 0.01, self._rescan.set)

    @contextlib.asynccontextmanager
    async def _connected(self, device: Device, found: BLEDevice) -> Any:
        """(client, gone): connected and, where the model wants it, bonded; disconnected at the end."""
        gone = asyncio.Event()
        options: dict[str, Any] = {"backend": self._client_backend} if self._client_backend else {}
        early = "bond_before_discovery" in device.model.quirks
        client = BleakClient(found, disconnected_callback=lambda _client: gone.set(), timeout=CONNECT_TIMEOUT, pair=early, **options)
        self._connecting += 1
        try:
            await client.connect()
        finally:
            self._connecting -= 1
        try:
            if device.model.bond != "none" and not early:
                await client.pair()
            yield client, gone
        finally:
            await client.disconnect()

    async def _read(self, device: Device, found: BLEDevice) -> int:
        async with self._connected(device, found) as (client, gone):
            return await Session(client, device, self._store, self._zone, gone, self.fail).run()

    # pairing on command

    async def seek(self, address: str, seconds: float) -> tuple[BLEDevice, AdvertisementData]:
        """The next advertisement of this address; raises TimeoutError."""
        sought = self._sought.setdefault(address, asyncio.get_running_loop().create_future())
        self._rescan.set()  # it may have been heard, and told of, already
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(sought)
        finally:
            self._sought.pop(address, None)
            self._rescan.set()

    async def listen(self, seconds: float) -> dict[str, AdvertisementData]:
        """Everything heard within `seconds`: address → its last advertisement."""
        self._listening = {}
        self._rescan.set()
        await asyncio.sleep(seconds)
        found, self._listening = self._listening, None
        return found or {}

    async def bond(self, device: Device, seconds: float) -> dict[str, str]:
        """Find, connect, bond; returns what it says of itself (`name`, `model`, `serial`, `maker`, `firmware`).

        Raises TimeoutError when it is not on the air, BleakError when it refuses.
        """
        found, advertisement = await self.seek(device.address, seconds)
        self._not_before[found.address] = time.monotonic() + seconds  # the session waits for us
        try:
            async with self._connected(device, found) as (client, _gone):
                facts = await broadcast.identity(client)
        finally:
            self._not_before.pop(found.address, None)
        return {"name": broadcast.plain(advertisement.local_name or found.name or ""), **facts}

    async def unbond(self, address: str) -> None:
        """Remove the bond from this host; a device that is away is forgotten all the same."""
        session = self._sessions.get(address)
        if session is not None:
            session.cancel()
            await asyncio.gather(session, return_exceptions=True)
        options: dict[str, Any] = {"backend": self._client_backend} if self._client_backend else {}
        with contextlib.suppress(BleakError, TimeoutError):
            await BleakClient(address, timeout=CONNECT_TIMEOUT, **options).unpair()
