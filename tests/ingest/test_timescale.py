"""The same schema and the same worker on TimescaleDB: hypertables where plain PostgreSQL has native partitions."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.conftest import missing
from tests.ingest.helpers import Clinic, measurement, message
from vitals.floor import database
from yizhan.compose import ROOMS
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
    await database.migrate(conninfo, ROOMS)
    clinic = await Clinic(conninfo).open()
    tables = await clinic.rows("select hypertable_name from timescaledb_information.hypertables order by 1")
    assert [row["hypertable_name"] for row in tables] == ["measurement"]
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
    assert await database.migrate(clinic.conninfo, ROOMS) == [], "a second start applies nothing"
