"""All SQL about accounts and enrolment codes. Tokens are 256 random bits, shown once, kept as a digest."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from psycopg.types.json import Jsonb

from care import staff
from vitals.errors import Refused
from vitals.floor.database import Connection

ROLES = ("admin", "security", "audit", "doctor", "nurse", "supervisor", "hospital", "sentinel", "station", "resident")
TEAM_ROLES = ("doctor", "nurse", "supervisor")
CODE_LIFETIME = timedelta(minutes=10)
CODE_TRIES = 5
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # nothing that looks like something else


class Account(NamedTuple):
    """Who is asking. refers_to: staff, gateway or resident by role; teams: whose queue they work at this moment (their own, those they
    cover or are on duty for); places: the hospitals or grid cells they belong to."""

    account: str
    role: str
    refers_to: str | None
    teams: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    @property
    def actor(self) -> str:
        """The name that stands in a log."""
        return self.refers_to or self.account


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


async def create(connection: Connection, role: str, refers_to: str | None) -> tuple[str, str]:
    """A new account; returns (account, token). The token is not stored and cannot be shown again."""
    account, token = f"{role}-{secrets.token_hex(4)}", f"yz_{secrets.token_urlsafe(32)}"
    await connection.execute(
        "insert into account (account, role, refers_to, token_digest) values (%s, %s, %s, %s)", (account, role, refers_to, _digest(token))
    )
    return account, token


async def by_token(connection: Connection, token: str) -> Account | None:
    """The live account of a token."""
    cursor = await connection.execute(
        "select a.account, a.role, a.refers_to from account a left join gateway g on a.role = 'station' and g.gateway = a.refers_to"
        " where a.token_digest = %s and a.revoked_at is null and (a.role <> 'station' or g.revoked_at is null)",
        (_digest(token),),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    found = Account(**row)
    if found.refers_to is None or found.role in ("station", "resident"):
        return found
    reach = await staff.reach(connection, found.refers_to)
    return found._replace(teams=tuple(reach["teams"]) if found.role in TEAM_ROLES else (), places=tuple(reach["places"]))


async def revoke(connection: Connection, account: str) -> None:
    """Raises Refused `unknown_account`."""
    cursor = await connection.execute(
        "update account set revoked_at = now() where account = %s and revoked_at is null returning account", (account,)
    )
    if await cursor.fetchone() is None:
        raise Refused("unknown_account")


async def make_code(connection: Connection, kind: str, names: dict[str, Any], by: str, now: datetime) -> tuple[str, datetime]:
    """A single-use code, 40 bits behind a 20-bit lookup part, good for ten minutes; returns (code, expires_at)."""
    lookup, secret = (("".join(secrets.choice(_ALPHABET) for _ in range(n))) for n in (4, 8))
    expires = now + CODE_LIFETIME
    await connection.execute("delete from enrolment where expires_at < %s - interval '1 day'", (now,))
    await connection.execute(
        "insert into enrolment (lookup, digest, kind, names, created_by, expires_at) values (%s, %s, %s, %s, %s, %s)",
        (lookup, _digest(secret), kind, Jsonb(names), by, expires),
    )
    return f"{lookup}-{secret}", expires


async def use_code(connection: Connection, code: str, kind: str, now: datetime) -> dict[str, Any] | None:
    """Use a code up; returns its names, or None for a wrong, used, expired or locked one.

    A wrong guess is counted: commit it. One answer for every kind of wrong, so that guessing learns nothing.
    """
    lookup, _, secret = code.strip().upper().partition("-")
    cursor = await connection.execute("select * from enrolment where lookup = %s for update", (lookup,))
    row = await cursor.fetchone()
    if row is None or row["used_at"] is not None or row["expires_at"] < now or row["tries"] >= CODE_TRIES:
        return None
    if row["kind"] != kind or not hmac.compare_digest(row["digest"], _digest(secret)):
        await connection.execute("update enrolment set tries = tries + 1 where lookup = %s", (lookup,))
        return None
    await connection.execute("update enrolment set used_at = %s where lookup = %s", (now, lookup))
    names: dict[str, Any] = row["names"]
    return names
