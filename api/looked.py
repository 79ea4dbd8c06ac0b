"""Whose data a request looked at: collected on the way, written to the audit log before the answer leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg
from fastapi import FastAPI
from psycopg_pool import PoolTimeout

from api.accounts import Account
from api.audit import Book, Entry
from vitals.errors import Unavailable


@dataclass
class Seen:
    """residents: opaque ids; about: the cases, referrals and tasks they were seen through; why: of a broken glass."""

    residents: dict[str, None] = field(default_factory=dict)
    about: dict[str, None] = field(default_factory=dict)
    why: str = ""

    def others(self, account: Account) -> list[str]:
        """Whose data it was, but one's own."""
        own = account.refers_to if account.role == "resident" else None
        return [resident for resident in self.residents if resident != own]


_seen: ContextVar[Seen | None] = ContextVar("seen", default=None)


def begin() -> Seen:
    """A request begins."""
    seen = Seen()
    _seen.set(seen)
    return seen


def at(resident: str | None, about: str = "", why: str = "") -> None:
    """Somebody's data is shown. resident None: what is nobody's."""
    seen = _seen.get()
    if seen is not None and resident is not None:
        seen.residents[resident] = None
        if about:
            seen.about[about] = None
        seen.why = why or seen.why


def at_all(residents: Iterable[str | None]) -> None:
    for resident in residents:
        at(resident)


def entry(account: Account, what: str, seen: Seen) -> Entry:
    return Entry(account.account, account.role, what, seen.others(account), ", ".join(seen.about), seen.why, "shown")


async def write(app: FastAPI, entries: Sequence[Entry]) -> None:
    """Into the log, over a connection of its own. Raises Unavailable when it cannot be: then nothing is shown, and nothing done."""
    book: Book = app.state.book
    try:
        async with app.state.audit_pool.connection() as connection:
            await book.write(connection, entries, datetime.now(UTC))
    except (psycopg.Error, PoolTimeout) as error:
        raise Unavailable("the audit log") from error
