"""End to end: published by gateways on their own connections → rules run, committed, receipt back at the gateway.

    single      one measurement in a message (1.95 readings in the mean: a pressure has three)
    batched     twenty readings in a message, of about ten measurements (the fleet's mixture)
    dense       twenty readings in a message: 1 Hz heart rate as one dense series, stored as a block
    *_kafka     the same through bridge and Kafka

Ours runs in the composition that `make up` starts: credentials, topic rights, ledger, raw bytes, flags, receipts. The peers
run against a broker for anybody and store the values alone. Limits: the same broker forwarding to a reader that only
acknowledges, and a prebuilt buffer into a table without index (`bench store`).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from bench import load, peers, rig
from bench.rig import Child, Say, python, summary, until, value
from vitals.floor.mqtt_reader import Reader
from yizhan import kafka
from yizhan.broker import mosquitto_program
from yizhan.composition import Composition

GATEWAYS, RESIDENTS = 50, 2000
SIZES = {"single": 1, "batched": 20, "dense": 20}
OURS = {"single": 60_000, "batched": 600_000, "dense": 1_000_000}  # readings of one run
THEIRS = {"naive": 3_000, "naive_1000": 10_000, "pipe": 60_000, "telegraf": 60_000, "node_red": 30_000}
Peer = Callable[[str, int, Path], AbstractAsyncContextManager[str]]


def _peers() -> dict[str, Peer]:
    return {
        "naive": peers.naive, "naive_1000": lambda url, port, folder: peers.naive(url, port, folder, 1000), "pipe": peers.pipe,
        "telegraf": peers.telegraf, "node_red": peers.node_red,
    }  # fmt: skip


def publisher(port: int, lane: str, readings: int, boot: int, *more: str) -> Child:
    return Child(
        *python("bench.load", "--port", str(port), "--gateways", str(GATEWAYS), "--residents", str(RESIDENTS)),
        *(["--dense"] if lane == "dense" else []), "--size", str(SIZES[lane]), "--readings", str(readings), "--boot", str(boot), *more,
    )  # fmt: skip


async def ours(composition: Composition, lane: str, readings: int, boot: int) -> dict[str, float]:
    """One run; raises if a measurement is missing or double."""
    before = await value(composition.database_url, "select count(*) from measurement")
    async with publisher(composition.ports["mqtt"], lane, readings, boot) as load_process:
        told = await load_process.run()
    after = await value(composition.database_url, "select count(*) from measurement")
    doubled = await value(composition.database_url, "select count(*) - count(distinct (device_no, series, record)) from measurement")
    if after - before != told["measurements"] or doubled:
        raise RuntimeError(f"{told['measurements']} measurements sent, {after - before} stored, {doubled} double")
    return {name: told[name] / told["seconds"] for name in ("readings", "measurements", "messages")}


async def peer(make: Peer, url: str, port: int, folder: Path, lane: str, readings: int, boot: int) -> dict[str, float]:
    async with make(url, port, folder) as query, publisher(port, lane, readings, boot, "--no-receipts") as load_process:
        if await value(url, query):
            raise RuntimeError("it stores what was sent before this run")
        began = time.monotonic()
        told = await load_process.run()
        count = 0

        async def stored() -> bool:
            nonlocal count
            count = await value(url, query)
            # equal times of one device fall on each other in their unique key; a pipe keeps its last 200 lines to itself
            return bool(count >= told["readings"] * 0.999 - 200 * told["readings"] / told["messages"])

        try:
            await until(stored, 60, 0.05)
        except TimeoutError:
            raise RuntimeError(f"{count} of {told['readings']} readings stored") from None
        seconds = time.monotonic() - began
    return {"readings": told["readings"] / seconds, "messages": told["messages"] / seconds}


async def forwarding(port: int, lane: str, readings: int, boot: int) -> dict[str, float]:
    """The broker's limit: the same load to a reader that acknowledges and throws away."""
    async with (
        Reader("127.0.0.1", port, "limit", subscriptions=[peers.TOPIC], window=5000) as reader,
        publisher(port, lane, readings, boot, "--no-receipts") as load_process,
    ):
        await reader.connected.wait()
        await asyncio.sleep(0.3)
        running = asyncio.ensure_future(load_process.run())
        began, seen, last = time.monotonic(), 0, time.monotonic()
        while not running.done() or seen < running.result()["messages"]:
            for delivery in reader.deliveries.take(5000):
                reader.acknowledge(delivery)
                seen, last = seen + 1, time.monotonic()
            await asyncio.sleep(0.001)
        told, seconds = running.result(), last - began
    return {"readings": told["readings"] / seconds, "messages": told["messages"] / seconds}


async def run(say: Say, samples: int, lanes: list[str], with_peers: bool, through_kafka: bool) -> dict[str, Any]:
    """Rates of every lane: median, worst, all; ratios to the peers."""
    if not mosquitto_program():
        raise FileNotFoundError("mosquitto is not installed")
    found: dict[str, dict[str, list[dict[str, float]]]] = {lane: {} for lane in lanes}
    missing: dict[str, str] = {}

    def note(lane: str, who: str, rates: dict[str, float]) -> None:
        found[lane].setdefault(who, []).append(rates)
        say(f"{lane} {who}: {rates['readings']:,.0f} readings/s, {rates['messages']:,.0f} messages/s")

    async with rig.workspace() as folder:
        compositions = {"ours": Composition(folder / "mqtt", gateway_process=False)}
        if through_kafka and kafka.jars() is not None:
            compositions["ours_kafka"] = Composition(folder / "kafka", gateway_process=False, through_kafka=True, workers=2)
        elif through_kafka:
            missing["ours_kafka"] = "not run here: Kafka is not installed"
        boot = 0
        for who, composition in compositions.items():
            # one composition at a time has the machine; within it every lane takes its turn
            async with composition:
                await load.settle(composition.database_url, GATEWAYS, RESIDENTS)
                await asyncio.sleep(1.5)  # the broker has read the new credentials
                for lane in lanes:
                    boot += 1
                    await ours(composition, lane, OURS[lane] // 10, boot)  # warm
                for _ in range(samples):
                    for lane in lanes:
                        boot += 1
                        note(lane, who, await ours(composition, lane, OURS[lane], boot))
        async with rig.cluster(folder) as (url, superuser), rig.open_broker(folder) as port:
            for _ in range(samples):
                for lane in lanes:
                    boot += 1
                    note(lane, "limit_forward", await forwarding(port, lane, OURS[lane], boot))
                    for who, make in _peers().items() if with_peers else ():
                        if who in missing:
                            continue
                        boot += 1
                        await rig.checkpoint(superuser)
                        try:
                            many = THEIRS[who] * (1 if lane == "single" else 10)
                            note(lane, who, await peer(make, url, port, folder, lane, many, boot))
                        except (FileNotFoundError, RuntimeError) as error:
                            missing[who] = f"not run here: {error}"
                            print(f"{who}: {error}", file=sys.stderr)
    result: dict[str, Any] = {"machine": rig.machine(), "samples": samples, "missing": missing}
    for lane, by in found.items():
        result[lane] = {
            who: {unit: summary([one[unit] for one in rates]) for unit in ("readings", "messages")} for who, rates in by.items()
        }
        mine = result[lane].get("ours", {}).get("readings", {}).get("median")
        result[lane]["ratio"] = {
            who: round(mine / by_unit["readings"]["median"], 2)
            for who, by_unit in result[lane].items()
            if mine and who not in ("ours", "ratio")
        }
    return result
