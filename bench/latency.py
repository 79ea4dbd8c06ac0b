"""Indication at the virtual cuff → the pending case in a doctor's event stream, in the embedded composition; and the same from
a gateway's publication while a fleet publishes thousands of readings a second beside it.

Each sample is a new episode: a dangerous value, the event, then the case is acknowledged and resolved so that the
next value pages again. Times are wall-clock on one machine; report medians, not single runs.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench import e2e, load
from vitals import wire
from vitals.floor.mqtt_reader import Reader
from vitals.measurement import Measurement
from yizhan import town
from yizhan.composition import Composition, Progress
from yizhan.demo import Stream, alert_state, listening


async def run(progress: Progress, samples: int, radio: str = "auto", broker_kind: str = "auto") -> dict[str, Any]:
    """Median, p95 and all samples in ms."""
    with tempfile.TemporaryDirectory(prefix="yizhan-bench-") as folder:
        async with Composition(Path(folder), progress=progress, radio=radio, broker_kind=broker_kind) as composition:
            token = await town.make_login(composition.database_url, "doctor", town.DOCTOR)
            headers = {"Authorization": f"Bearer {token}"}
            async with listening(composition.url, token) as stream, httpx.AsyncClient(headers=headers) as client:
                found = [await _sample(composition, stream, client, number) for number in range(samples)]
            bluetooth = composition.bluetooth
    ordered = sorted(found)
    return {
        "what": "indication → pending case in the event stream, ms", "samples": samples, "median": round(statistics.median(found), 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1), "max": round(ordered[-1], 1), "bluetooth": bluetooth,
        "all": [round(x, 1) for x in found],
    }  # fmt: skip


async def _sample(composition: Composition, stream: Stream, client: httpx.AsyncClient, number: int) -> float:
    device = town.PEOPLE[0][3]
    # a second apart in the cuff's own clock, so that every frame is a measurement of its own
    taken = await composition.control.ask(
        do="measure", device=device, systolic=181 + number % 20, diastolic=112, pulse=80, seconds_ago=number % 40
    )
    sent = await composition.control.ask(do="indicated", device=device, frame=taken["frame"])
    seen, case = await stream.until(lambda c: c["care_case"] == number + 1 and alert_state(c) == "pending")
    await _end(composition, client, case)
    indicated: float = sent["at"]
    return (seen - indicated) * 1000


async def _end(composition: Composition, client: httpx.AsyncClient, case: dict[str, Any]) -> None:
    """Acknowledge and resolve, so that the next value opens a case of its own."""
    for action, body in (("acknowledge", {}), ("resolve", {"why": "benchmark"})):
        answer = await client.get(f"{composition.url}/v1/cases/{case['care_case']}")
        version = answer.json()["case"]["version"]
        (
            await client.post(f"{composition.url}/v1/cases/{case['care_case']}/{action}", json={"version": version, **body})
        ).raise_for_status()
    end = time.monotonic() + 10
    while (await client.get(f"{composition.url}/v1/cases/{case['care_case']}")).json()["case"]["ended_at"] is None:
        if time.monotonic() > end:
            raise TimeoutError("the case did not end")
        await asyncio.sleep(0.02)


async def under_load(progress: Progress, samples: int, readings_per_second: int) -> dict[str, Any]:
    """Publication of a danger value → pending case in the doctor's stream, ms, while a fleet sends that many readings a second.

    The load is 1 Hz heart rate, twenty readings in a message, from fifty gateways; the danger values come from the town's own.
    """
    with tempfile.TemporaryDirectory(prefix="yizhan-bench-") as folder:
        async with Composition(Path(folder), progress=progress, gateway_process=False, broker_kind="mosquitto") as composition:
            await load.settle(composition.database_url, e2e.GATEWAYS, e2e.RESIDENTS)
            token = await town.make_login(composition.database_url, "doctor", town.DOCTOR)
            headers = {"Authorization": f"Bearer {token}"}
            password = (Path(folder) / "secrets" / "gateway").read_text().strip()
            seconds = samples * 0.25 + 5
            rate = readings_per_second / 20
            more = ("--rate", str(rate), "--patience", "120")
            reading = Reader("127.0.0.1", composition.ports["mqtt"], town.GATEWAY, user=town.GATEWAY, password=password)
            async with (
                e2e.publisher(composition.ports["mqtt"], "dense", int(readings_per_second * seconds), 1, *more) as fleet_load,
                reading as link,
                listening(composition.url, token) as stream,
                httpx.AsyncClient(headers=headers) as client,
            ):
                await link.connected.wait()
                running = asyncio.create_task(fleet_load.run())
                await asyncio.sleep(2)
                found: list[float] = []
                cases: set[int] = set()
                while not running.done():
                    found.append(await _danger(composition, link, stream, client, len(found), cases))
                    await asyncio.sleep(0.05)
                told = running.result()
    ordered = sorted(found)
    return {
        "what": "publication → pending case in the event stream, ms", "load_readings_per_second": readings_per_second,
        "reached": round(told["readings"] / told["seconds"]), "samples": len(found), "median": round(statistics.median(found), 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1), "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 1),
    }  # fmt: skip


async def _danger(
    composition: Composition, link: Reader, stream: Stream, client: httpx.AsyncClient, number: int, cases: set[int]
) -> float:  # fmt: skip
    now = datetime.now(UTC)
    one = Measurement(
        device=town.PEOPLE[0][3], kind="blood_pressure", record=f"danger-{number}", measured_at=now, received_at=now,
        time_quality="synced", values={"systolic": 186.0, "diastolic": 112.0, "pulse": 80.0}, raw=f"{number:08x}",
    )  # fmt: skip
    payload = wire.encode_message("latency", number + 1, now, [wire.encode_measurement(one)])
    began = time.time()
    await link.publish(wire.topic(town.SITE, town.GATEWAY, "up", "readings"), payload)
    async with asyncio.timeout(30):
        seen, case = await stream.until(lambda c: c["care_case"] not in cases and alert_state(c) == "pending")
    cases.add(case["care_case"])
    await _end(composition, client, case)
    return (seen - began) * 1000
