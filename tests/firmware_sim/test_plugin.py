"""The pytest plugin as somebody else's project uses it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bleak import BleakClient, BleakScanner

from firmware_sim.town import dbus_daemon
from tests.conftest import missing
from vitals import gatt
from vitals.gatt import BloodPressureMeasurement

DOCUMENT = Path(__file__).parents[2] / "docs" / "simulator.md"


@pytest.fixture(autouse=True)
def bus() -> None:
    if dbus_daemon() is None:
        missing("bluez", "dbus-daemon is not installed")


async def first_indication(address: str, uuid: str) -> bytes:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with BleakScanner() as scanner:
        async for device, _ in scanner.advertisement_data():
            if device.address == address:
                async with BleakClient(device) as client:
                    await client.start_notify(uuid, lambda _c, data: heard.put_nowait(bytes(data)))
                    return await asyncio.wait_for(heard.get(), 10)
    raise AssertionError("not heard")


def test_a_cuff_measures_and_a_plain_client_reads_it(virtual_cuff: Any) -> None:
    frame = virtual_cuff.measure(systolic=186, diastolic=112, pulse=88)
    assert asyncio.run(first_indication(virtual_cuff.address, gatt.BLOOD_PRESSURE_MEASUREMENT)) == frame


def test_a_station_has_its_devices_and_time_passes_for_them(virtual_station: Any, advance: Callable[..., None]) -> None:
    assert set(virtual_station.devices) == {"cuff", "meter", "oximeter", "thermometer", "scale"}
    before = BloodPressureMeasurement.from_bytes(virtual_station["cuff"].measure(systolic=120, diastolic=80, pulse=70)).timestamp
    advance(hours=8)
    after = BloodPressureMeasurement.from_bytes(virtual_station["cuff"].measure(systolic=121, diastolic=80, pulse=70)).timestamp
    assert before is not None
    assert after is not None
    passed = after.calendar() - before.calendar()  # type: ignore[operator]
    assert 8 * 3600 <= passed.total_seconds() < 8 * 3600 + 30
    virtual_station["cuff"].low_battery(level=5)
    with pytest.raises(Exception, match="unknown_command"):
        virtual_station["cuff"].dance()


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert example is not None
    (tmp_path / "test_example.py").write_text(example[1])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "1 passed" in done.stdout
