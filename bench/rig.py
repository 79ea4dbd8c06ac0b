"""What every benchmark of the ingest path stands on: a machine described, a database, a broker, repetitions interleaved.

Rules: frames are made before the clock starts; ours and the peers take turns; the median of at least five counts, the
worst is shown; rows are counted and values summed after each run, and a run that lost something fails.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vitals.floor import database
from yizhan import postgres
from yizhan.broker import mosquitto_program
from yizhan.compose import migrate
from yizhan.composition import Service, free_port

Say = Callable[[str], None]


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", text)
    program = mosquitto_program()
    broker = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout.split("\n", 1)[0] if program else ""
    found = subprocess.run([str(postgres.programs() / "postgres"), "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "cpu": model[1] if model else platform.machine(), "cores": os.cpu_count(), "kernel": platform.release(),
        "python": platform.python_version(), "postgresql": found.strip().rpartition(" ")[2], "broker": broker.strip(),
        "psycopg": version("psycopg"), "numpy": version("numpy"), "fsync": "on",
    }  # fmt: skip


def summary(values: list[float], digits: int = 0) -> dict[str, Any]:
    """Median, worst and all of a rate (higher is better)."""
    return {
        "median": round(statistics.median(values), digits),
        "worst": round(min(values), digits),
        "runs": [round(v, digits) for v in values],
    }


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """A PostgreSQL of our own, fsync on: (application's URL, superuser's URL without a database)."""
    superuser = postgres.secret(folder / "superuser")
    port = free_port()
    await postgres.initialise(folder / "db", folder / "superuser")
    service = Service("database", postgres.server_command(folder / "db", port), dict(os.environ), folder / "database.log")
    await service.start()
    try:
        url, _ = await postgres.prepare(port, superuser, "application-password", "api-password")
        await migrate(url)
        yield url, f"postgresql://postgres:{superuser}@127.0.0.1:{port}"
    finally:
        await service.stop()


@asynccontextmanager
async def workspace() -> AsyncIterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="yizhan-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def checkpoint(superuser: str) -> None:
    """So that no run pays for the one before it."""
    async with await database.connect(f"{superuser}/postgres", autocommit=True) as connection:
        await connection.execute("checkpoint")


@asynccontextmanager
async def open_broker(folder: Path, inflight: int = 1000) -> AsyncIterator[int]:
    """A mosquitto for anybody, on loopback: peers bring no credentials. Yields its port."""
    program = mosquitto_program()
    assert program is not None
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1", "allow_anonymous true", f"max_inflight_messages {inflight}", "max_queued_messages 10000000",
        "set_tcp_nodelay true", "log_type none", "persistence false",
    ]  # fmt: skip
    (folder / "open.conf").write_text("\n".join(lines) + "\n")
    process = await asyncio.create_subprocess_exec(program, "-c", str(folder / "open.conf"), stderr=asyncio.subprocess.DEVNULL)
    try:
        await until(lambda: _listens(port))
        yield port
    finally:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 120.0, every: float = 0.02) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > end:
            raise TimeoutError("waited too long")
        await asyncio.sleep(every)


async def value(url: str, query: str) -> Any:
    async with await database.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
        return next(iter(row.values())) if row is not None else None


class Child:
    """A program beside us that says `ready`, waits for a line, and ends with a line of JSON."""

    def __init__(self, *command: str) -> None:
        self._command = command

    async def __aenter__(self) -> Child:
        self.process = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if line.strip() != b"ready":
            raise RuntimeError(f"{self._command[-1]} did not get ready")
        return self

    async def run(self) -> dict[str, Any]:
        import json

        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"go\n")
        await self.process.stdin.drain()
        told: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return told

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]
