"""The broker process: mosquitto if installed, else a pure-Python one; closed from the first day.

Credentials and topic rights come from the database's enrolled gateways and are denied by default. A revoked
gateway's live session ends as soon as the database says so (at the latest with the next look, 15 s).
The client id is tied to the credential on both brokers: nobody takes over another's session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from vitals import broker_password, wire
from vitals.errors import ConfigError
from vitals.floor import database
from vitals.settings import LOOPBACK, Settings

log = logging.getLogger("yizhan.broker")

LOOK_AGAIN = 15.0


@dataclass(frozen=True, slots=True)
class Credential:
    """One user of the broker: a password hash, what it may publish, what it may subscribe to."""

    password_hash: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def gateway_credential(site: str, gateway: str, password_hash: str) -> Credential:
    """A gateway's rights: its own up topics, its own down topics, nothing else."""
    up = tuple(wire.topic(site, gateway, "up", what) for what in wire.UP)
    down = tuple(wire.topic(site, gateway, "down", what) for what in wire.DOWN)
    return Credential(password_hash, up, down)


def backend_credential(password_hash: str) -> Credential:
    """The backend's rights: everything up to read, everything down to write, and a bridge's probe."""
    down = tuple(f"{wire.ROOT}/+/+/down/{what}" for what in wire.DOWN)
    return Credential(password_hash, (*down, f"{wire.ROOT}/probe/+/up/status"), (f"{wire.ROOT}/+/+/up/#",))


class Broker(Protocol):
    """A running broker that takes a new set of credentials at any time."""

    async def start(self, credentials: dict[str, Credential]) -> None: ...
    async def update(self, credentials: dict[str, Credential]) -> None: ...
    async def wait(self) -> None:
        """Until it dies by itself."""

    async def stop(self) -> None: ...


class Mosquitto:
    """mosquitto as a child: password and ACL files, reloaded by SIGHUP, which also ends sessions that lost their right."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, credentials: dict[str, Credential]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write(credentials)
        (self._folder / "mosquitto.conf").write_text(self._configuration())
        program = mosquitto_program()
        assert program is not None
        command = ["setpriv", "--pdeathsig", "TERM", program, "-c", str(self._folder / "mosquitto.conf")]
        self._process = await asyncio.create_subprocess_exec(*command)
        await asyncio.sleep(0.05)
        if self._process.returncode is not None:
            raise ConfigError(["mosquitto does not start; is the port taken?"])

    def _configuration(self) -> str:
        s, f = self._settings, self._folder
        lines = [
            f"listener {s.mqtt_port} {s.broker_bind}",
            "allow_anonymous false",
            "use_username_as_clientid true",
            f"password_file {f / 'passwords'}",
            f"acl_file {f / 'rights'}",
            "persistence true",
            f"persistence_location {f}/",
            "autosave_interval 30",
            "persistent_client_expiration 30d",
            "max_inflight_messages 1000",
            "max_queued_messages 100000",
            "max_packet_size 524288",
            "set_tcp_nodelay true",
            "connection_messages false",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
        ]
        if os.geteuid() == 0:
            lines.insert(0, "user root")  # else it drops to its own user, who cannot read below a closed folder
        if s.broker_certificate is not None:
            lines += [f"certfile {s.broker_certificate}", f"keyfile {s.broker_key}", "tls_version tlsv1.2"]
        return "\n".join(lines) + "\n"

    def _write(self, credentials: dict[str, Credential]) -> None:
        passwords = "".join(f"{user}:{one.password_hash}\n" for user, one in sorted(credentials.items()))
        rights = []
        for user, one in sorted(credentials.items()):
            rights += [f"user {user}", *(f"topic write {t}" for t in one.publish), *(f"topic read {t}" for t in one.subscribe), ""]
        for name, text in (("passwords", passwords), ("rights", "\n".join(rights) + "\n")):
            path = self._folder / f"{name}.new"
            path.touch(mode=0o600)
            path.chmod(0o600)
            path.write_text(text)
            path.replace(self._folder / name)

    async def update(self, credentials: dict[str, Credential]) -> None:
        self._write(credentials)
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def wait(self) -> None:
        assert self._process is not None
        await self._process.wait()

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


def mosquitto_program() -> str | None:
    """Path of an installed mosquitto; Debian keeps it out of a user's PATH."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def choose(settings: Settings) -> str:
    """mosquitto | amqtt; raises ConfigError when what is asked for is not there or must not be used."""
    kind = settings.broker_kind
    if kind == "auto":
        kind = "mosquitto" if mosquitto_program() else "amqtt"
    if kind == "mosquitto" and not mosquitto_program():
        raise ConfigError(["YIZHAN_BROKER_KIND: mosquitto is not installed"])
    outside = settings.broker_bind not in LOOPBACK
    if outside and settings.broker_certificate is None:
        raise ConfigError(["YIZHAN_BROKER_BIND: outside loopback only with TLS (YIZHAN_BROKER_CERTIFICATE, YIZHAN_BROKER_KEY)"])
    if outside and kind == "amqtt":
        raise ConfigError(["YIZHAN_BROKER_BIND: the pure-Python broker serves loopback only; install mosquitto"])
    return kind


async def read_credentials(settings: Settings, backend_hash: str) -> dict[str, Credential]:
    """The broker's users: the backend and every enrolled, not revoked gateway."""
    async with await database.connect(settings.database()) as connection:
        cursor = await connection.execute("select gateway, site, password_hash from gateway where revoked_at is null")
        rows = await cursor.fetchall()
    found = {row["gateway"]: gateway_credential(row["site"], row["gateway"], row["password_hash"]) for row in rows}
    backends = {settings.mqtt_user or "worker", *filter(None, settings.backend_users.split(","))}
    return {**found, **{name: backend_credential(backend_hash) for name in backends}}


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """The broker process: start, follow the database's credentials, end when the broker does."""
    if settings.mqtt_password is None:
        raise ConfigError(["YIZHAN_MQTT_PASSWORD: the backend's own password is needed by the broker"])
    backend_hash = broker_password.hashed(settings.mqtt_password.get_secret_value())
    broker: Broker
    if choose(settings) == "mosquitto":
        broker = Mosquitto(settings, settings.data_dir.absolute() / "broker")
    else:
        from yizhan.amqtt_broker import Amqtt

        broker = Amqtt(settings)

    async def read() -> dict[str, Credential]:
        return await read_credentials(settings, backend_hash)

    credentials = await _patiently(read, stop)
    if credentials is None:
        return
    await broker.start(credentials)
    log.info("broker started", extra={"kind": type(broker).__name__.lower(), "users": len(credentials)})
    following = asyncio.ensure_future(_follow(settings, broker, credentials, read))
    ending = [asyncio.ensure_future(broker.wait()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
    for task in (following, *ending):
        task.cancel()
    if not stop.is_set():
        raise ConfigError(["the broker ended by itself"])
    await broker.stop()


async def _patiently(
    read: Callable[[], Awaitable[dict[str, Credential]]], stop: asyncio.Event
) -> dict[str, Credential] | None:  # fmt: skip
    while not stop.is_set():
        try:
            return await read()
        except (psycopg.Error, OSError):
            await asyncio.sleep(0.5)
    return None


async def _follow(
    settings: Settings, broker: Broker, known: dict[str, Credential], read: Callable[[], Awaitable[dict[str, Credential]]]
) -> None:
    """Apply every change; while the database is away, what is known stays in force."""
    while True:
        with contextlib.suppress(psycopg.Error, OSError):
            async with await database.connect(settings.database(), autocommit=True) as connection:
                await connection.execute("listen credentials")
                while True:
                    found = await read()
                    if found != known:
                        await broker.update(found)
                        log.info("credentials changed", extra={"users": len(found)})
                        known = found
                    async for _note in connection.notifies(timeout=LOOK_AGAIN, stop_after=1):
                        pass
        await asyncio.sleep(1)
