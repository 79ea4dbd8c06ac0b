"""Virtual Bluetooth devices for anybody's tests: `pip install yizhan[sim]`, then use the fixtures.

    virtual_town     an empty town: `town.add("cuff-1")`, `town.add("meter-1", family="glucose_meter")`
    virtual_cuff     a town with one blood-pressure cuff: `virtual_cuff.measure(systolic=186, diastolic=112, pulse=88)`
    virtual_station  a health station: cuff, meter, oximeter, thermometer and scale, as `station["cuff"]`
    advance          let time pass for the devices: `advance(hours=8)`

The devices live in a process of their own behind a private D-Bus; `DBUS_SYSTEM_BUS_ADDRESS` points there for the test,
so that the code under test runs bleak's own BlueZ path, unmodified. Linux with a dbus-daemon; skipped elsewhere.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

START_PATIENCE = 20.0


class SimulatorError(Exception):
    """The simulator refused a command, or did not start."""


class VirtualDeviceHandle:
    """One device of the town, told what to do. Every command of the control socket is a method: `vanish()`, `drop_after(frames=3)` …"""

    def __init__(self, town: VirtualTown, name: str, address: str) -> None:
        self._town, self.name, self.address = town, name, address

    def measure(self, **values: Any) -> bytes:
        """Take one measurement (what its family measures); returns the bytes that it will send."""
        return bytes.fromhex(self._town.ask(do="measure", device=self.name, **values)["frame"])

    def __getattr__(self, command: str) -> Callable[..., dict[str, Any]]:
        if command.startswith("_"):
            raise AttributeError(command)
        return lambda **options: self._town.ask(do=command, device=self.name, **options)


class VirtualTown:
    """The simulator process behind `bus` (for DBUS_SYSTEM_BUS_ADDRESS)."""

    def __init__(self, folder: Path) -> None:
        self.bus = f"unix:path={folder / 'bus.sock'}"
        self.devices: dict[str, VirtualDeviceHandle] = {}
        self._control = folder / "control.sock"
        (folder / "devices.json").write_text("[]")
        command = [sys.executable, "-m", "yizhan", "sim", "serve", "--devices", str(folder / "devices.json")]
        command += ["--bus", str(folder / "bus.sock"), "--control", str(self._control)]
        log = folder / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
        end = time.monotonic() + START_PATIENCE
        while not self._control.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SimulatorError(f"did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)

    def ask(self, **command: Any) -> dict[str, Any]:
        """One command of the control socket; raises SimulatorError with its reason."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(START_PATIENCE)
            line.connect(str(self._control))
            line.sendall(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(line.makefile().readline())
        if "error" in answer:
            raise SimulatorError(answer["error"])
        return answer

    def add(self, name: str, *, family: str = "cuff", **options: Any) -> VirtualDeviceHandle:
        """One more device; families and their options are in docs/simulator.md."""
        address = options.pop("address", f"F0:00:00:00:10:{len(self.devices) + 1:02X}")
        self.ask(do="add", row={"device": name, "address": address, "family": family, **options})
        self.devices[name] = VirtualDeviceHandle(self, name, address)
        return self.devices[name]

    def __getitem__(self, name: str) -> VirtualDeviceHandle:
        return self.devices[name]

    def advance(self, **amount: float) -> None:
        """Let time pass for every device: `advance(hours=8)`."""
        self.ask(do="advance", **amount)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)


@pytest.fixture
def virtual_town(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTown]:
    """An empty town; its bus is this test's system bus."""
    if shutil.which("dbus-daemon") is None or not sys.platform.startswith("linux"):
        pytest.skip("virtual Bluetooth needs Linux with a dbus-daemon")
    folder = Path(tempfile.mkdtemp(prefix="yz-"))  # unix sockets need a short path
    town = VirtualTown(folder)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", town.bus)
    yield town
    town.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def virtual_cuff(virtual_town: VirtualTown) -> VirtualDeviceHandle:
    """A town with one SIG blood-pressure cuff."""
    return virtual_town.add("cuff")


@pytest.fixture
def virtual_station(virtual_town: VirtualTown) -> VirtualTown:
    """A health station's devices: cuff, meter, oximeter, thermometer, scale (user 1, consent 1234)."""
    for name, family in (
        ("cuff", "cuff"), ("meter", "glucose_meter"), ("oximeter", "oximeter"), ("thermometer", "thermometer"), ("scale", "scale"),
    ):  # fmt: skip
        virtual_town.add(name, family=family)
    return virtual_town


@pytest.fixture
def advance(virtual_town: VirtualTown) -> Callable[..., None]:
    """Let time pass for the devices of this test's town."""
    return virtual_town.advance
