"""How rooms become processes: the worker's steps, the order of migrations, the gateway on a simulated radio."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import care.service
from care import notifier
from gateway.pairing import Pairing
from ingest import storage
from ingest.batch import Step
from rules import pack
from rules.service import Rules
from rules.shadow import Shadow
from vitals.errors import ConfigError
from vitals.floor import database
from vitals.settings import Settings
from yizhan.simulate import read_town

ROOMS = ("ingest", "rules", "care", "api")  # migrations, in the order of who references whom


def steps(settings: Settings) -> list[Step]:
    """What the worker runs in its transaction, in order."""
    packs = [pack.load_named(name) for name in pack.shipped()]
    symptoms = sorted({name for one in packs for name in one.document.symptoms})
    beside: list[Step] = []
    if settings.shadow_packs is not None:
        tried = [pack.load(path.read_text(encoding="utf-8")) for path in sorted(settings.shadow_packs.glob("*.yaml"))]
        beside = [Shadow(tried, settings.zone).step]
    rules = Rules(packs, settings.zone).step
    care_first, care_after = care.service.close_cases(settings.zone), care.service.open_cases(settings.zone)
    return [care_first, rules, *beside, care_after, care.service.advise(symptoms)]


async def migrate(conninfo: str) -> list[str]:
    """Bring the tables to where this code has them; the names of what was applied."""
    applied = ["jobs"] if await notifier.install(conninfo) else []
    return applied + await database.migrate(conninfo, ROOMS)


async def notify(settings: Settings, stop: asyncio.Event) -> None:
    await notifier.run(settings, stop)


async def verify_audit(settings: Settings) -> list[str]:
    """Every place where the log of who looked at whom is not what was written."""
    from api import audit

    async with await database.connect(settings.database()) as connection:
        return await audit.verify(connection, audit.Book(settings.sealing()).key)


async def arrange(conninfo: str) -> list[str]:
    """Give the tables the best form this database has; what could not be done, in words."""
    async with await database.connect(conninfo) as connection:
        return await storage.arrange(connection)


async def retire(conninfo: str, days: int) -> dict[str, int]:
    """Drop what is older; raises ConfigError for a number of days that is a mistake."""
    if days < 30:
        raise ConfigError(["retire: fewer than 30 days would take what the rules' windows look back on"])
    async with await database.connect(conninfo) as connection:
        return await storage.retire(connection, datetime.now(UTC) - timedelta(days=days))


def spare_the_collector() -> None:
    """What was loaded stays; collections then look at what a batch made only, and seldom."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def worker(settings: Settings, stop: asyncio.Event) -> None:
    from ingest import service

    spare_the_collector()
    await service.run(settings, steps(settings), stop)


async def ingest(settings: Settings, stop: asyncio.Event) -> None:
    from ingest import bridge

    spare_the_collector()
    await bridge.run(settings, stop)


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
