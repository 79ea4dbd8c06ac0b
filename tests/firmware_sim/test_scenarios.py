"""Every shipped scenario, read by the gateway's own radio, session, translation and spool; the oracle judges."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bumble import hci

from firmware_sim import bleak_backend, scenario
from firmware_sim.bluezd import FakeBluez
from firmware_sim.central import Central
from firmware_sim.device import VirtualDevice
from firmware_sim.town import Town, dbus_daemon, private_bus
from gateway import devices
from gateway.agent import Agent
from gateway.radio import Radio
from gateway.service import Intake
from gateway.spool import Spool
from gateway.station import Station
from tests.conftest import missing
from vitals import wire
from vitals.errors import ConfigError
from vitals.measurement import Measurement

ZONE = ZoneInfo("Asia/Shanghai")


class Bench:
    """A gateway without its uplink, on one of the two ways to the virtual devices."""

    def __init__(self, path: Path, town: Town, bluez: bool) -> None:
        self.town, self.path, self._bluez = town, path, bluez
        self.spool = Spool(path)
        self.lost: list[str] = []

    @contextlib.asynccontextmanager
    async def gateway(self, rows: list[dict[str, Any]]) -> AsyncIterator[None]:
        known = {row["address"]: devices.device(row) for row in rows}

        async def passkey(address: str) -> int | None:
            return known[address].passkey

        agent = Agent(lambda address: known[address].passkey)
        if self._bluez:
            await agent.register()
        else:
            self.town.central.ask_passkey = passkey
            bleak_backend.use(self.town.central)
        backends = (None, None) if self._bluez else (bleak_backend.SimScanner, bleak_backend.SimClient)
        made = Radio(known, Intake(self.spool, Station(), ZONE), ZONE, *backends)
        made.on_bond_lost = lambda device: self.lost.append(device.device)
        radio = asyncio.create_task(made.run())
        try:
            yield
        finally:
            radio.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await radio
            agent.close()

    def found(self) -> list[Measurement]:
        now = datetime.now(UTC)
        bodies = [wire.encode_message(r.boot, r.seq, now, [r.body]) for r in self.spool.waiting(100_000)]
        return [one for body in bodies for one in wire.decode_message(body, now).measurements]

    def refused(self) -> Counter[str]:
        with sqlite3.connect(self.path) as file:
            return Counter(row[0] for row in file.execute("select reason from refused_frame"))


@contextlib.asynccontextmanager
async def bench(way: str, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    town = Town()
    await town.open(rows)
    if way == "in-process":
        yield Bench(tmp_path / "spool.db", town, bluez=False)
        return
    if dbus_daemon() is None:
        missing("bluez", "dbus-daemon is not installed")
    async with private_bus(Path("/tmp") / f"yz-scenario-{os.getpid()}.sock") as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        bluez = FakeBluez(town.central, address)
        await bluez.start()
        yield Bench(tmp_path / "spool.db", town, bluez=True)
        await bluez.stop()


@pytest.mark.parametrize("way", ["bluez", "in-process"])
@pytest.mark.parametrize("name", scenario.names())
async def test_the_gateway_meets_the_oracle(name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = scenario.read(name)
    async with bench(way, played.devices, tmp_path, monkeypatch) as one, one.gateway(played.gateway_rows()):
        await scenario.play(played, one.town)
        ended, patience = datetime.now(UTC), time.monotonic() + scenario.PATIENCE
        while time.monotonic() < patience and (
            one.spool.depth() < played.count() or sum(one.refused().values()) < sum(played.refused.values())
        ):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.4)  # anything more would be too much
        assert scenario.judge(played, one.found(), one.refused(), ended) == []


ROW = {"device": "meter-1", "address": "F0:00:00:00:01:02", "family": "glucose_meter", "gateway": {"kind": "glucose"}}


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def wake(device: VirtualDevice) -> None:
    """A button pressed while the device still talks to the host before does nothing: press it when that link is gone."""
    await until(lambda: device.connection is None)
    await device.wake()


@pytest.mark.parametrize("way", ["bluez", "in-process"])
async def test_a_device_that_lost_its_bond_is_reported_and_left_alone(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = scenario.read("bond-lost")
    async with bench(way, played.devices, tmp_path, monkeypatch) as one, one.gateway(played.gateway_rows()):
        await scenario.play(played, one.town)
        for _ in range(300):
            if one.lost:
                break
            await one.town.devices["cuff-1"].wake()
            await asyncio.sleep(0.1)
        assert one.lost == ["cuff-1"]
        assert one.spool.depth() == 1


async def test_another_host_has_the_device_first_and_the_gateway_gets_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench("in-process", [ROW], tmp_path, monkeypatch) as one:
        rival = Central(one.town.air, "C0:00:00:00:00:02")
        await rival.power_on()
        await one.town.obey({"do": "measure", "device": "meter-1", "glucose": 5.4})
        held = await rival.connect(hci.Address(ROW["address"]), 5)
        async with one.gateway([{"device": "meter-1", "address": ROW["address"], "kind": "glucose", "setting": "home"}]):
            await asyncio.sleep(1.0)
            assert one.spool.depth() == 0, "one host at a time"
            await held.disconnect()
            await wake(one.town.devices["meter-1"])
            await until(lambda: one.spool.depth() == 1)


async def test_two_gateways_that_read_the_same_memory_tell_the_same_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity comes from the device: what the second gateway sends is absorbed by the ledger."""
    rows = [{"device": "meter-1", "address": ROW["address"], "kind": "glucose", "setting": "home"}]
    keys = []
    async with bench("in-process", [ROW], tmp_path, monkeypatch) as first:
        await first.town.obey({"do": "history", "device": "meter-1", "count": 20})
        second = Bench(tmp_path / "second.db", first.town, bluez=False)
        for one in (first, second):
            async with one.gateway(rows):
                await wake(first.town.devices["meter-1"])
                await until(lambda one=one: one.spool.depth() == 20)  # type: ignore[misc]
            keys.append({(m.device, m.series, m.record, m.raw) for m in one.found()})
    assert keys[0] == keys[1]
    assert len(keys[0]) == 20


async def test_the_trace_of_the_air_opens_in_wireshark(tmp_path: Path) -> None:
    town = Town(trace=tmp_path / "trace")
    await town.open([ROW])
    await town.obey({"do": "measure", "device": "meter-1", "glucose": 5.4})
    bond = await town.central.connect(hci.Address(ROW["address"]), 5)
    await bond.disconnect()
    town.central.device.host.snooper.output.flush()
    data = (tmp_path / "trace" / "adapter.btsnoop").read_bytes()
    assert data[:8] == b"btsnoop\0"
    assert len(data) > 200
    town.central.device.host.snooper.output.close()


def test_a_scenario_that_is_none_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        scenario.read("no-such-thing")
    assert "normal" in error.value.problems[0]
    (tmp_path / "bad.yaml").write_text("says: x\n")
    with pytest.raises(ConfigError):
        scenario.read(str(tmp_path / "bad.yaml"))
