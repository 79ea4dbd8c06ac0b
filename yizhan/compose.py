"""How rooms become processes: the worker's steps, the order of migrations, the gateway on a simulated radio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import care.service
from gateway.pairing import Pairing
from ingest.batch import Step
from rules import pack
from rules.service import Rules
from vitals.settings import Settings

FAMILY_OF = {
    "glucose": "glucose_meter", "cgm": "cgm", "heart_rate": "heart_rate_band", "pulse_oximetry": "oximeter", "temperature": "thermometer",
    "weight": "scale", "activity": "activity_band",
}  # fmt: skip
ROOMS = ("ingest", "rules", "care", "api")  # migrations, in the order of who references whom


def steps(settings: Settings) -> list[Step]:
    """What the worker runs in its transaction, in order."""
    packs = [pack.load_named(name) for name in pack.shipped()]
    symptoms = sorted({name for one in packs for name in one.document.symptoms})
    return [care.service.close_cases, Rules(packs, settings.zone).step, care.service.open_cases, care.service.advise(symptoms)]


async def worker(settings: Settings, stop: asyncio.Event) -> None:
    from ingest import service

    await service.run(settings, steps(settings), stop)


async def api(settings: Settings, stop: asyncio.Event) -> None:
    from api import service

    await service.run(settings, stop)


async def gateway(settings: Settings, stop: asyncio.Event, town: Path | None = None, control: Path | None = None) -> None:
    """The gateway on BlueZ, or, with the in-process radio, together with the virtual devices it reads."""
    from gateway import service

    if settings.radio == "bluez":
        await service.run(settings, stop)
        return
    from firmware_sim import bleak_backend
    from firmware_sim.town import Town

    simulated = Town(settings.zone)
    await simulated.open(read_town(town or settings.devices))
    bleak_backend.use(simulated.central)
    server = await simulated.serve(control) if control is not None else None

    def join(pairing: Pairing) -> None:
        """There is no BlueZ to ask an agent here: the simulated adapter asks the pairing itself."""

        async def passkey(address: str) -> int | None:
            found = pairing.passkey(address)
            if found is not None:
                pairing.asked.add(address)
            return found

        simulated.central.ask_passkey = passkey

    await service.run(settings, stop, bleak_backend.SimScanner, bleak_backend.SimClient, join)
    if server is not None:
        server.close()


async def play(name: str, folder: Path, trace: Path | None, zone: str, say: Callable[[str], None], stop: asyncio.Event) -> None:
    """`yizhan sim device`: one scenario on a private bus, played as soon as somebody scans; then until `stop`."""
    from firmware_sim import scenario
    from firmware_sim.town import serving

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
    from firmware_sim.town import run_bluez

    await run_bluez(read_town(devices), bus, control, stop)


def read_town(path: Path) -> Sequence[dict[str, object]]:
    """The virtual devices of a file of devices: the simulator plays exactly what the gateway may connect to."""
    rows: list[dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return [{"device": row["device"], "address": row["address"], "family": FAMILY_OF.get(str(row["kind"]), "cuff")} for row in rows]
