"""`yizhan check`: is this deployment healthy and safely configured? Every problem, in one go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from ingest import lives, pairing
from vitals.errors import ConfigError, Unavailable
from vitals.floor import database
from vitals.floor.mqtt import Link
from vitals.settings import LOOPBACK, Settings, examine
from yizhan.compose import ROOMS

WEAK = frozenset({"password", "admin", "secret", "changeme", "mosquitto", "postgres", "yizhan", "public", "123456", "12345678"})
SHORTEST = 16


async def run(environment: Mapping[str, str] | None = None) -> list[str]:
    """Every problem found, as one line each; an empty list is a healthy deployment."""
    settings, problems = examine(environment)
    problems += static(settings)
    checks = await asyncio.gather(_database(settings), _broker(settings))
    return problems + [problem for found in checks for problem in found]


def static(settings: Settings) -> list[str]:
    """What the configuration alone gives away."""
    problems: list[str] = []
    if settings.broker_bind not in LOOPBACK and settings.broker_certificate is None:
        problems.append("YIZHAN_BROKER_BIND: the broker would listen outside loopback without TLS")
    if settings.mqtt_host not in LOOPBACK and settings.mqtt_ca is None:
        problems.append("YIZHAN_MQTT_HOST: readings and passwords would cross the network without TLS (set YIZHAN_MQTT_CA)")
    if settings.api_host not in LOOPBACK and settings.api_certificate is None:
        problems.append(
            "YIZHAN_API_HOST: the API would listen outside loopback without TLS (set YIZHAN_API_CERTIFICATE and YIZHAN_API_KEY)"
        )
    if settings.oidc_issuer is not None and not settings.oidc_issuer.startswith("https://"):
        problems.append("YIZHAN_OIDC_ISSUER: not https; anybody on the way could say who somebody is")
    if settings.api_host not in LOOPBACK and settings.api_database_url is None and settings.database_url is not None:
        problems.append("YIZHAN_API_DATABASE_URL: the API would use the owner's role, for which the database has no wall (docs/deploy.md)")
    outside = [one for one in (settings.kafka_servers or "").split(",") if one and one.rpartition(":")[0] not in LOOPBACK]
    if outside and settings.kafka_ca is None:
        problems.append("YIZHAN_KAFKA_SERVERS: readings would cross the network without TLS (set YIZHAN_KAFKA_CA)")
    if settings.kafka_password is not None:
        problems += _strength("YIZHAN_KAFKA_PASSWORD", settings.kafka_password.get_secret_value())
    if (settings.kafka_user is None) != (settings.kafka_password is None):
        problems.append("YIZHAN_KAFKA_USER: user and password belong together")
    for name in ("broker", "api"):
        problems += _certificate(name, getattr(settings, f"{name}_certificate"), getattr(settings, f"{name}_key"))
    if settings.mqtt_ca is not None:
        problems += _readable("YIZHAN_MQTT_CA", settings.mqtt_ca)
    if settings.field_key is not None:
        problems += _strength("YIZHAN_FIELD_KEY", settings.field_key.get_secret_value())
    if settings.mqtt_password is not None:
        problems += _strength("YIZHAN_MQTT_PASSWORD", settings.mqtt_password.get_secret_value())
    if settings.database_url is not None:
        problems += _database_url(settings.database_url.get_secret_value())
    if settings.batch_limit > settings.mqtt_window:
        problems.append("YIZHAN_BATCH_LIMIT: larger than YIZHAN_MQTT_WINDOW; a batch could never fill")
    if settings.log_level == "debug":
        problems.append("YIZHAN_LOG_LEVEL: debug is for looking at one reading, not for production")
    if settings.devices.exists():
        from gateway import devices

        try:
            if not devices.read(settings.devices):
                problems.append(f"{settings.devices}: no device at all; this gateway connects to nothing")
        except ConfigError as error:
            problems += error.problems
    return problems


def _strength(name: str, secret: str) -> list[str]:
    if secret.lower() in WEAK:
        return [f"{name}: a well-known default"]
    return [f"{name}: shorter than {SHORTEST} characters"] if len(secret) < SHORTEST else []


def _readable(name: str, path: Path) -> list[str]:
    return [] if os.access(path, os.R_OK) else [f"{name}: cannot be read"]


def _certificate(name: str, certificate: Path | None, key: Path | None) -> list[str]:
    variable = f"YIZHAN_{name.upper()}_CERTIFICATE"
    if certificate is None and key is None:
        return []
    if certificate is None or key is None:
        return [f"{variable}: certificate and key belong together"]
    problems = _readable(variable, certificate) + _readable(f"YIZHAN_{name.upper()}_KEY", key)
    if problems:
        return problems
    if key.stat().st_mode & 0o077:
        problems.append(f"YIZHAN_{name.upper()}_KEY: can be read by others; chmod 600")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        ends = ssl.cert_time_to_seconds(ssl._ssl._test_decode_cert(str(certificate))["notAfter"])  # type: ignore[attr-defined]
        left = datetime.fromtimestamp(ends, UTC) - datetime.now(UTC)
        if left.total_seconds() < 0:
            problems.append(f"{variable}: expired")
        elif left.days < 14:
            problems.append(f"{variable}: expires in {left.days} days")
    except (ssl.SSLError, OSError):
        problems.append(f"{variable}: certificate and key do not fit together")
    return problems


def _database_url(url: str) -> list[str]:
    parts = urlsplit(url)
    problems = []
    if parts.hostname not in (*LOOPBACK, None) and parse_qs(parts.query).get("sslmode") != ["verify-full"]:
        problems.append("YIZHAN_DATABASE_URL: across a network without sslmode=verify-full")
    if not parts.password:
        problems.append("YIZHAN_DATABASE_URL: no password")
    else:
        problems += _strength("YIZHAN_DATABASE_URL (its password)", parts.password)
    return problems


async def _database(settings: Settings) -> list[str]:
    if settings.database_url is None:
        return ["YIZHAN_DATABASE_URL: not set; worker, broker and API cannot start"]
    url = settings.database_url.get_secret_value()
    problems: list[str] = []
    try:
        async with await database.connect(url, autocommit=True) as connection:
            row = await (
                await connection.execute(
                    "select current_setting('fsync') as fsync, current_setting('full_page_writes') as pages,"
                    " current_setting('server_version_num')::int as version, current_setting('max_connections')::int as slots,"
                    " (select rolsuper from pg_roles where rolname = current_user) as super"
                )
            ).fetchone()
            assert row is not None
            if row["fsync"] != "on" or row["pages"] != "on":
                problems.append("database: fsync or full_page_writes is off; what it acknowledges is not on disk")
            if row["super"]:
                problems.append("database: connected as a superuser; give the application a role of its own")
            if row["version"] < 150000:
                problems.append("database: PostgreSQL 15 or newer expected")
            if settings.database_pool + 10 > row["slots"]:
                problems.append("YIZHAN_DATABASE_POOL: more than the server's max_connections leaves room for")
            missing = await database.pending_migrations(url, ROOMS)
            problems += [f"database: migration {name} is not applied (yizhan migrate)" for name in missing]
            if not missing:
                problems += await _tables(connection)
    except (psycopg.Error, OSError) as error:
        problems.append(f"database: cannot connect ({type(error).__name__})")
    return problems


async def _tables(connection: database.Connection) -> list[str]:
    problems = []
    for words, query in (
        ("site {} has no duty team; its unclaimed and unsigned cases go to the centre",
         "select s.site as x from site s left join duty d using (site) where d.site is null"),
        ("case {} waits in the queue of last resort (centre)",
         "select care_case::text as x from care_case where team = 'centre' and ended_at is null limit 5"),
    ):  # fmt: skip
        problems += [words.format(row["x"]) for row in await (await connection.execute(query)).fetchall()]
    for lost in await pairing.lost(connection):
        problems.append(f"device {lost['device']}: knows {lost['gateway']} no more since {lost['asked_at']:%Y-%m-%d %H:%M}; pair it again")
    for gateway in await lives.forked(connection):
        problems.append(f"gateway {gateway}: its disk was copied or set back; look at both, then revoke and enrol it again")
    for one in await lives.reconcile(connection):
        where = ", ".join(f"{first}-{last}" for first, last in one.missing[:5]) or "all numbers are here, with other bytes"
        problems.append(f"gateway {one.gateway}: {one.stored} of {one.reported} messages of {one.day} ({one.boot}); missing: {where}")
    for name, boot, ranges in await lives.holes(connection):
        where = ", ".join(f"{first}-{last}" for first, last in ranges[:5])
        problems.append(f"gateway {name}: holes in {boot} that nothing explains: {where}")
    row = await (await connection.execute("select count(*) as n from quarantine where last_at > now() - interval '1 day'")).fetchone()
    if row is not None and row["n"]:
        problems.append(f"quarantine: {row['n']} payloads in the last day")
    return problems


async def _broker(settings: Settings) -> list[str]:
    address = f"{settings.mqtt_host}:{settings.mqtt_port}"
    try:
        with socket.create_connection((settings.mqtt_host, settings.mqtt_port), 2):
            pass
    except OSError:
        return [f"broker: nothing answers at {address}"]
    problems = []
    if settings.mqtt_password is None:
        problems.append("YIZHAN_MQTT_PASSWORD: not set; the broker must not let us in")
    elif not await _lets_in(settings, settings.mqtt_user or "worker", settings.mqtt_password.get_secret_value()):
        problems.append(f"broker: refuses our credential at {address}")
    if await _lets_in(settings, "yizhan-check", None):
        problems.append(f"broker: lets anybody in at {address} without a password")
    return problems


async def _lets_in(settings: Settings, user: str, password: str | None) -> bool:
    """Whether a connection is accepted; under a client id of its own, so that it disturbs nobody."""
    name = None if password is None else user
    with contextlib.suppress(Unavailable, TimeoutError, OSError, ssl.SSLError):
        link = Link(settings.mqtt_host, settings.mqtt_port, f"check-{os.getpid()}", user=name, password=password, ca=settings.mqtt_ca)
        async with link:
            await asyncio.wait_for(link.connected.wait(), 3)
            return True
    return False
