"""Every shipped scenario, read by the gateway's own radio, session, translation and spool; the oracle judges."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from firmware_sim import bleak_backend, scenario
from firmware_sim.bluezd import FakeBluez
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
        radio = asyncio.create_task(Radio(known, Intake(self.spool, Station(), ZONE), ZONE, *backends).run())
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


def test_a_scenario_that_is_none_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        scenario.read("no-such-thing")
    assert "normal" in error.value.problems[0]
    (tmp_path / "bad.yaml").write_text("says: x\n")
    with pytest.raises(ConfigError):
        scenario.read(str(tmp_path / "bad.yaml"))
