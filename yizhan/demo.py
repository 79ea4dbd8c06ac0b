"""`make demo`: one dangerous reading walks the whole path, bounded in time, every hop told with its time.

A virtual cuff's 186/112 travels over Bluetooth, MQTT, database and rules into the doctor's queue (pending), a second
one confirms it (firing), and it is acknowledged over HTTP. A repeat confirms only when it was measured at least a
minute after the first; nobody waits that long here: the first is a record from the cuff's memory, two minutes old,
as a real cuff sends one that was measured out of reach of the station.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from vitals.gatt import BloodPressureMeasurement
from vitals.measurement import record_digest
from vitals.settings import load
from yizhan import broker, town
from yizhan.composition import Composition, Progress

PATIENCE = 60.0
FIRST, SECOND = (186, 112, 88), (188, 113, 90)
SECONDS_AGO = 120


class Stream:
    """A doctor's event stream as a browser holds it."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {token}"}
        self._events: asyncio.Queue[tuple[float, str, Any]] = asyncio.Queue()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(10, read=None)) as client,
            client.stream("GET", f"{self._url}/v1/events", headers=self._headers) as answer,
        ):
            answer.raise_for_status()
            name = ""
            async for line in answer.aiter_lines():
                at = time.time()
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.ready.set()
                    await self._events.put((at, name, json.loads(line.removeprefix("data: "))))

    async def until(self, wanted: Any) -> tuple[float, dict[str, Any]]:
        """When the first `case` event came that `wanted` accepts, and the case."""
        while True:
            at, name, data = await self._events.get()
            if name == "case" and wanted(data):
                return at, data


@contextlib.asynccontextmanager
async def listening(url: str, token: str) -> AsyncIterator[Stream]:
    """An open event stream that has had its snapshot."""
    stream = Stream(url, token)
    task = asyncio.create_task(stream.run())
    try:
        await asyncio.wait_for(stream.ready.wait(), 15)
        yield stream
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def alert_state(case: dict[str, Any]) -> str | None:
    """State of the case's open blood-pressure danger alert."""
    return next((alert["state"] for alert in case["alerts"] or [] if alert["family"] == "bp_danger"), None)


async def run(progress: Progress, *, radio: str = "auto", broker_kind: str = "auto", data: Path | None = None) -> dict[str, Any]:
    """The result of `yizhan demo --json`; `ok` says whether everything happened."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="yizhan-demo-") as folder:
        composition = Composition(data or Path(folder), progress=progress, radio=radio, broker_kind=broker_kind, log_level="debug")
        async with composition:
            result = await asyncio.wait_for(_walk(composition, progress), PATIENCE)
    result["bluetooth"] = composition.bluetooth
    result["broker"] = broker.choose(load({"YIZHAN_BROKER_KIND": broker_kind}))
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


async def _walk(composition: Composition, progress: Progress) -> dict[str, Any]:
    token = await town.make_login(composition.database_url, "doctor", town.DOCTOR)
    device = town.PEOPLE[0][3]
    async with listening(composition.url, token) as stream:
        first = await _measure(composition, device, FIRST, SECONDS_AGO)
        indicated = first["at"]
        seen, case = await stream.until(lambda c: alert_state(c) == "pending")
        hops = {"device_indication": 0.0, **await _logged_hops(composition.data, first["frame"], indicated)}
        hops["pending_case"] = _after(indicated, datetime.fromisoformat(case["opened_at"]).timestamp())
        hops["event_stream"] = _after(indicated, seen)
        second = await _measure(composition, device, SECOND, 0)
        confirmed, case = await stream.until(lambda c: alert_state(c) == "firing")
        hops["confirmed"] = _after(second["at"], confirmed)
        asked = time.time()
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            answer = await client.post(f"{composition.url}/v1/cases/{case['care_case']}/acknowledge", json={"version": case["version"]})
            answer.raise_for_status()
            acknowledged, case = await stream.until(lambda c: c["state"] == "acknowledged")
            hops["acknowledged"] = _after(asked, acknowledged)
            detail = (await client.get(f"{composition.url}/v1/cases/{case['care_case']}")).json()
    alert = next(a for a in detail["alerts"] if a["family"] == "bp_danger")
    for hop, milliseconds in hops.items():
        progress(f"  {hop:<18} {milliseconds:8.1f} ms")
    ok = case["state"] == "acknowledged" and alert["state"] == "firing" and alert["why"] == "confirmed"
    return {
        "ok": ok,
        "hops_ms": hops,
        "case": {
            "care_case": case["care_case"], "state": case["state"], "severity": case["severity"], "team": case["team"],
            "alert": {"family": alert["family"], "state": alert["state"], "why": alert["why"]},
        },
        "readings": [{"values": m["values"], "measured_at": m["measured_at"], "raw": m["raw"]} for m in detail["measurements"]],
        "note": (
            f"The first value came from the cuff's memory, measured {SECONDS_AGO} s before; the second was measured now. "
            "Hops up to event_stream count from the first indication, confirmed from the second, acknowledged from the HTTP request."
        ),
    }  # fmt: skip


async def _measure(composition: Composition, device: str, numbers: tuple[int, int, int], seconds_ago: int) -> dict[str, Any]:
    systolic, diastolic, pulse = numbers
    taken = await composition.control.ask(
        do="measure", device=device, systolic=systolic, diastolic=diastolic, pulse=pulse, seconds_ago=seconds_ago
    )
    sent = await composition.control.ask(do="indicated", device=device, frame=taken["frame"])
    return {"frame": taken["frame"], "at": sent["at"]}


async def _logged_hops(data: Path, frame: str, indicated: float) -> dict[str, float]:
    """When the gateway spooled and published this record and the worker committed it, in their own words."""
    raw = bytes.fromhex(frame)
    record = record_digest(str(BloodPressureMeasurement.from_bytes(raw).timestamp), raw)
    spooled = await _logged(data, "gateway", lambda line: line["message"] == "spooled" and line["record"] == record)
    key = (spooled["boot"], spooled["seq"])
    published = await _logged(data, "gateway", lambda line: line["message"] == "published" and (line["boot"], line["seq"]) == key)
    committed = await _logged(data, "worker", lambda line: line["message"] == "committed" and record in line["records"])
    found = {"spool": spooled, "publish": published, "commit": committed}
    return {hop: _after(indicated, datetime.fromisoformat(line["ts"]).timestamp()) for hop, line in found.items()}


async def _logged(data: Path, service: str, wanted: Any) -> dict[str, Any]:
    for _ in range(100):
        for text in (data / "logs" / f"{service}.log").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError):
                line: dict[str, Any] = json.loads(text)
                if wanted(line):
                    return line
        await asyncio.sleep(0.02)
    raise LookupError(f"{service} never told of this hop")


def _after(start: float, end: float) -> float:
    return round((end - start) * 1000, 2)
