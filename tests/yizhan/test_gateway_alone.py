"""The unmodified gateway process against the fake bluetoothd in another process: the figures it must reach, with room for a noisy machine.

The figures themselves are measured by `yizhan bench gateway` and stand in docs/devices.md.
"""

from __future__ import annotations

import pytest

from bench import gateway
from firmware_sim.town import dbus_daemon
from tests.conftest import missing

pytestmark = pytest.mark.services


@pytest.fixture(autouse=True)
def bus() -> None:
    if dbus_daemon() is None:
        missing("bluez", "dbus-daemon is not installed")


async def test_a_thousand_stored_records_are_read_and_on_disk_in_a_second() -> None:
    told = await gateway.history(1000)
    assert told["records"] == 1000
    assert told["seconds"] < 1.0


async def test_fifty_devices_that_wake_at_once_are_all_read() -> None:
    told = await gateway.in_turn(50)
    assert told["devices"] == 50
    assert told["seconds"] < 60


async def test_a_cuff_among_a_thousand_advertisers_is_read() -> None:
    told = await gateway.storm(1000)
    assert told["records"] == 10


async def test_fifty_bands_at_once_need_little_memory_and_little_time() -> None:
    told = await gateway.steady(50, seconds=10)
    assert told["measurements_per_second"] > 40
    assert told["rss_mb"] < 80
    assert told["cpu_percent"] < 20, "measured 3.5 on a quiet core; this only catches a busy loop"
