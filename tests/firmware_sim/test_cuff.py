"""The virtual cuff, read by the gateway's own radio: through a fake bluetoothd on a D-Bus, and in process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bleak import BleakClient, BleakScanner
from bleak.exc import BleakError, BleakGATTProtocolError
from bumble import hci

from firmware_sim import bleak_backend
from firmware_sim.bluezd import FakeBluez
from firmware_sim.central import Central
from firmware_sim.cuff import Cuff
from firmware_sim.device import DeviceClock
from firmware_sim.link import SimLink
from firmware_sim.town import Town, dbus_daemon, private_bus
from gateway import devices
from gateway.clock import ClockReading
from gateway.devices import Device
from gateway.radio import Radio
from gateway.translate import Frame
from tests.conftest import missing
from vitals import gatt
from vitals.errors import BadInput
from vitals.gatt import BloodPressureMeasurement, CurrentTime

ZONE = ZoneInfo("Asia/Shanghai")
ADDRESSES = [f"F0:00:00:00:00:{n:02X}" for n in range(1, 9)]
ROWS = [{"device": f"cuff-{n}", "address": address} for n, address in enumerate(ADDRESSES, 1)]
ALLOWED = {row["address"]: devices.device({**row, "kind": "blood_pressure", "setting": "home"}) for row in ROWS}


class Air:
    """A town, and the backend classes with which bleak reaches it (None: BlueZ, unmodified)."""

    def __init__(self, town: Town, scanner: type[Any] | None, client: type[Any] | None) -> None:
        self.town, self.scanner, self.client = town, scanner, client
        self.frames: list[tuple[str, bytes, ClockReading | None, datetime]] = []

    def hear(self, device: Device, frames: list[Frame], _progress: object) -> None:
        self.frames += [(device.device, frame.data, frame.clock, frame.received_at) for frame in frames]

    @contextlib.asynccontextmanager
    async def radio(self, on_frames: Callable[..., None] | None = None) -> AsyncIterator[asyncio.Task[None]]:
        store = SimpleNamespace(
            frames=on_frames or self.hear, history=lambda *_: None, clock_offset=lambda *_: None, note_clock=lambda *_: None
        )
        task = asyncio.create_task(Radio(ALLOWED, store, ZONE, self.scanner, self.client).run())
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task

    async def until(self, count: int, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while len(self.frames) < count:
            assert time.monotonic() < end, f"{len(self.frames)} of {count} frames"
            await asyncio.sleep(0.02)


@pytest.fixture(params=["bluez", "in-process"])
async def air(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Air]:
    town = Town()
    await town.open(ROWS)
    if request.param == "in-process":
        bleak_backend.use(town.central)
        yield Air(town, bleak_backend.SimScanner, bleak_backend.SimClient)
        return
    if dbus_daemon() is None:
        missing("bluez", "dbus-daemon is not installed")
    async with private_bus(Path("/tmp") / f"yz-test-{os.getpid()}.sock") as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        bluez = FakeBluez(town.central, address)
        await bluez.start()
        yield Air(town, None, None)
        # bleak keeps one manager for each event loop and bus; this loop ends with the test
        await bluez.stop()


async def test_a_measurement_arrives_byte_for_byte_with_the_clock_read_beside_it(air: Air) -> None:
    async with air.radio():
        frame = await air.town.devices["cuff-1"].measure(186, 112, 88, seconds_ago=60 * (2))
        await air.until(1)
    device, heard, clock, at = air.frames[0]
    assert (device, heard) == ("cuff-1", frame)
    assert clock is not None
    shown = datetime.now(UTC).astimezone(air.town.devices["cuff-1"].clock.zone).replace(tzinfo=None)
    assert abs(clock.shown - shown) < timedelta(seconds=10)
    assert abs(at - clock.at) < timedelta(seconds=5)


async def test_memory_comes_oldest_first_and_only_once(air: Air) -> None:
    cuff = air.town.devices["cuff-2"]
    sent = [await cuff.measure(120 + n, 80, 70, seconds_ago=60 * (60 - n)) for n in range(30)]
    async with air.radio():
        await air.until(30)
        await asyncio.sleep(1.5)  # it hangs up; a further session must bring nothing
    assert [frame for _, frame, _, _ in air.frames] == sent
    assert not cuff.memory


async def test_a_bonded_cuff_is_read_again_without_pairing(air: Air) -> None:
    cuff = air.town.devices["cuff-3"]
    async with air.radio():
        await cuff.measure(120, 80, 70)
        await air.until(1)
        bonds = air.town.central.bonded()
        assert bonds == {ADDRESSES[2]}
        await asyncio.sleep(1.3)
        await cuff.measure(121, 80, 70)
        await air.until(2)
        assert air.town.central.bonded() == bonds


async def test_one_vanishing_cuff_does_not_stall_the_others(air: Air) -> None:
    cuffs = air.town.devices
    for n in range(40):
        await cuffs["cuff-4"].measure(120 + n, 80, 70, seconds_ago=60 * (n))
    async with air.radio():
        await air.until(3)
        cuffs["cuff-4"].vanish()
        for name in ("cuff-5", "cuff-6", "cuff-7"):
            await cuffs[name].measure(130, 85, 70)
        end = time.monotonic() + 20
        while not {"cuff-5", "cuff-6", "cuff-7"} <= {device for device, *_ in air.frames}:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


async def test_what_cannot_be_made_durable_stops_the_gateway(air: Air) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    async with air.radio(full) as task:
        await air.town.devices["cuff-1"].measure(120, 80, 70)
        with pytest.raises(OSError, match="disk full"):
            await asyncio.wait_for(asyncio.shield(task), 20)


async def test_a_device_that_is_not_listed_is_never_connected(air: Air, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ALLOWED, ADDRESSES[7])
    async with air.radio():
        await air.town.devices["cuff-8"].measure(120, 80, 70)
        await air.town.devices["cuff-1"].measure(120, 80, 70)
        await air.until(1)
        await asyncio.sleep(0.5)
    assert [device for device, *_ in air.frames] == ["cuff-1"]


async def test_gatt_as_a_bare_client_sees_it(air: Air) -> None:
    """Battery, Device Information, a clock that can be set, protected subscription, refusals with their ATT codes."""
    options: dict[str, Any] = {"backend": air.scanner} if air.scanner else {}
    cuff = air.town.devices["cuff-1"]
    cuff.memory.append((0x2A35, bytes(BloodPressureMeasurement(120.0, 80.0, 93.0))))
    await cuff.wake()
    async with BleakScanner(**options) as scanner:
        found = None
        async for device, _ in scanner.advertisement_data():
            if device.address.upper() == ADDRESSES[0]:
                found = device
                break
        assert found is not None
        async with BleakClient(found, **({"backend": air.client} if air.client else {})) as client:
            assert await client.read_gatt_char(gatt.BATTERY_LEVEL) == b"\x64"
            assert await client.read_gatt_char(gatt.uuid16(0x2A25)) == b"cuff-1"
            told = CurrentTime(gatt.DeviceTime(2010, 1, 1, 0, 0, 0), 5)
            await client.write_gatt_char(gatt.CURRENT_TIME, bytes(told), response=True)
            assert CurrentTime.from_bytes(bytes(await client.read_gatt_char(gatt.CURRENT_TIME))).time.year == 2010
            with pytest.raises((BleakError, BleakGATTProtocolError)):
                await client.write_gatt_char(gatt.BATTERY_LEVEL, b"\0", response=True)
            heard: list[bytes] = []
            await client.start_notify(gatt.BLOOD_PRESSURE_MEASUREMENT, lambda _c, data: heard.append(bytes(data)))
            end = time.monotonic() + 10
            while not heard and time.monotonic() < end:
                await asyncio.sleep(0.02)
    assert len(heard) == 1
    assert air.town.central.bonded(), "subscribing raised the pairing, as a protected value does"


async def test_a_connection_attempt_that_times_out_leaves_the_adapter_usable() -> None:
    air = SimLink()
    central = Central(air)
    await central.power_on()
    with pytest.raises(TimeoutError):
        await central.connect(hci.Address("F0:00:00:00:00:77"), 0.3)
    cuff = Cuff(air, "cuff", "F0:00:00:00:00:78", DeviceClock(lambda: datetime.now(UTC), "Asia/Shanghai"))
    await cuff.power_on()
    await cuff.wake()
    connection = await central.connect(hci.Address("F0:00:00:00:00:78"), 5)
    await connection.disconnect()


async def test_a_thousand_advertisers_are_heard(tmp_path: Path) -> None:
    air = SimLink()
    central = Central(air)
    await central.power_on()
    heard: set[str] = set()
    central.device.on("advertisement", lambda advertisement: heard.add(str(advertisement.address)))
    await central.device.start_scanning(active=True, filter_duplicates=False)
    for n in range(1000):
        clock = DeviceClock(lambda: datetime.now(UTC), "Asia/Shanghai")
        cuff = Cuff(air, f"c{n}", f"F1:00:00:00:{n >> 8:02X}:{n & 255:02X}", clock)
        cuff.device.advertising_interval_min = cuff.device.advertising_interval_max = 1600
        await cuff.power_on()
        await cuff.wake()
    end = time.monotonic() + 30
    while len(heard) < 1000 and time.monotonic() < end:
        await asyncio.sleep(0.1)
    await central.device.stop_scanning()
    assert len(heard) == 1000


async def test_the_control_socket_says_what_is_wrong(tmp_path: Path) -> None:
    town = Town()
    await town.open(ROWS[:1])
    for command in ({}, {"do": "measure"}, {"do": "measure", "device": "nobody"}, {"do": "dance", "device": "cuff-1"}):
        with pytest.raises(BadInput):
            await town.obey(command)
    assert await town.obey({"do": "list"}) == {"devices": ["cuff-1"]}
