"""A broker that is killed and forgets everything, again and again: latency, never a record. `YIZHAN_BROKER_WIPES=1000` for the long run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.spool import LANE_NORMAL, Item, Spool
from gateway.uplink import Uplink
from ingest import service
from tests.conftest import missing
from tests.ingest.helpers import CUFF, Clinic
from tests.vitals.test_link import Broker
from vitals import wire
from vitals.measurement import Measurement
from vitals.settings import Settings
from yizhan import town
from yizhan.broker import mosquitto_program
from yizhan.compose import steps

pytestmark = pytest.mark.services
WIPES = int(os.environ.get("YIZHAN_BROKER_WIPES", "20"))


def body(number: int) -> bytes:
    now = datetime.now(UTC)
    values: dict[str, float | str] = {"systolic": 120 + number % 15, "diastolic": 80}
    return wire.encode_measurement(
        Measurement(
            device=CUFF, kind="blood_pressure", record=f"w{number}", measured_at=now, received_at=now, time_quality="synced", values=values
        )
    )


async def test_a_broker_that_forgets_everything_loses_nothing(clinic: Clinic, tmp_path: Path) -> None:
    if not mosquitto_program():
        missing("mosquitto", "not installed")
    broker = Broker(tmp_path)
    broker.start()
    settings = Settings(database_url=clinic.conninfo, mqtt_port=broker.port)  # type: ignore[arg-type]
    stop = asyncio.Event()
    worker = asyncio.create_task(service.run(settings, steps(settings), stop))
    spool = Spool(tmp_path / "spool.db")
    uplink = Uplink(spool, town.SITE, town.GATEWAY, 0.5)
    written = 0
    async with broker.link(town.GATEWAY, subscriptions=uplink.subscriptions, on_connected=uplink.on_connected) as link:
        sending = asyncio.create_task(uplink.run(link))
        chance = random.Random(1)
        for _ in range(WIPES):
            end = time.monotonic() + chance.uniform(0.05, 1.5)
            while time.monotonic() < end:
                spool.append([Item(body(written), LANE_NORMAL)])
                written += 1
                uplink.wake()
                await asyncio.sleep(0.02)
            broker.kill()
            broker.start()
        end = time.monotonic() + 60
        while spool.depth() and time.monotonic() < end:
            await asyncio.sleep(0.2)
        assert spool.depth() == 0, "everything has its receipt"
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    stop.set()
    with contextlib.suppress(asyncio.CancelledError):
        await worker
    broker.kill()
    rows = await clinic.rows("select count(*) as n, count(distinct record) as records from measurement")
    assert (rows[0]["n"], rows[0]["records"]) == (written, written)
    print(f"{WIPES} wipes, {written} records, 0 lost, 0 twice")
