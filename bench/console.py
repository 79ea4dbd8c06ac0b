"""`yizhan bench console`: the queue with ten thousand open cases, and five hundred browsers that hear of a new one.

A real API process with its own role, behind the database's wall. The first answer is timed over a new connection, for a doctor (one team
of twelve), and for the supervisor who has all of them. Then so many streams are open at once, and new cases are opened one by one by the
functions that the worker uses; each browser's delay counts from the commit.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from api import accounts
from bench import rig
from bench.rig import Say
from care import cases, staff
from care.residents import Route
from vitals.alert import Severity
from vitals.floor import database
from yizhan.composition import Service, free_port

TEAMS = 12
TITLE = {"zh": "血压危急值", "en": "dangerous blood pressure"}
SENTENCE = {"zh": "186/112 mmHg,复测 188/113,达到 180/110。", "en": "186/112 mmHg, repeated 188/113: at or above 180/110."}
BECAUSE = {"zh": "国家基本公共卫生服务规范(第三版)高血压:收缩压≥180 和(或)舒张压≥110", "en": "NBPHS 3, hypertension: ≥ 180 and/or ≥ 110"}
FILL = """
insert into resident (resident, name, sex, birth_date) select 'r-' || n, '居民' || n, 'female', date '1950-01-01' + n % 9000
  from generate_series(1, %(cases)s) n;
insert into contract (resident, team, doctor, during) select 'r-' || n, 'team-' || n %% %(teams)s, 'dr-' || n %% %(teams)s,
  daterange(current_date - 1, null) from generate_series(1, %(cases)s) n;
insert into care_case (subject, resident, team, routed_by, state, severity, opened_at, updated_at, ack_due_at)
  select 'r-' || n, 'r-' || n, 'team-' || n %% %(teams)s, 'contract', 'open', 'P' || 1 + n %% 4, now(), now(),
    now() + n * interval '1 second'
  from generate_series(1, %(cases)s) n;
insert into alert (subject, family, rule, pack, pack_digest, state, severity, why, opened_at, updated_at, explanation)
  select 'r-' || n, 'bp_danger', 'htn.danger', 'cn.nbphs3.htn@1.1.0', '', 'firing', 'P' || 1 + n %% 4, 'confirmed', now(), now(),
    %(explanation)s
  from generate_series(1, %(cases)s) n;
insert into case_alert select c.care_case, a.alert from care_case c join alert a using (subject);
"""


async def run(say: Say, samples: int, open_cases: int, browsers: int) -> dict[str, Any]:
    """Milliseconds of the first answer and of the streams; bytes of the page."""
    async with rig.workspace() as folder, rig.cluster(folder) as (url, _), _api(folder, url) as address:
        tokens, many = await _settle(url, open_cases, browsers)
        say(f"{open_cases} open cases in {TEAMS} teams")
        told: dict[str, Any] = {"machine": rig.machine(), "open_cases": open_cases, "browsers": browsers, "first_answer_ms": {}}
        for who, token in tokens.items():
            for path in ("/console/queue", "/v1/queue"):
                told["first_answer_ms"][f"{path}, {who}"] = await _ask(address, token, path, samples)
        say("the streams")
        told["new_case_ms"] = await _streams(url, address, many, samples)
    return told


@asynccontextmanager
async def _api(folder: Path, url: str) -> AsyncIterator[str]:
    port = free_port()
    behind = url.replace("yizhan:application-password", "yizhan_api:api-password")
    settings = {"API_DATABASE_URL": behind, "API_PORT": str(port), "FIELD_KEY": "a key for fields, of the bench", "LOG_LEVEL": "warning"}
    environment = dict(os.environ) | {f"YIZHAN_{name}": value for name, value in settings.items()}
    service = Service("api", [sys.executable, "-m", "yizhan", "api"], environment, folder / "api.log")
    await service.start()
    try:
        async with httpx.AsyncClient() as client:
            for _ in range(200):
                try:
                    if (await client.get(f"http://127.0.0.1:{port}/v1/health")).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        await service.stop()


async def _settle(url: str, open_cases: int, browsers: int) -> tuple[dict[str, str], list[str]]:
    explanation = {"title": TITLE, "sentence": SENTENCE, "because": BECAUSE, "thresholds": {"systolic": 180, "diastolic": 110}}
    async with await database.connect(url) as connection:
        await staff.add_centre(connection, "centre-b", "中心")
        for number in range(TEAMS):
            await staff.add_team(connection, f"team-{number}", f"团队{number}", "centre-b")
            await staff.add(connection, f"dr-{number}", f"医生{number}", f"team-{number}", "family_doctor", f"team-{number}")
        await staff.add(connection, "super", "主管", None, "supervisor", "centre-b")
        given = {"cases": open_cases, "teams": TEAMS, "explanation": json.dumps(explanation)}
        for statement in FILL.strip().split(";")[:-1]:
            await connection.execute(statement.replace("n % 9000", "n %% 9000").encode(), given)
        tokens = {"doctor": (await accounts.create(connection, "doctor", "dr-0"))[1],
                  "supervisor": (await accounts.create(connection, "supervisor", "super"))[1]}  # fmt: skip
        many = [(await accounts.create(connection, "doctor", "dr-0"))[1] for _ in range(browsers)]
        await connection.commit()
        await connection.set_autocommit(True)
        await connection.execute("vacuum analyze")
    return tokens, many


async def _ask(address: str, token: str, path: str, samples: int) -> dict[str, Any]:
    took: list[float] = []
    size = 0
    for _ in range(samples + 2):
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            began = time.perf_counter()
            answer = await client.get(address + path)
            took.append((time.perf_counter() - began) * 1000)
            answer.raise_for_status()
            size = len(answer.content)
    kept = sorted(took[2:])  # the first two warm the process
    return {"median": round(statistics.median(kept), 1), "most": round(kept[-1], 1), "bytes": size}


async def _streams(url: str, address: str, tokens: list[str], samples: int) -> dict[str, Any]:
    heard: dict[int, list[float]] = {}
    ready = asyncio.Semaphore(0)
    browsers = len(tokens)
    readers = [asyncio.create_task(_browser(address, token, heard, ready)) for token in tokens]
    began = time.perf_counter()
    for _ in readers:
        await ready.acquire()
    connected = time.perf_counter() - began
    gc.collect()
    delays: list[float] = []
    async with await database.connect(url) as connection:
        for number in range(samples):
            subject = f"r-new-{number}"
            await connection.execute("insert into resident (resident, name) values (%s, '新居民')", (subject,))
            now = (await (await connection.execute("select now() as now")).fetchone() or {})["now"]
            case = await cases.open_new(connection, subject, subject, Route("team-0", "contract"), Severity.P2, now)
            arrivals = heard.setdefault(case, [])
            await connection.commit()
            committed = time.perf_counter()
            await asyncio.sleep(3)
            if len(arrivals) < browsers:
                raise RuntimeError(f"{browsers - len(arrivals)} browsers did not hear of a case within 3 s")
            delays += [(at - committed) * 1000 for at in arrivals]
    for one in readers:
        one.cancel()
    delays.sort()
    return {
        "all_connected_s": round(connected, 1),
        "median": round(statistics.median(delays), 1),
        "p99": round(delays[int(len(delays) * 0.99)], 1),
        "most": round(delays[-1], 1),
    }


async def _browser(address: str, token: str, heard: dict[int, list[float]], ready: asyncio.Semaphore) -> None:
    """One open stream, read off the socket, so that five hundred cost little; what was turned away comes again, as browsers do."""
    host, _, port = address.removeprefix("http://").partition(":")
    for _ in range(60):
        if await _read(host, port, token, heard, ready):
            return
        await asyncio.sleep(1)


async def _read(host: str, port: str, token: str, heard: dict[int, list[float]], ready: asyncio.Semaphore) -> bool:
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
    writer.write(f"GET /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    await writer.drain()
    event = b""
    while True:
        line = await reader.readline()
        if line.startswith(b"event: "):
            event = line[7:].strip()
            if event == b"snapshot":
                ready.release()
        elif line.startswith(b"data: ") and event == b"case":
            at = time.perf_counter()
            heard.setdefault(json.loads(line[6:])["care_case"], []).append(at)
        elif not line:
            writer.close()
            return event != b""
