"""The same schema and the same worker on TimescaleDB: hypertables where plain PostgreSQL has native partitions."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from ingest import readings, storage
from tests.conftest import missing
from tests.ingest.helpers import Clinic, measurement, message
from vitals.floor import database
from yizhan.compose import migrate
from yizhan.composition import free_port

pytestmark = pytest.mark.services

ROOT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "yizhan" / "timescaledb"
BINARIES = "/usr/lib/postgresql/17/bin"


@pytest.fixture(scope="module")
def timescale() -> Iterator[str]:
    """A TimescaleDB in its own root folder, on a loopback port."""
    if os.geteuid() != 0 or not (ROOT / ".complete").exists():
        missing("timescaledb", "the root folder is not built (tests/install_services.sh, as root)")
    data = Path(tempfile.mkdtemp(prefix="data-", dir=ROOT / "tmp"))
    inside = "/" + str(data.relative_to(ROOT))
    (data / "password").write_text("superuser-password")
    subprocess.run(["chroot", str(ROOT), "chown", "-R", "postgres:postgres", inside], check=True)
    chroot = ["chroot", "--userspec=postgres:postgres", str(ROOT)]
    initialise = [
        f"{BINARIES}/initdb",
        "-D",
        f"{inside}/db",
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        f"--pwfile={inside}/password",
        "--locale=C",
        "-E",
        "UTF8",
    ]
    subprocess.run([*chroot, *initialise], check=True, capture_output=True)
    port = free_port()
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "dynamic_shared_memory_type": "mmap",
                "shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off", "max_worker_processes": 16}  # fmt: skip
    switches = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (data / "log").open("wb") as log:
        server = subprocess.Popen([*chroot, f"{BINARIES}/postgres", "-D", f"{inside}/db", *switches], stdout=log, stderr=log)
    url = f"postgresql://postgres:superuser-password@127.0.0.1:{port}"
    for _ in range(100):
        try:
            psycopg.connect(f"{url}/postgres", connect_timeout=1).close()
            break
        except psycopg.OperationalError:
            assert server.poll() is None, (data / "log").read_text()
            asyncio.run(asyncio.sleep(0.1))
    yield url
    server.terminate()
    server.wait()
    shutil.rmtree(data, ignore_errors=True)


async def test_the_town_lives_on_timescaledb(timescale: str) -> None:
    with psycopg.connect(f"{timescale}/postgres", autocommit=True) as connection:
        connection.execute("create database yizhan")
    conninfo = f"{timescale}/yizhan"
    await migrate(conninfo)
    clinic = await Clinic(conninfo).open()
    tables = await clinic.rows("select hypertable_name from timescaledb_information.hypertables order by 1")
    assert [row["hypertable_name"] for row in tables] == ["block", "measurement"]
    one = measurement(186, 112, ago=timedelta(minutes=2))
    await clinic.send(message(one), message(one), message(measurement(188, 113)), message(measurement(120, 80, ago=timedelta(days=300))))
    assert await clinic.value("select count(*) from measurement") == 3
    assert await clinic.value("select count(*) from timescaledb_information.chunks where hypertable_name = 'measurement'") == 2
    assert ((await clinic.alert()) or {})["why"] == "confirmed"
    await clinic.worker.close()


async def test_plain_postgresql_has_the_same_tables_as_monthly_partitions(clinic: Clinic) -> None:
    await clinic.send(message(measurement()), message(measurement(ago=timedelta(days=300))))
    partitions = await clinic.rows(
        "select inhparent::regclass::text as parent, count(*) as n from pg_inherits group by 1 having count(*) = 2 order by 1"
    )
    assert {row["parent"] for row in partitions} >= {"measurement"}
    assert await migrate(clinic.conninfo) == [], "a second start applies nothing"


async def check_aggregates(clinic: Clinic) -> None:
    """The same views say the same, whatever keeps them."""
    one = measurement(130, 80, samples={"heart_rate": {"values": [70, 71, 72.5], "every_ms": 1000}, "rr_interval": RR})
    await clinic.send(message(one, measurement(140, 90), measurement(400, 90, ago=timedelta(minutes=1))))
    rows = await clinic.rows("select n, mean, low, high from reading_daily where metric = 1")
    assert [(row["n"], row["mean"], row["low"], row["high"]) for row in rows] == [(2, 135, 130, 140)], "the implausible 400 is kept out"
    hourly = await clinic.rows("select sum(n) as n, max(high) as high from reading_hourly where metric = 2")
    assert (hourly[0]["n"], hourly[0]["high"]) == (2, 90)
    rows = await clinic.rows(
        "select at - m.measured_at as after, value from sample join measurement m using (measurement) where metric = 5 order by at"
    )
    assert [(row["after"].total_seconds(), row["value"]) for row in rows] == [(0, 70), (1, 71), (2, 72.5)]
    beats = await clinic.rows("select value from sample where metric = 31 order by at")
    assert [row["value"] for row in beats] == [800, 810]


RR = {"values": [800.0, 810.0], "offsets_ms": [-810, 0]}


async def test_hours_days_and_dense_series_on_plain_postgresql(clinic: Clinic) -> None:
    await check_aggregates(clinic)
    async with await database.connect(clinic.conninfo) as connection:
        assert await storage.edition(connection) == "plain"
        assert await storage.arrange(connection) == []


async def test_hours_days_and_dense_series_on_timescaledb(timescale: str) -> None:
    with psycopg.connect(f"{timescale}/postgres", autocommit=True) as connection:
        connection.execute("create database aggregates")
    conninfo = f"{timescale}/aggregates"
    await migrate(conninfo)
    clinic = await Clinic(conninfo).open()
    await check_aggregates(clinic)
    async with await database.connect(conninfo) as opened:
        assert await storage.edition(opened) == "apache", "Debian's edition; the community edition adds what arrange() then finds"
        assert await storage.arrange(opened) == []
    assert await clinic.value("select count(*) from timescaledb_information.dimensions where hypertable_name = 'block'") == 1
    await check_retention(clinic)
    await clinic.worker.close()


async def check_retention(clinic: Clinic) -> None:
    old = timedelta(days=200)
    await clinic.send(message(measurement(186, 112, record="cited", ago=old), measurement(120, 80, record="not cited", ago=old)))
    alert = await clinic.rows("select measurement from alert_log where measurement is not null order by alert desc limit 1")
    async with await database.connect(clinic.conninfo) as connection:
        told = await storage.retire(connection, datetime.now(UTC) - timedelta(days=100))
        assert told["kept"] == 1
        assert told["dropped"] >= 1
        (kept,) = await readings.by_number(connection, [alert[0]["measurement"]])
    assert (kept["record"], kept["values"]["systolic"]) == ("cited", 186)
    assert await clinic.value("select count(*) from measurement where record in ('cited', 'not cited')") == 0
    await clinic.send(message(measurement(120, 80, record="not cited", ago=old)))
    assert await clinic.value("select count(*) from measurement where record = 'not cited'") == 0, "the ledger outlives what retention took"


async def test_retention_keeps_what_an_alert_cites(clinic: Clinic) -> None:
    await check_retention(clinic)


def test_a_chunk_is_as_long_as_memory_allows() -> None:
    gigabyte = 1 << 30
    assert storage.chunk_interval(8 * gigabyte, gigabyte) == timedelta(days=2)
    assert storage.chunk_interval(8 * gigabyte, 0) == timedelta(days=7)
    assert storage.chunk_interval(gigabyte, 100 * gigabyte) == timedelta(hours=1)
    assert storage.chunk_interval(64 * gigabyte, gigabyte / 1000) == timedelta(days=30)


def test_every_statement_of_the_community_edition_is_one_statement() -> None:
    """They cannot be run here (no registry has that edition): they are at least whole, and name what exists."""
    for what, statement in storage._community():
        assert statement.strip().rstrip(";").count(";") == 0, what
        assert statement.count("(") == statement.count(")"), what
