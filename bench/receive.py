"""Receiving from the broker: our reader, paho with manual acknowledgements, aiming at what the broker forwards at most."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench import rig
from bench.e2e import publisher
from bench.peers import TOPIC
from bench.rig import Say, summary
from vitals.floor.mqtt import Link
from vitals.floor.mqtt_reader import Reader

READINGS = 100_000
BATCH = 2000


async def _receive(kind: type[Link] | type[Reader], port: int, boot: int) -> tuple[float, float]:
    """(messages a second, µs of our processor for each): every message acknowledged in batches, as the worker does."""
    async with (
        kind("127.0.0.1", port, f"receive-{boot}", subscriptions=[TOPIC], window=BATCH) as link,
        publisher(port, "single", READINGS, boot, "--no-receipts") as load_process,
    ):
        await link.connected.wait()
        await asyncio.sleep(0.3)
        running = asyncio.ensure_future(load_process.run())
        began, used, seen = time.monotonic(), time.process_time(), 0
        while not running.done() or seen < running.result()["messages"]:
            for delivery in link.deliveries.take(BATCH):
                link.acknowledge(delivery)
                seen += 1
            await asyncio.sleep(0.002)
        seconds, spent = time.monotonic() - began, time.process_time() - used
    return seen / seconds, spent / seen * 1e6


async def run(say: Say, samples: int) -> dict[str, Any]:
    """Rates and processor of each reader, interleaved."""
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    async with rig.workspace() as folder, rig.open_broker(folder) as port:
        for number in range(samples):
            for name, kind in (("reader", Reader), ("paho", Link)):
                rate, cost = await _receive(kind, port, 10 + number * 2 + (name == "paho"))
                rates.setdefault(name, []).append(rate)
                costs.setdefault(name, []).append(cost)
                say(f"{name}: {rate:,.0f} messages/s, {cost:.1f} µs each")
    told: dict[str, Any] = {"machine": rig.machine()}
    for name, measured in rates.items():
        cost = sorted(costs[name])[len(costs[name]) // 2]
        told[name] = {"messages_per_second": summary(measured), "processor_us_per_message": round(cost, 1)}
    return told
