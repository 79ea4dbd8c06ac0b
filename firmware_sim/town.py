"""Virtual devices as a process: read which ones from JSON, serve org.bluez, take commands on a socket.

The control socket speaks one JSON object a line: {"do": "measure", "device": …, and what its family measures} answers
{"frame": hex} at once; {"do": "indicated", "device": …, "frame": hex} answers {"at": seconds since the epoch} when that
record's indication was confirmed; {"do": "vanish" | "appear" | "low_battery" | "set_clock" | "drop_after" | "lose_bonds" |
…, "device": …} answers {}. `docs/simulator.md` has them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bumble.snoop import BtSnooper

from firmware_sim.bluezd import FakeBluez
from firmware_sim.central import Central
from firmware_sim.cuff import Cuff, SwappedCuff, TimeCuff
from firmware_sim.device import DeviceClock, VirtualDevice
from firmware_sim.link import SimLink
from firmware_sim.memory_cuff import MemoryCuff
from firmware_sim.meter import GlucoseMeter, GlucoseMonitor
from firmware_sim.physiology import Person, uniform
from firmware_sim.recorder import Indicated, Recorder
from firmware_sim.wearable import (
    ActivityBand,
    BroadcastScale,
    ContinuousOximeter,
    HeartRateBand,
    Oximeter,
    Scale,
    ThermalSensor,
    Thermometer,
)
from vitals.errors import BadInput

BUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_type="method_return"/><allow send_type="error"/><allow receive_type="method_call"/><allow receive_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow send_destination="*"/></policy></busconfig>
"""


FAMILIES: dict[str, tuple[type[VirtualDevice], dict[str, Any]]] = {
    "cuff": (Cuff, {}),
    "cuff_swapped": (SwappedCuff, {}),
    "cuff_wants_time": (TimeCuff, {}),
    "cuff_memory": (MemoryCuff, {}),
    "glucose_meter": (GlucoseMeter, {}),
    "cgm": (GlucoseMonitor, {}),
    "heart_rate_band": (HeartRateBand, {}),
    "oximeter": (Oximeter, {}),
    "oximeter_continuous": (ContinuousOximeter, {}),
    "thermometer": (Thermometer, {}),
    "scale": (Scale, {}),
    "bthome_sensor": (ThermalSensor, {}),
    "xiaomi_scale": (BroadcastScale, {}),
    "activity_band": (ActivityBand, {}),
}
_OWN = ("device", "address", "family", "clock_offset_s", "clock_shows", "name", "gateway")


class Town:
    """The devices of one simulated place, and the adapter that hears them. trace: a folder for btsnoop files."""

    def __init__(self, zone: str = "Asia/Shanghai", trace: Path | None = None) -> None:
        self.air = SimLink()
        self.central = Central(self.air)
        self.devices: dict[str, VirtualDevice] = {}
        self._zone = zone
        self._trace = trace
        self._shift = timedelta()
        self._indicated: dict[tuple[str, str], asyncio.Future[float]] = {}
        self._living: dict[str, asyncio.Task[None]] = {}
        self._storm: list[VirtualDevice] = []

    def now(self) -> datetime:
        """The time in this town: true, until somebody advances it."""
        return datetime.now(UTC) + self._shift

    def advance(self, **amount: float) -> datetime:
        """Let time pass for every device: `advance(hours=8)`; returns the new time."""
        self._shift += timedelta(**amount)
        return self.now()

    async def open(self, rows: Sequence[dict[str, Any]]) -> None:
        """rows: {"device", "address", "family" (default cuff), "name", "clock_offset_s" or "clock_shows", options of the family}."""
        await self.central.power_on()
        if self._trace is not None:
            self._trace.mkdir(parents=True, exist_ok=True)
            self.central.device.host.snooper = BtSnooper((self._trace / "adapter.btsnoop").open("wb"))  # open as long as the town
        for row in rows:
            await self.add(row)

    async def add(self, row: dict[str, Any]) -> VirtualDevice:
        """One more device; raises BadInput for a family that there is none of."""
        family, fixed = FAMILIES.get(str(row.get("family", "cuff")), (None, {}))
        if family is None:
            raise BadInput("unknown_family", str(row.get("family")))
        clock = DeviceClock(self.now, self._zone, timedelta(seconds=row.get("clock_offset_s", 0)))
        if "clock_shows" in row:
            clock.offset = datetime.fromisoformat(row["clock_shows"]) - clock.at(self.now())
        name = str(row["device"])
        options = {key: value for key, value in row.items() if key not in _OWN}
        device = family(self.air, str(row.get("name", name))[:20], row["address"], clock, **{"serial": name, **fixed, **options})
        if isinstance(device, Recorder):
            device.on_indicated = lambda sent: self._note(name, sent)
        await device.power_on()
        self.devices[name] = device
        return device

    def _note(self, device: str, sent: Indicated) -> None:
        future = self._when(device, sent.frame.hex())
        if not future.done():
            future.set_result(sent.at)

    def _when(self, device: str, frame: str) -> asyncio.Future[float]:
        if len(self._indicated) > 4096:  # nobody asked for the oldest
            self._indicated = dict(list(self._indicated.items())[-2048:])
        return self._indicated.setdefault((device, frame), asyncio.get_running_loop().create_future())

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one control command; raises BadInput for one that makes no sense."""
        command = dict(command)
        what, name = command.pop("do", None), command.pop("device", None)
        if what == "list":
            return {"devices": sorted(self.devices)}
        if what == "bonds":
            return {"addresses": sorted(self.central.bonded())}
        if what == "advance":
            return {"now": self.advance(**command).isoformat()}
        if what == "add":
            await self.add(command["row"])
            return {}
        if what == "storm":
            await self._advertisers(int(command["count"]), float(command.get("interval", 1.0)))
            return {}
        device: Any = self.devices.get(str(name))
        if device is None:
            raise BadInput("unknown_device")
        match what:
            case "state":
                stored = getattr(device, "memory", getattr(device, "records", ()))
                return {"stored": len(stored), "connected": device.connection is not None, "battery": device.battery}
            case "measure":
                return {"frame": (await device.measure(**command)).hex()}
            case "indicated":
                return {"at": await self._when(str(name), str(command["frame"]))}
            case "remember":
                await device.remember(bytes.fromhex(command["frame"]), command.get("number"))
            case "history":
                await _history(device, int(command["count"]), float(command.get("every_s", 3600)))
            case "wake":
                await device.wake()
            case "live":
                self._living[str(name)] = asyncio.create_task(self._live(device, len(self._living), float(command.get("every_s", 1.0))))
            case "vanish":
                device.vanish()
            case "appear":
                device.appear()
                await device.wake()
            case "low_battery":
                device.battery = int(command.get("level", 5))
            case "set_clock":
                shown = device.clock.at(self.now()) + timedelta(hours=float(command.get("hours", 0)))
                device.set_clock(datetime.fromisoformat(command["shows"]) if "shows" in command else shown)
            case "drop_after":
                device.drop_after = int(command["frames"])
            case "lose_bonds":
                device.lose_bonds()
            case "change_offset":
                device.change_offset(int(command["minutes"]))
            case "reset_numbers":
                device.reset_numbers()
            case "interject":
                await device.interject(**command)
            case "corrupt":
                await device.corrupt(**command)
            case "replay":
                await device.replay(int(command["first"]))
            case "pack":
                device.pack(int(command["size"]))
            case "busy" | "unconfigured":
                setattr(device, what, int(command.get("times", 1)))
            case _:
                raise BadInput("unknown_command")
        return {}

    async def _live(self, device: VirtualDevice, number: int, every_s: float) -> None:
        """Somebody wears it: a measurement every so often, by the physiology of person `number`."""
        person = Person.drawn(1, number)
        await asyncio.sleep(every_s * uniform(1, number))
        while True:
            now = self.now()
            if isinstance(device, HeartRateBand):
                await device.measure(person.heart_rate(now), rr=person.rr(now, 1))
            elif isinstance(device, ContinuousOximeter):
                await device.measure(person.spo2(now), person.heart_rate(now))
            elif isinstance(device, Cuff):
                await device.measure(*person.blood_pressure(now))
            else:
                raise BadInput("does_not_live")
            await asyncio.sleep(every_s)

    async def _advertisers(self, count: int, interval: float) -> None:
        """Strangers on the air: they advertise and want nothing."""
        for number in range(len(self._storm), len(self._storm) + count):
            clock = DeviceClock(self.now, self._zone)
            address = f"F2:00:{number >> 16 & 255:02X}:00:{number >> 8 & 255:02X}:{number & 255:02X}"
            stranger = Cuff(self.air, f"stranger-{number}", address, clock, interval=interval)
            await stranger.power_on()
            await stranger.wake()
            self._storm.append(stranger)

    async def serve(self, socket: Path) -> asyncio.Server:
        """Listen for control commands on a unix socket."""
        return await asyncio.start_unix_server(self._converse, path=str(socket))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    reply = await self.obey(json.loads(line))
                except (BadInput, ValueError, KeyError, TypeError) as error:
                    reply = {"error": str(error) or type(error).__name__}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        writer.close()


async def _history(meter: Any, count: int, every_s: float) -> None:
    """A memory full of results, oldest first, the newest one `every_s` ago; only then it wakes up."""
    for number in range(count, 0, -1):
        await meter.measure(5.0 + number % 40 / 10, seconds_ago=number * every_s, wake=False)
    await meter.wake()


class Control:
    """The other end of the control socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, **command: Any) -> dict[str, Any]:
        """One command, one answer; raises BadInput when the town says so."""
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            writer.write(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await reader.readline())
        finally:
            writer.close()
        if "error" in answer:
            raise BadInput("simulator", answer["error"])
        return answer


def dbus_daemon() -> str | None:
    """Path of an installed dbus-daemon; without one the in-process backend is used."""
    return shutil.which("dbus-daemon")


@contextlib.asynccontextmanager
async def private_bus(socket: Path) -> AsyncIterator[str]:
    """A D-Bus of our own on `socket`; yields its address for DBUS_SYSTEM_BUS_ADDRESS."""
    program = dbus_daemon()
    if program is None:
        raise BadInput("no_dbus_daemon", "install dbus, or use the in-process radio")
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "bus.conf"
        configuration.write_text(BUS_CONFIGURATION.format(socket=socket))
        socket.unlink(missing_ok=True)
        daemon = await asyncio.create_subprocess_exec(
            program, f"--config-file={configuration}", "--nofork", "--nopidfile", stderr=asyncio.subprocess.DEVNULL
        )
        try:
            for _ in range(500):
                with contextlib.suppress(OSError):  # the file is there a moment before anybody listens
                    _, writer = await asyncio.open_unix_connection(str(socket))
                    writer.close()
                    break
                await asyncio.sleep(0.02)
            yield f"unix:path={socket}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                daemon.terminate()
            await daemon.wait()


@contextlib.asynccontextmanager
async def serving(
    rows: Sequence[dict[str, Any]], bus_socket: Path, control_socket: Path, zone: str = "Asia/Shanghai", trace: Path | None = None
) -> AsyncIterator[tuple[Town, FakeBluez, str]]:
    """(town, bluetoothd, bus address): private bus, fake bluetoothd, devices and control socket, as long as the context lasts."""
    async with private_bus(bus_socket) as address:
        town = Town(zone, trace)
        await town.open(rows)
        bluez = FakeBluez(town.central, address)
        await bluez.start()
        control_socket.unlink(missing_ok=True)
        server = await town.serve(control_socket)
        os.chmod(control_socket, 0o600)
        try:
            yield town, bluez, address
        finally:
            server.close()
            control_socket.unlink(missing_ok=True)
            await bluez.stop()


async def run_bluez(rows: Sequence[dict[str, Any]], bus_socket: Path, control_socket: Path, stop: asyncio.Event) -> None:
    """The simulator process, until `stop`."""
    async with serving(rows, bus_socket, control_socket):
        await stop.wait()
