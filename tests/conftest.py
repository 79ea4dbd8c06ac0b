"""Fixtures by subject: a throw-away PostgreSQL for the session, a migrated database for a test, brokers, logins."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from tests.ingest.helpers import Clinic
from vitals.floor import database
from yizhan import postgres
from yizhan.compose import migrate
from yizhan.composition import Service, free_port

settings.register_profile("ci", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
settings.load_profile("ci")
NOW_RUNNING = Path(".pytest_cache") / "now_running"


def pytest_runtest_logstart(nodeid: str) -> None:
    """A test that hangs ends the whole run: the file says which it was."""
    NOW_RUNNING.parent.mkdir(exist_ok=True)
    NOW_RUNNING.write_text(f"{nodeid}\n")


def missing(lane: str, reason: str) -> None:
    """A lane that cannot run says so; with REQUIRE_SERVICES=1 that is a failure."""
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"{lane}: {reason}, and REQUIRE_SERVICES=1")
    pytest.skip(f"{lane}: {reason}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A PostgreSQL of the session: its superuser's URL without a database name."""
    folder = Path(tempfile.mkdtemp(prefix="yizhan-pg-"))
    password = postgres.secret(folder / "password")
    port = free_port()
    asyncio.run(postgres.initialise(folder / "data", folder / "password"))

    async def start() -> Service:
        service = Service("database", postgres.server_command(folder / "data", port), dict(os.environ), folder / "log")
        await service.start()
        await postgres.prepare(port, password, "application-password", "api-password")
        return service

    loop = asyncio.new_event_loop()
    service = loop.run_until_complete(start())
    yield f"postgresql://postgres:{password}@127.0.0.1:{port}"
    loop.run_until_complete(service.stop())
    loop.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(cluster: str) -> str:
    """A migrated database that tests copy."""
    with psycopg.connect(f"{cluster}/postgres", autocommit=True) as connection:
        connection.execute("create database template_yizhan owner yizhan")
    asyncio.run(migrate(_as_application(cluster, "template_yizhan")))
    return "template_yizhan"


def _as_application(cluster: str, name: str) -> str:
    return f"postgresql://yizhan:application-password@{cluster.rpartition('@')[2]}/{name}"


@pytest.fixture
def conninfo(cluster: str, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh migrated database, connected to as the application's role (no superuser)."""
    name = f"t_{abs(hash((request.node.nodeid, os.getpid()))):x}"
    with psycopg.connect(f"{cluster}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name} template {template} owner yizhan")  # type: ignore[call-overload]
    yield _as_application(cluster, name)
    with psycopg.connect(f"{cluster}/postgres", autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")  # type: ignore[call-overload]


@pytest.fixture
async def connection(conninfo: str) -> AsyncIterator[database.Connection]:
    async with await database.connect(conninfo) as opened:
        yield opened


@pytest.fixture
async def clinic(conninfo: str) -> AsyncIterator[Clinic]:
    """The town settled in a fresh database, with a worker that has no broker."""
    opened = await Clinic(conninfo).open()
    yield opened
    await opened.worker.close()
