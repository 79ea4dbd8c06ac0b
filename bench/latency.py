"""Indication at the virtual cuff → the pending case in a doctor's event stream, in the embedded composition.

Each sample is a new episode: a dangerous value, the event, then the case is acknowledged and resolved so that the
next value pages again. Times are wall-clock on one machine; report medians, not single runs.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

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
    indicated: float = sent["at"]
    return (seen - indicated) * 1000
