"""`make up`: the whole path on one machine, until Ctrl-C; virtual residents go on measuring."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

from vitals.errors import BadInput
from yizhan import district, town
from yizhan.composition import Composition, Progress

BETWEEN = (20.0, 40.0)  # s between two virtual measurements


async def run(
    progress: Progress,
    stop: asyncio.Event,
    *,
    data: Path,
    port: int,
    radio: str,
    broker_kind: str,
    seed: int | None = None,
    people: int = district.PEOPLE,
) -> None:
    """Start, print the address and fresh logins, keep the town alive, stop everything."""
    progress("驿站 yizhan 正在启动 · starting (Ctrl-C stops everything)")
    furnished = Composition(data, progress=progress, radio=radio, broker_kind=broker_kind, api_port=port, residents=people)
    async with furnished as composition:
        progress("")
        progress(f"控制台 console         {composition.url}/")
        if composition.first_start:
            progress("用户名 name     密码 password          角色 role")
            for person, name, _team, role, _place, login in town.PERSONNEL:
                password = await town.make_password(composition.database_url, login, person, person)
                progress(f"{person:<15} {password:<22} {name} {role}")
            mine = await town.make_password(composition.database_url, "resident", await town.first(composition.database_url), "wang")
            progress(f"{'wang':<15} {mine:<22} {town.PEOPLE[0][0]} resident")
            for login in ("admin", "security", "audit"):
                progress(f"{login + ' token':<15} {await town.make_login(composition.database_url, login, None)}")
            progress("(shown once; a new token: yizhan account doctor)")
        else:
            progress("(logins were shown at the first start; a new one: yizhan account doctor)")
        progress("")
        living = asyncio.create_task(_live(composition, random.Random(seed), progress))  # noqa: S311
        await stop.wait()
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        progress("正在停止 stopping …")


async def _live(composition: Composition, chance: random.Random, progress: Progress) -> None:
    """A dangerous pair first, so that the queue shows something; then ordinary days."""
    first = town.PEOPLE[0][3]
    await _measure(composition, first, 186, 112, 88, 120)
    progress("一只家用血压计送来 186/112(两分钟前测得)· a home cuff sent 186/112, measured two minutes ago: pending")
    await asyncio.sleep(15)
    await _measure(composition, first, 188, 113, 90, 0)
    progress("复测 188/113 · the repeat confirms it: firing")
    while True:
        await asyncio.sleep(chance.uniform(*BETWEEN))
        device = chance.choice([person[3] for person in town.PEOPLE[1:]])
        systolic = round(chance.gauss(136, 12))
        await _measure(composition, device, systolic, round(systolic * 0.6 + chance.gauss(2, 4)), round(chance.gauss(74, 8)), 0)


async def _measure(composition: Composition, device: str, systolic: int, diastolic: int, pulse: int, ago: int) -> None:
    with contextlib.suppress(OSError, ValueError, BadInput):  # the simulator may be restarting
        await composition.control.ask(do="measure", device=device, systolic=systolic, diastolic=diastolic, pulse=pulse, seconds_ago=ago)
