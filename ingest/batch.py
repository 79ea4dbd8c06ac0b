"""What one worker transaction carries from step to step, and where batches come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from vitals.alert import Change
from vitals.floor.database import Connection
from vitals.measurement import Measurement


class Incoming(NamedTuple):
    """One message as it came: `token` is the source's own, handed back when the message is safe.

    part, parts: which part of a message this is, where a message was split among partitions.
    """

    source: str
    topic: str
    payload: bytes
    token: Any
    part: int = 0
    parts: int = 1


class Source(Protocol):
    """Where messages come from. Nothing is acknowledged before `done`, which the worker calls after its commit.

    `seal` is called inside the transaction, `committed` right after it: a source that keeps its position in the
    database moves it there. `still_waiting` tells, after a commit whose outcome nobody saw, what is still to be done.
    """

    def waiting(self) -> bool:
        """Whether `take` would return something."""

    async def wait(self) -> None:
        """Return when something is waiting."""

    def take(self, limit: int) -> list[Incoming]:
        """What is waiting, at most `limit`, oldest first; does not block."""

    def mine(self, subject: str) -> bool:
        """Whether the timers of this subject are this worker's to fire."""

    async def seal(self, connection: Connection, items: list[Incoming]) -> None:
        """Move the position, if there is one; raises `stream.Fenced` when somebody else has it."""

    def committed(self, items: list[Incoming]) -> None:
        """The transaction with these is durable."""

    async def still_waiting(self, connection: Connection, items: list[Incoming]) -> list[Incoming]:
        """Those of `items` that are not committed; raises `stream.Fenced`."""

    async def rewind(self, connection: Connection, items: list[Incoming]) -> None:
        """These were given up as fenced: go back to where the database stands, if that is still ours to do."""

    def done(self, items: list[Incoming]) -> None:
        """These are committed (or in quarantine): acknowledge them."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A new measurement in this transaction, attributed. subject: the resident, else "device:…"; never null.

    site: where the device stands, if it stands somewhere. weak: why it may never refer anyone by itself.
    """

    number: int
    measurement: Measurement
    subject: str
    resident: str | None
    checkin: str | None
    station: str | None
    site: str | None
    weak: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """An intake row being applied: somebody said something that may change what the rules conclude."""

    intake: int
    kind: str
    subject: str | None
    body: dict[str, Any]
    account: str
    created_at: datetime


@dataclass(slots=True)
class Batch:
    """measurements and events in stream order; the steps fill the rest.

    ended: subjects whose open alerts a person ended, with the account that did it (care → rules).
    changes: alert movements of this transaction (rules → care). results: intake number → what became of it.
    ticked: subjects of whom a timer fell due. over: subjects whose day is over.
    undo: what steps want called if the transaction does not commit, to forget what they remembered in it.
    mine: whether a subject's timers are to be fired here. taken: measurements that were moved away from a subject in
    this transaction, by their numbers: what was concluded from them is to be looked at again.
    """

    measurements: list[Stored] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    results: dict[int, str] = field(default_factory=dict)
    mine: Callable[[str], bool] = lambda _subject: True
    taken: dict[str, set[int]] = field(default_factory=dict)
    ticked: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)


# Runs inside the worker's transaction; returns when it wants to run again even if nothing arrives.
Step = Callable[[Connection, Batch, datetime], Awaitable[datetime | None]]
