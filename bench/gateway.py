"""The gateway process alone, against the fake bluetoothd in a process of its own: `yizhan bench gateway`.

history     1,000 stored glucose records: seconds from the request until the last one is on disk
in_turn     50 cuffs that measured at the same moment: seconds until each one's record is on disk, and the longest wait
storm       a cuff read among 1,000 advertisers
steady      50 bands worn at once, one measurement a second each: memory and processor of the gateway
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from firmware_sim.town import Control

TICKS = os.sysconf("SC_CLK_TCK")
Say = Callable[[str], None]


class Edge:
    """A simulator and a gateway, both started; the gateway finds no broker and spools."""

    def __init__(self, folder: Path) -> None:
        self.control = Control(folder / "control.sock")
        self.folder = folder
        self.gateway: asyncio.subprocess.Process | None = None

    def spooled(self, device: str | None = None) -> list[float]:
        """When each record was made durable, seconds since the epoch, in order."""
        with sqlite3.connect(f"file:{self.folder / 'spool.db'}?mode=ro", uri=True) as spool:
            where = "where json_extract(cast(body as text), '$.device') = ?" if device else ""
            return [row[0] for row in spool.execute(f"select spooled_at from outgoing {where} order by seq", (device,) if device else ())]

    def usage(self) -> tuple[float, float]:
        """(resident megabytes, processor seconds) of the gateway process."""
        assert self.gateway is not None
        fields = Path(f"/proc/{self.gateway.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{self.gateway.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return resident / 1024, (int(fields[11]) + int(fields[12])) / TICKS

    def said(self, message: str) -> list[dict[str, Any]]:
        """Lines of the gateway's log with this message."""
        lines = (self.folder / "gateway.log").read_text(errors="replace").splitlines()
        return [line for line in (json.loads(text) for text in lines if text.startswith("{")) if line["message"] == message]

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("waited too long")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def edge(rows: list[dict[str, Any]]) -> AsyncIterator[Edge]:
    """rows: virtual devices with `gateway` fields, as in a scenario."""
    with tempfile.TemporaryDirectory(prefix="yz-") as name:
        folder = Path(name)
        (folder / "none.json").write_text("[]")
        listed = [{"device": row["device"], "address": row["address"], "setting": "home", **row["gateway"]} for row in rows]
        (folder / "devices.json").write_text(json.dumps(listed))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("YIZHAN_")} | {
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder / 'bus.sock'}", "YIZHAN_SPOOL": str(folder / "spool.db"),
            "YIZHAN_DEVICES": str(folder / "devices.json"), "YIZHAN_MQTT_PORT": "1", "YIZHAN_DATA_DIR": name,
        }  # fmt: skip
        found = Edge(folder)
        sockets = ["--bus", str(folder / "bus.sock"), "--control", str(folder / "control.sock")]
        simulator = await _start(["sim", "serve", "--devices", str(folder / "none.json"), *sockets], environment, folder / "simulator.log")
        try:
            await found.until((folder / "control.sock").exists)
            for row in rows:
                await found.control.ask(do="add", row={key: value for key, value in row.items() if key != "gateway"})
            found.gateway = await _start(["gateway"], environment, folder / "gateway.log")
            await found.until(lambda: bool(found.said("scanning")))
            yield found
        finally:
            for process in (found.gateway, simulator):
                if process is not None and process.returncode is None:
                    process.terminate()
                    await process.wait()


async def _start(arguments: list[str], environment: dict[str, str], log: Path) -> asyncio.subprocess.Process:
    with log.open("wb") as file:
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "yizhan", *arguments, env=environment, stderr=file, stdout=file)


def rows(count: int, family: str, kind: str, **more: Any) -> list[dict[str, Any]]:
    """`count` virtual devices of one family, as `edge` takes them."""
    return [
        {
            "device": f"{family}-{n}",
            "address": f"F0:00:00:00:{n >> 8:02X}:{n & 255:02X}",
            "family": family,
            **more,
            "gateway": {"kind": kind},
        }
        for n in range(1, count + 1)
    ]


async def history(records: int = 1000) -> dict[str, Any]:
    async with edge(rows(1, "glucose_meter", "glucose")) as one:
        await one.control.ask(do="history", device="glucose_meter-1", count=records)
        await one.until(lambda: bool(one.said("history read")))
        return {"records": len(one.spooled()), "seconds": one.said("history read")[0]["seconds"]}


async def in_turn(count: int = 50) -> dict[str, Any]:
    async with edge(rows(count, "cuff", "blood_pressure", idle=0.3)) as one:
        began = time.time()
        await asyncio.gather(
            *(one.control.ask(do="measure", device=f"cuff-{n}", systolic=120, diastolic=80, pulse=70) for n in range(1, count + 1))
        )
        await one.until(lambda: len(one.spooled()) >= count, 120)
        waits = [at - began for at in one.spooled()]
        return {"devices": len(waits), "seconds": round(max(waits), 2), "median": round(statistics.median(waits), 2)}


async def storm(advertisers: int = 1000) -> dict[str, Any]:
    async with edge(rows(1, "cuff", "blood_pressure")) as one:
        await one.control.ask(do="storm", count=advertisers)
        await asyncio.sleep(3)
        _, before = one.usage()
        began = time.time()
        for _ in range(10):
            await one.control.ask(do="measure", device="cuff-1", systolic=120, diastolic=80, pulse=70, seconds_ago=0)
        await one.until(lambda: len(one.spooled()) >= 10, 120)
        seconds = max(one.spooled()) - began
        megabytes, after = one.usage()
        cpu = 100 * (after - before) / (time.time() - began)
        return {
            "advertisers": advertisers,
            "records": 10,
            "seconds": round(seconds, 2),
            "rss_mb": round(megabytes, 1),
            "cpu_percent": round(cpu, 1),
        }


async def steady(count: int = 50, seconds: float = 20) -> dict[str, Any]:
    async with edge(rows(count, "heart_rate_band", "heart_rate")) as one:
        for n in range(1, count + 1):
            await one.control.ask(do="live", device=f"heart_rate_band-{n}", every_s=1.0)
        await one.until(lambda: len({d for d in range(1, count + 1) if one.spooled(f"heart_rate_band-{d}")}) == count, 180)
        await asyncio.sleep(3)
        _, before = one.usage()
        counted, began = len(one.spooled()), time.monotonic()
        await asyncio.sleep(seconds)
        megabytes, after = one.usage()
        passed = time.monotonic() - began
        rate = (len(one.spooled()) - counted) / passed
        return {
            "devices": count, "measurements_per_second": round(rate, 1), "rss_mb": round(megabytes, 1),
            "cpu_percent": round(100 * (after - before) / passed, 2),
        }  # fmt: skip


async def run(say: Say, samples: int) -> dict[str, Any]:
    """Medians of `samples` interleaved runs of each part."""
    parts: dict[str, Callable[[], Any]] = {"history": history, "in_turn": in_turn, "storm": storm, "steady": steady}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in parts}
    for _ in range(samples):
        for name, part in parts.items():
            result = await part()
            say(f"{name}: {result}")
            found[name].append(result)
    return {name: {key: statistics.median(one[key] for one in results) for key in results[0]} for name, results in found.items()}
