"""What a doctor asks while ingest runs: a resident's 30 days of blood pressure for the chart, and the last value of each metric.

The stored readings are made inside the database, spread over 90 days and many residents, in the order in which time passes,
as a year of ingest would leave them; then the worker stores more while the questions are asked.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from bench import load, rig
from bench.e2e import GATEWAYS, RESIDENTS
from bench.rig import Say
from bench.store import BATCH, messages
from ingest import readings
from ingest.worker import Worker
from vitals.floor import database
from vitals.settings import load as load_settings
from yizhan.compose import steps

PEOPLE = 20_000
QUESTIONS = 400
STEP = 500_000  # measurements of one statement

FILL = """
insert into measurement (measurement, measured_at, received_at, stored_at, device_no, metrics, numbers, subject, kind, setting,
    time_quality, source, series, record, raw, device_time)
select 1000000000 + n, at, at, at, 1, '{1,2,3,4}', array[118 + n %% 40, 76 + n %% 20, 90, 60 + n %% 30]::float8[],
    'q-' || lpad(((n::bigint * 7919) %% %(people)s)::text, 6, '0'), 'blood_pressure', 'home', 'synced', 'mqtt:fleet-00001', '1', n::text,
    int8send(n), to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS')
from (
    select n, now() - interval '90 days' + n * (interval '90 days' / %(total)s) as at from generate_series(%(first)s::bigint, %(last)s) n
) s
"""


async def fill(url: str, measurements: int, say: Say) -> None:
    async with await database.connect(url) as connection:
        now = datetime.now(UTC)
        await connection.execute("select ensure_partitions(%s)", ([now - timedelta(days=30 * n) for n in range(5)],))
        await connection.execute("set local synchronous_commit = off")
        for first in range(0, measurements, STEP):
            last = min(measurements, first + STEP) - 1
            await connection.execute(FILL, {"people": PEOPLE, "total": measurements, "first": first, "last": last})
            await connection.commit()
            say(f"{(last + 1) * 4:,} readings stored")
        await connection.execute("analyze measurement")
        await connection.commit()


async def ask(url: str, chance: random.Random) -> tuple[list[float], list[float]]:
    """Milliseconds of each chart and each last-value question."""
    charts, lasts = [], []
    async with await database.connect(url, autocommit=True) as connection:
        for number in range(QUESTIONS):
            subject = f"q-{chance.randrange(PEOPLE):06d}"
            now = datetime.now(UTC)
            began = time.perf_counter()
            found = await readings.of_subject(connection, subject, now - timedelta(days=30), now, 2000)
            charts.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            last = await readings.latest(connection, subject)
            lasts.append((time.perf_counter() - began) * 1000)
            if number == 0 and not (found and last):
                raise RuntimeError("nothing found: the benchmark asks for nobody")
            await asyncio.sleep(0.005)
    return charts, lasts


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": round(ordered[len(ordered) // 2], 2), "p95": round(ordered[int(len(ordered) * 0.95)], 2), "max": round(ordered[-1], 2)}


async def run(say: Say, samples: int, stored: int) -> dict[str, Any]:
    """Quantiles in ms, idle and with ingest running; how fast ingest ran meanwhile."""
    async with rig.workspace() as folder, rig.cluster(folder) as (url, superuser):
        await load.settle(url, GATEWAYS, RESIDENTS)
        await fill(url, stored // 4, say)
        await rig.checkpoint(superuser)
        chance = random.Random(1)
        await ask(url, chance)  # warm
        idle_charts, idle_lasts = await ask(url, chance)
        worker = Worker(url, steps(load_settings({})))
        charts: list[float] = []
        lasts: list[float] = []
        rates = []
        for number in range(samples):
            made, counts = messages(100_000, number * 1_000_000)
            asking = asyncio.create_task(_in_process(url, number))
            began = time.monotonic()
            at = done = 0
            while not asking.done():
                await worker.process(made[at : at + BATCH])
                done, at = done + 1, (at + BATCH) % len(made)
            rates.append(done * BATCH * counts["readings"] / len(made) / (time.monotonic() - began))
            more = asking.result()
            charts += more[0]
            lasts += more[1]
            say(f"run {number + 1}: chart {_quantiles(more[0])}, last values {_quantiles(more[1])}")
        await worker.close()
    idle = {"chart_30_days_ms": _quantiles(idle_charts), "last_values_ms": _quantiles(idle_lasts)}
    busy = {"chart_30_days_ms": _quantiles(charts), "last_values_ms": _quantiles(lasts)}
    told = {"machine": rig.machine(), "stored_readings": stored, "people": PEOPLE, "idle": idle, "with_ingest": busy}
    return told | {"ingest_meanwhile_readings_per_second": rig.summary(rates)}


async def _in_process(url: str, seed: int) -> tuple[list[float], list[float]]:
    """The questions from a process of their own, as the API asks them."""
    import json
    import sys

    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.query", url, str(seed), stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    charts, lasts = json.loads(output)
    return charts, lasts


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(asyncio.run(ask(sys.argv[1], random.Random(int(sys.argv[2]))))))
