"""`yizhan sim`: the virtual devices as a process. Imports no server room, so that `pip install yizhan[sim]` is enough."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from firmware_sim import scenario
from firmware_sim.town import run_bluez, serving

FAMILY_OF = {
    "glucose": "glucose_meter", "cgm": "cgm", "heart_rate": "heart_rate_band", "pulse_oximetry": "oximeter", "temperature": "thermometer",
    "weight": "scale", "activity": "activity_band",
}  # fmt: skip


async def play(name: str, folder: Path, trace: Path | None, zone: str, say: Callable[[str], None], stop: asyncio.Event) -> None:
    """`yizhan sim device`: one scenario on a private bus, played as soon as somebody scans; then until `stop`."""
    played = scenario.read(name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    bus, control = folder / "bus.sock", folder / "control.sock"
    (folder / "devices.json").write_text(json.dumps(played.gateway_rows(), indent=1, ensure_ascii=False))
    async with serving(played.devices, bus, control, zone, trace) as (town, bluez, address):
        say(f"{played.name}: {played.says}")
        say(f"export DBUS_SYSTEM_BUS_ADDRESS={address}")
        say(f"export YIZHAN_DEVICES={folder / 'devices.json'}")
        say(f"control socket: {control}")
        waits = [asyncio.ensure_future(event.wait()) for event in (bluez.scanned, stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not stop.is_set():
            await scenario.play(played, town)
            say("played; a good gateway has now published:")
            for row in played.expect:
                say(f"  {json.dumps(row, ensure_ascii=False)}")
            for reason, count in played.refused.items():
                say(f"  and kept {count} frame(s) apart: {reason}")
        await stop.wait()


async def simulator(devices: Path, bus: Path, control: Path, stop: asyncio.Event) -> None:
    await run_bluez(read_town(devices), bus, control, stop)


def read_town(path: Path) -> Sequence[dict[str, object]]:
    """The virtual devices of a file of devices: the simulator plays exactly what the gateway may connect to."""
    rows: list[dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return [{"device": row["device"], "address": row["address"], "family": FAMILY_OF.get(str(row["kind"]), "cuff")} for row in rows]
