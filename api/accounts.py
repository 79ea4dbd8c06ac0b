"""All SQL about accounts and enrolment codes. Tokens are 256 random bits, shown once, kept as a digest."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from psycopg.types.json import Jsonb

from care import staff
from care.identity import Seal
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection

ROLES = ("admin", "security", "audit", "doctor", "nurse", "supervisor", "hospital", "sentinel", "station", "resident")
TEAM_ROLES = ("doctor", "nurse", "supervisor")
DECIDES = ("doctor", "supervisor")
SHORTEST = 10  # characters of a password
TRIES, LOCKED = 5, timedelta(minutes=15)
SESSION = "ys_"  # how a session's token begins
IDLE, LONGEST = timedelta(minutes=30), timedelta(hours=8)  # of a session
CODE_LIFETIME = timedelta(minutes=10)
CODE_TRIES = 5
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # nothing that looks like something else


_hasher = PasswordHasher()  # argon2id, RFC 9106's second recommendation
_NOBODYS = _hasher.hash(secrets.token_urlsafe())  # what is checked for a name that nobody has


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


async def create_login(connection: Connection, role: str, refers_to: str | None, login: str, password: str | None) -> str:
    """A new account for a person; returns it. password None: the name is one that the identity provider gives.

    Raises BadInput `weak_password`; Refused `login_taken`.
    """
    if password is not None and (len(password) < SHORTEST or password.lower() in (login.lower(), "password1234")):
        raise BadInput("weak_password", f"at least {SHORTEST} characters, and not the name")
    account = f"{role}-{secrets.token_hex(4)}"
    hashed = _hasher.hash(password) if password is not None else None
    cursor = await connection.execute(
        "insert into account (account, role, refers_to, login, password, external) values (%s, %s, %s, %s, %s, %s)"
        " on conflict (login) do nothing returning account",
        (account, role, refers_to, login, hashed, hashed is None),
    )
    if await cursor.fetchone() is None:
        raise Refused("login_taken")
    return account


async def known_outside(connection: Connection, name: str) -> Account | None:
    """The live account of a name that the identity provider gave."""
    cursor = await connection.execute(
        "select account, role, refers_to from account where login = %s and external and revoked_at is null", (name,)
    )
    row = await cursor.fetchone()
    return await _reaching(connection, Account(**row)) if row is not None else None


async def open_session(connection: Connection, account: str, now: datetime) -> str:
    """A session's token."""
    token = f"{SESSION}{secrets.token_urlsafe(32)}"
    await connection.execute("insert into session values (%s, %s, %s, %s)", (_digest(token), account, now, now))
    return token


async def log_in(connection: Connection, seal: Seal | None, login: str, password: str, code: str, now: datetime) -> str | None:
    """Name, password and, where one is set up, the code of the second factor → a session's token, or None. Commit either way.

    One answer for everything that is wrong, and about the same time for it. After five wrong tries an account is locked for a quarter of
    an hour; a code is taken once.
    """
    cursor = await connection.execute("select * from account where login = %s and revoked_at is null for update", (login,))
    row = await cursor.fetchone()
    # argon2 takes its time, and other requests go on meanwhile
    right = await asyncio.to_thread(_verify, (row or {}).get("password") or _NOBODYS, password)
    if row is None or (row["locked_until"] is not None and row["locked_until"] > now):
        return None
    step = None
    if right and row["totp"] is not None:
        step = _step(seal.open(row["account"], "totp", row["totp"]), code, now) if seal is not None else None
        right = step is not None and step > row["totp_step"]
    if not right:
        failures = row["failures"] + 1
        locked = now + LOCKED if failures % TRIES == 0 else None
        await connection.execute(
            "update account set failures = %s, locked_until = %s where account = %s", (failures, locked, row["account"])
        )
        return None
    await connection.execute(
        "update account set failures = 0, locked_until = null, totp_step = greatest(totp_step, %s) where account = %s",
        (step or 0, row["account"]),
    )
    return await open_session(connection, row["account"], now)


def _verify(hashed: str, password: str) -> bool:
    try:
        return _hasher.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def _step(secret: str, code: str, now: datetime) -> int | None:
    """The time step a code belongs to: this one or a neighbour; None for a wrong code."""
    one = pyotp.TOTP(secret)
    current = one.timecode(now)
    return next((step for step in (current, current - 1, current + 1) if hmac.compare_digest(one.generate_otp(step), code.strip())), None)


async def second_factor(connection: Connection, seal: Seal, account: str, secret: str, code: str, now: datetime) -> None:
    """Set the second factor up, once its holder has shown a code. Raises Refused `bad_code`."""
    step = _step(secret, code, now)
    if step is None:
        raise Refused("bad_code")
    await connection.execute(
        "update account set totp = %s, totp_step = %s where account = %s", (seal.seal(account, "totp", secret), step, account)
    )


async def log_out(connection: Connection, token: str, now: datetime) -> None:
    await connection.execute("update session set ended_at = %s where digest = %s and ended_at is null", (now, _digest(token)))


async def by_token(connection: Connection, token: str, *, used: bool = True) -> Account | None:
    """The live account of a token, or of a session that is neither idle too long nor too old. used: the session is less idle for it."""
    digest = _digest(token)
    if token.startswith(SESSION):
        cursor = await connection.execute(
            "select a.account, a.role, a.refers_to from session s join account a using (account) where s.digest = %s and s.ended_at is null"
            " and s.seen_at > now() - %s and s.began_at > now() - %s and a.revoked_at is null",
            (digest, IDLE, LONGEST),
        )
    else:
        cursor = await connection.execute(
            "select a.account, a.role, a.refers_to from account a left join gateway g on a.role = 'station' and g.gateway = a.refers_to"
            " where a.token_digest = %s and a.revoked_at is null and (a.role <> 'station' or g.revoked_at is null)",
            (digest,),
        )
    row = await cursor.fetchone()
    if row is None:
        return None
    if used and token.startswith(SESSION):
        await connection.execute(
            "update session set seen_at = now() where digest = %s and seen_at < now() - interval '1 minute'", (digest,)
        )
    return await _reaching(connection, Account(**row))


async def _reaching(connection: Connection, found: Account) -> Account:
    """With the teams and places that are theirs at this moment."""
    if found.refers_to is None or found.role in ("station", "resident"):
        return found
    reach = await staff.reach(connection, found.refers_to)
    return found._replace(teams=tuple(reach["teams"]) if found.role in TEAM_ROLES else (), places=tuple(reach["places"]))


async def listing(connection: Connection, limit: int = 1000) -> list[dict[str, Any]]:
    """Every account, the living ones first; nothing that opens one."""
    cursor = await connection.execute(
        "select account, role, refers_to, login, external, totp is not null as second_factor, created_at, revoked_at from account"
        " order by (revoked_at is not null), role, account limit %s",
        (limit,),
    )
    return await cursor.fetchall()


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
