"""Kill -9 of every part in the middle of a run, and a worker that hangs: nothing spooled is lost, nothing twice.

1,000 records come out of four virtual cuffs' memories over Bluetooth while the worker, the broker, the gateway and
the database are killed in turn (or the worker is stopped for ten seconds). Then everything is left alone until the
spool is empty, and the books are compared: every record that the gateway ever spooled is in the database once.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import missing
from vitals.floor import database
from vitals.gatt import BloodPressureMeasurement
from vitals.measurement import record_digest
from yizhan import town
from yizhan.broker import mosquitto_program
from yizhan.composition import Composition

RECORDS = 1000
BEFORE_THE_SPOOL = 60  # about half a second of indications
CUFFS = [person[3] for person in town.PEOPLE] + [town.KIOSK_CUFF]
KILLED = ("worker", "broker", "gateway", "database")

pytestmark = pytest.mark.services


async def measure_a_thousand(composition: Composition, events: dict[int, Callable[[], None]]) -> dict[str, str]:
    """1,000 measurements, about a hundred a second; `events` happen at their numbers, in the middle of it all.

    Returns record → device. The first cuff's values are dangerous, the others' are not.
    """
    expected: dict[str, str] = {}
    for number in range(RECORDS):
        if number in events:
            events[number]()
        device = CUFFS[number % len(CUFFS)]
        systolic = 185 if device == CUFFS[0] else 120 + number % 15
        answer = await composition.control.ask(
            do="measure", device=device, systolic=systolic, diastolic=78, pulse=70, seconds_ago=(RECORDS - number) // len(CUFFS)
        )
        frame = bytes.fromhex(answer["frame"])
        expected[record_digest(str(BloodPressureMeasurement.from_bytes(frame).timestamp), frame)] = device
        await asyncio.sleep(0.008)
    return expected


async def stored(composition: Composition) -> Counter[str]:
    async with await database.connect(composition.database_url) as connection:
        cursor = await connection.execute("select record, count(*) as n from measurement group by record")
        return Counter({row["record"]: row["n"] for row in await cursor.fetchall()})


def spool_depth(data: Path) -> int:
    with sqlite3.connect(f"file:{data / 'spool.db'}?mode=ro", uri=True) as spool:
        return int(spool.execute("select count(*) from outgoing").fetchone()[0])


def spooled(data: Path) -> set[str]:
    """Every record the gateway said it spooled: its own log, kept over its deaths."""
    found = set()
    for line in (data / "logs" / "gateway.log").read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["message"] == "spooled":
            found.add(str(entry["record"]))
    return found


async def settle(composition: Composition, patience: float = 120) -> None:
    """Until the cuffs' memories are empty, the spool is empty and nothing more arrives."""
    end, before = time.monotonic() + patience, -1
    while time.monotonic() < end:
        await asyncio.sleep(1)
        try:
            now = sum((await stored(composition)).values())
        except Exception:
            continue
        held = [(await composition.control.ask(do="state", device=cuff))["stored"] for cuff in CUFFS]
        if now == before and now and spool_depth(composition.data) == 0 and not any(held):
            return
        before = now
    pytest.fail(f"not settled after {patience} s: {before} stored, {spool_depth(composition.data)} in the spool")


async def check_books(composition: Composition, expected: dict[str, str], *, gateway_died: bool) -> None:
    found, promised = await stored(composition), spooled(composition.data)
    assert max(found.values()) == 1, "a record was stored twice"
    assert promised - found.keys() == set(), "a spooled record is missing from the database"
    assert found.keys() - expected.keys() == set(), "a record nobody measured"
    # The host confirms an indication before the gateway's code is asked: kill -9 in between costs what was on its way,
    # and what waits in the bus's socket dies with the process: 0 or 1 of 1,000 in most runs, 28 to 30 in three of them. None of it
    # was ever spooled, so none of it was promised; blood-pressure cuffs offer no way to ask again.
    assert len(expected.keys() - found.keys()) <= (BEFORE_THE_SPOOL if gateway_died else 0)
    async with await database.connect(composition.database_url) as connection:
        rows = await (await connection.execute("select subject, family, state from alert where family = 'bp_danger'")).fetchall()
        assert len(rows) == 1, "one episode, one alert"
        pages = await (await connection.execute("select count(*) as n from case_log where what = 'paged'")).fetchone()
        assert pages is not None
        assert pages["n"] == 1, "one episode pages once"


@pytest.mark.parametrize("broker_kind", ["mosquitto", "amqtt"])
async def test_killing_every_part_in_turn_loses_nothing_and_doubles_nothing(tmp_path: Path, broker_kind: str) -> None:
    if broker_kind == "mosquitto" and not mosquitto_program():
        missing("mosquitto", "not installed")
    async with Composition(tmp_path / "data", broker_kind=broker_kind, log_level="debug", resend_after=1.0) as composition:
        kills = {
            number * RECORDS // 6: partial(composition.services[victim].send, signal.SIGKILL) for number, victim in enumerate(KILLED, 1)
        }
        expected = await measure_a_thousand(composition, kills)
        await settle(composition)
        assert all(composition.services[victim].restarts >= 1 for victim in KILLED)
        await check_books(composition, expected, gateway_died=True)


@pytest.mark.parametrize("broker_kind", ["mosquitto", "amqtt"])
async def test_a_worker_that_hangs_for_ten_seconds_loses_nothing_and_doubles_nothing(tmp_path: Path, broker_kind: str) -> None:
    if broker_kind == "mosquitto" and not mosquitto_program():
        missing("mosquitto", "not installed")
    async with Composition(tmp_path / "data", broker_kind=broker_kind, log_level="debug", resend_after=1.0) as composition:
        worker = composition.services["worker"]

        def hang() -> None:
            worker.send(signal.SIGSTOP)
            asyncio.get_running_loop().call_later(10, worker.send, signal.SIGCONT)

        expected = await measure_a_thousand(composition, {RECORDS // 6: hang})
        await settle(composition)
        await check_books(composition, expected, gateway_died=False)
