"""Virtual devices as a process: read which ones from JSON, serve org.bluez, take commands on a socket.

The control socket speaks one JSON object a line: {"do": "measure", "device": …, "systolic": …, "diastolic": …,
"pulse": …, "seconds_ago": 0, "status": 0} answers {"frame": hex} at once; {"do": "indicated", "device": …,
"frame": hex} answers {"at": seconds since the epoch} when that record's indication was confirmed;
{"do": "vanish" | "list", …}.
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

from firmware_sim.bluezd import FakeBluez
from firmware_sim.central import Central
from firmware_sim.cuff import Cuff, Indicated
from firmware_sim.device import DeviceClock
from firmware_sim.link import SimLink
from vitals.errors import BadInput

BUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_type="method_return"/><allow send_type="error"/><allow receive_type="method_call"/><allow receive_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow send_destination="*"/></policy></busconfig>
"""


class Town:
    """The devices of one simulated place, and the adapter that hears them."""

    def __init__(self, zone: str = "Asia/Shanghai") -> None:
        self.air = SimLink()
        self.central = Central(self.air)
        self.cuffs: dict[str, Cuff] = {}
        self._zone = zone
        self._indicated: dict[tuple[str, str], asyncio.Future[float]] = {}

    async def open(self, devices: Sequence[dict[str, Any]]) -> None:
        """devices: [{"device", "address", "clock_offset_s" (optional)}]."""
        await self.central.power_on()
        for row in devices:
            clock = DeviceClock(lambda: datetime.now(UTC), self._zone, timedelta(seconds=row.get("clock_offset_s", 0)))
            name = str(row["device"])
            cuff = Cuff(self.air, name[:20], row["address"], clock, serial=name)
            cuff.on_indicated = lambda sent, name=name: self._note(name, sent)
            await cuff.power_on()
            self.cuffs[name] = cuff

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
        if command.get("do") == "list":
            return {"devices": sorted(self.cuffs)}
        cuff = self.cuffs.get(str(command.get("device")))
        if cuff is None:
            raise BadInput("unknown_device")
        match command.get("do"):
            case "measure":
                ago = timedelta(seconds=float(command.get("seconds_ago", 0)))
                numbers = [float(command[name]) for name in ("systolic", "diastolic", "pulse")]
                frame = await cuff.measure(*numbers, status=int(command.get("status", 0)), ago=ago)
                return {"frame": frame.hex()}
            case "indicated":
                return {"at": await self._when(str(command["device"]), str(command["frame"]))}
            case "remember":
                await cuff.remember(bytes.fromhex(command["frame"]))
                return {}
            case "vanish":
                cuff.vanish()
                return {}
        raise BadInput("unknown_command")

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
            for _ in range(200):
                if socket.exists():
                    break
                await asyncio.sleep(0.02)
            yield f"unix:path={socket}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                daemon.terminate()
            await daemon.wait()


async def run_bluez(devices: Sequence[dict[str, Any]], bus_socket: Path, control_socket: Path, stop: asyncio.Event) -> None:
    """The simulator process: private bus, fake bluetoothd, devices, control socket; until `stop`."""
    async with private_bus(bus_socket) as address:
        town = Town()
        await town.open(devices)
        bluez = FakeBluez(town.central, address)
        await bluez.start()
        control_socket.unlink(missing_ok=True)
        server = await town.serve(control_socket)
        os.chmod(control_socket, 0o600)
        await stop.wait()
        server.close()
        await bluez.stop()
