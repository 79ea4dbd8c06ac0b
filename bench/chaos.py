"""`yizhan chaos`: real gateways' spools and uplinks produce through a fault proxy while everything behind them is killed.

A seed decides what happens when. The checker compares, at the end, four books: what was spooled, what the backend
promised (a receipt let the spool delete it), what the database holds, and what the sequences of each gateway say about
holes. Promised and not stored is loss; stored more than once is a double; both fail the run, and the run then prints
what happened around the record.

Faults (numbers of the matrix in docs/operations.md): kill -9 of worker, bridge, broker, Kafka, database (F13, F17, F21, F24);
SIGSTOP of worker, bridge and database (F18, F19, F22); the gateways' line cut, silent, slow, a trickle (F10); the broker's
memory wiped (F13). Not played: clocks that move, full disks, TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import statistics
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import load, rig
from bench.proxy import Proxy
from bench.rig import Say
from firmware_sim import fleet
from gateway.spool import LANE_NORMAL, LANE_PRIORITY, Item, Spool, Worth
from gateway.uplink import Uplink
from vitals import wire
from vitals.floor import database
from vitals.floor.mqtt import Link
from vitals.measurement import Measurement
from yizhan.composition import Composition

GATEWAYS, RESIDENTS = 5, 100
RESEND_AFTER = 1.0
KILLS = {"embedded": ("worker", "broker", "database"), "kafka": ("worker", "worker-2", "ingest", "broker", "kafka", "database")}
PATIENCE = 180.0  # s for everything to be stored once the faults end


class Edge:
    """One gateway: its spool on disk, its uplink through the proxy, and a diary."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.name = number, fleet.name(number)
        self.spool = Spool(folder / f"{self.name}.db")
        self.uplink = Uplink(self.spool, fleet.site(number), self.name, RESEND_AFTER)
        self.spooled: dict[int, tuple[str, float]] = {}  # seq → record, when

    def link(self, port: int) -> Link:
        return Link(
            "127.0.0.1", port, self.name, user=self.name, password=load.PASSWORD, subscriptions=self.uplink.subscriptions,
            on_connected=self.uplink.on_connected,
        )  # fmt: skip

    def measure(self, number: int) -> None:
        """The gateway's people take turns; the very first person is in danger all the time: one episode, one page."""
        now = datetime.now(UTC)
        resident = self.number + GATEWAYS * (number // GATEWAYS % (RESIDENTS // GATEWAYS))
        danger = resident == 0
        device = f"fleet-{resident:06d}-bl"
        if number < GATEWAYS:
            now -= timedelta(minutes=2)  # so that the next value confirms
        values: dict[str, float | str] = {"systolic": 188.0 if danger else 118.0, "diastolic": 114.0 if danger else 76.0, "pulse": 70.0}
        one = Measurement(
            device=device, kind="blood_pressure", record=number, measured_at=now, received_at=now, time_quality="synced", values=values,
            raw=f"{number:08x}", device_time=now.replace(tzinfo=None).isoformat(timespec="seconds"),
        )  # fmt: skip
        worth = Worth.DANGER if danger else Worth.SPOT
        (seq,) = self.spool.append([Item(wire.encode_measurement(one), LANE_PRIORITY if danger else LANE_NORMAL, worth)])
        self.spooled[seq] = (str(number), time.time())
        self.uplink.wake()

    def waiting(self) -> set[int]:
        return {record.seq for record in self.spool.waiting(1_000_000)}


class Run:
    """One run in one composition."""

    def __init__(self, composition: Composition, lane: str, seed: int, say: Say) -> None:
        self.composition, self.lane, self.say = composition, lane, say
        self.chance = random.Random(seed)
        self.history: list[tuple[float, str]] = []
        self.recovery: dict[str, list[float]] = defaultdict(list)
        self.kills: Counter[str] = Counter()
        self.edges: list[Edge] = []

    async def positions(self) -> dict[str, int]:
        """How far everything that reads has come: each partition, or each gateway. Empty while the database is away."""
        query = (
            "select partition::text as part, next_offset as at from stream_position" if self.lane == "kafka"
            else "select source as part, messages as at from position"
        )  # fmt: skip
        try:
            async with asyncio.timeout(2), await database.connect(self.composition.database_url, autocommit=True) as connection:
                return {row["part"]: row["at"] for row in await (await connection.execute(query)).fetchall()}
        except Exception:  # noqa: BLE001  whatever a database says that is being killed
            return {}

    def note(self, what: str) -> None:
        self.history.append((time.time(), what))
        self.say(what)

    async def recover(self, victim: str) -> None:
        """Until every partition (or gateway) is being committed again; how long that took is a figure of the run."""
        began, before = time.monotonic(), await self.positions()
        while time.monotonic() - began < 60:
            now = await self.positions()
            before = before or now
            if now and all(now.get(part, 0) > at for part, at in before.items()):
                self.recovery[victim].append(time.monotonic() - began)
                return
            await asyncio.sleep(0.05)
        self.note(f"nothing committed within 60 s after {victim}")

    async def strike(self, proxy: Proxy, faults: bool) -> None:
        kind = self.chance.choices(["kill", "freeze", "line", "wipe"], [10, 2, 2, 1])[0] if faults else "kill"
        if kind == "kill":
            victim = self.chance.choice(KILLS[self.lane])
            self.note(f"kill -9 {victim}")
            self.composition.services[victim].send(signal.SIGKILL)
            self.kills[victim] += 1
            await self.recover(victim)
        elif kind == "freeze":
            victim = self.chance.choice([name for name in KILLS[self.lane] if name not in ("broker", "kafka")])
            self.note(f"freeze {victim}")
            self.composition.services[victim].send(signal.SIGSTOP)
            await asyncio.sleep(self.chance.uniform(1, 8))
            self.composition.services[victim].send(signal.SIGCONT)
        elif kind == "line":
            fault = self.chance.choice(["cut", "silent", "slow", "trickle"])
            self.note(f"line {fault}")
            if fault == "cut":
                for _ in range(self.chance.randint(1, 5)):
                    proxy.cut()
                    await asyncio.sleep(self.chance.uniform(0.05, 0.5))
            else:
                proxy.fault = fault  # type: ignore[assignment]
                await asyncio.sleep(self.chance.uniform(1, 4))
                proxy.fault = "none"
                proxy.cut()
        else:
            self.note("broker wiped")
            self.composition.services["broker"].send(signal.SIGKILL)
            for path in (self.composition.data / "broker").glob("*.db"):
                path.unlink(missing_ok=True)
            self.kills["broker"] += 1
            await self.recover("broker")
        await asyncio.sleep(self.chance.uniform(0.05, 0.6))

    async def produce(self, rate: float, until: asyncio.Event) -> None:
        """Measurements at `rate` a second."""
        began, number = time.monotonic(), 0
        while not until.is_set():
            due = int((time.monotonic() - began) * rate)
            while number < due:
                edge = self.edges[number % len(self.edges)]
                edge.measure(number)
                number += 1
            await asyncio.sleep(0.02)

    async def play(self, folder: Path, kills: int, rate: float, faults: bool) -> dict[str, Any]:
        await load.settle(self.composition.database_url, GATEWAYS, RESIDENTS)
        self.edges = [Edge(number, folder) for number in range(GATEWAYS)]
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Proxy(self.composition.ports["mqtt"]))
            await asyncio.sleep(1.5)  # the broker has read the credentials
            links = [await stack.enter_async_context(edge.link(proxy.port)) for edge in self.edges]
            uplinks = [asyncio.ensure_future(edge.uplink.run(link)) for edge, link in zip(self.edges, links, strict=True)]
            ended = asyncio.Event()
            producing = asyncio.ensure_future(self.produce(rate, ended))
            try:
                await asyncio.sleep(3)
                await self.recover("start")
                while sum(self.kills.values()) < kills:
                    await self.strike(proxy, faults)
                ended.set()
                await producing
                await self.quiesce()
            finally:
                for task in (producing, *uplinks):
                    task.cancel()
                await asyncio.gather(producing, *uplinks, return_exceptions=True)
        return await self.check(time.monotonic() - began)

    async def outage(self, folder: Path, seconds: float, rate: float, flood: float) -> dict[str, Any]:
        """The database is stopped for `seconds` while the edges measure and a flood of other gateways publishes `flood` messages a second.

        Memory of every process is watched; afterwards everything goes on by itself, and the edges' books must agree.
        """
        await load.settle(self.composition.database_url, 50, 2000)
        self.edges = [Edge(number, folder) for number in range(GATEWAYS)]
        began = time.monotonic()
        memory: dict[str, list[float]] = defaultdict(list)
        command = rig.python(
            "bench.load", "--port", str(self.composition.ports["mqtt"]), "--skip", str(GATEWAYS), "--size", "20", "--dense"
        )
        more = ["--readings", str(int(flood * (seconds + 20) * 20)), "--rate", str(flood), "--no-receipts", "--patience", str(seconds + 60)]
        async with AsyncExitStack() as stack:
            await asyncio.sleep(1.5)
            flooding = await stack.enter_async_context(rig.Child(*command, *more))
            links = [await stack.enter_async_context(edge.link(self.composition.ports["mqtt"])) for edge in self.edges]
            uplinks = [asyncio.ensure_future(edge.uplink.run(link)) for edge, link in zip(self.edges, links, strict=True)]
            ended = asyncio.Event()
            producing = asyncio.ensure_future(self.produce(rate, ended))
            flood_task = asyncio.ensure_future(flooding.run())
            try:
                await asyncio.sleep(10)
                self.watch(memory)
                stopped = self.composition.services["database"]
                self.note("database stopped")
                await stopped.stop()
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    await asyncio.sleep(2)
                    self.watch(memory)
                stopped._stopping = False
                await stopped.start()
                self.note("database started")
                await self.recover("database stopped")
                ended.set()
                await producing
                flood_task.cancel()
                await self.quiesce()
            finally:
                for task in (producing, flood_task, *uplinks):
                    task.cancel()
                await asyncio.gather(producing, flood_task, *uplinks, return_exceptions=True)
        result = await self.check(time.monotonic() - began)
        result["memory_mb"] = {name: {"before": sizes[0], "most": max(sizes)} for name, sizes in memory.items()}
        result["outage_s"] = seconds
        return result

    def watch(self, memory: dict[str, list[float]]) -> None:
        """Note the resident size of every process group, in MB."""
        for name, service in self.composition.services.items():
            if name != "database" and service.process is not None and service.process.returncode is None:
                memory[name].append(_resident(service.process.pid))

    async def quiesce(self) -> None:
        end = time.monotonic() + PATIENCE
        while any(edge.waiting() for edge in self.edges):
            if time.monotonic() > end:
                self.note(f"{sum(len(edge.waiting()) for edge in self.edges)} still in the spools after {PATIENCE} s")
                return
            await asyncio.sleep(0.2)

    async def check(self, seconds: float) -> dict[str, Any]:
        async with await database.connect(self.composition.database_url) as connection:
            cursor = await connection.execute("select source, record, count(*) as n from measurement group by 1, 2")
            ours = {f"mqtt:{edge.name}" for edge in self.edges}
            rows = [row for row in await cursor.fetchall() if row["source"] in ours]
            counts = {(row["source"].removeprefix("mqtt:"), row["record"]): row["n"] for row in rows}
            cursor = await connection.execute("select count(*) as n from alert where family = 'bp_danger'")
            alerts = (await cursor.fetchone() or {})["n"]
            cursor = await connection.execute("select count(*) as n from case_log where what = 'paged'")
            pages = (await cursor.fetchone() or {})["n"]
            cursor = await connection.execute("select reason, count(*) as n from quarantine group by 1")
            quarantined = {row["reason"]: row["n"] for row in await cursor.fetchall()}
        attempted = acknowledged = 0
        lost: list[tuple[Edge, int, str]] = []
        never: list[tuple[Edge, int, str]] = []
        for edge in self.edges:
            waiting = edge.waiting()
            for seq, (record, _at) in edge.spooled.items():
                attempted += 1
                acknowledged += seq not in waiting
                if (edge.name, record) not in counts:
                    (never if seq in waiting else lost).append((edge, seq, record))
        doubled = [key for key, n in counts.items() if n > 1]
        result: dict[str, Any] = {
            "lane": self.lane, "kills": sum(self.kills.values()), "killed": dict(self.kills), "attempted": attempted,
            "acknowledged": acknowledged, "stored": len(counts), "lost": len(lost), "duplicated": len(doubled),
            "still_spooled": len(never), "quarantined": quarantined, "alerts_of_the_episode": alerts, "pages_of_the_episode": pages,
            "recovery_s": {
                victim: {"median": round(statistics.median(values), 2), "worst": round(max(values), 2), "times": len(values)}
                for victim, values in sorted(self.recovery.items())
            },
            "seconds": round(seconds, 1),
        }  # fmt: skip
        result["ok"] = not (lost or doubled or never or quarantined) and alerts == 1 and pages == 1
        if not result["ok"]:
            result["history"] = self.minimal([*lost, *never])
        return result

    def minimal(self, missing: list[tuple[Edge, int, str]]) -> list[str]:
        """What happened within ten seconds of the first missing record; everything, where none is missing."""
        if not missing:
            return [f"{at:.3f} {what}" for at, what in self.history]
        edge, seq, record = missing[0]
        at = edge.spooled[seq][1]
        around = [(when, what) for when, what in self.history if abs(when - at) < 10]
        return [f"{when:.3f} {what}" for when, what in sorted([*around, (at, f"{edge.name} spooled seq {seq}, record {record}")])]


def _resident(group: int) -> float:
    """MB of all processes of a process group."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += int(fields[21]) * 4096 / 1e6
    return round(total, 1)


async def run(
    say: Say, lane: str, seed: int, kills: int, rate: float, faults: bool = True, outage: float = 0.0, flood: float = 2000.0
) -> dict[str, Any]:  # fmt: skip
    """One run; the result's `ok` says whether everything that was promised is there, once.

    outage: seconds without a database, under a flood of `flood` messages a second, instead of kills.
    """
    async with rig.workspace() as folder:
        composition = Composition(
            folder / "data",
            gateway_process=False,
            through_kafka=lane == "kafka",
            workers=2 if lane == "kafka" else 1,
            broker_kind="mosquitto",
        )
        async with composition:
            one = Run(composition, lane, seed, say)
            result = await (one.outage(folder, outage, rate, flood) if outage else one.play(folder, kills, rate, faults))
            if not result["ok"]:
                kept = Path(f"chaos-{lane}-{seed}")
                shutil.copytree(composition.data / "logs", kept, dirs_exist_ok=True)
                result["logs"] = str(kept)
    return {"seed": seed, "rate": rate, "faults": faults} | result


def remember(path: Path, result: dict[str, Any], commit: str) -> dict[str, int]:
    """Append a run to the file of all runs; returns its totals."""
    with path.open("a") as file:
        kept = {
            name: result[name] for name in ("seed", "lane", "kills", "killed", "acknowledged", "lost", "duplicated", "ok", "recovery_s")
        }
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit} | kept) + "\n")
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: sum(one[name] for one in runs) for name in ("kills", "acknowledged", "lost", "duplicated")} | {"runs": len(runs)}
