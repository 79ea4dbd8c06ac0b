"""Event streams: PostgreSQL's NOTIFY in, server-sent events out. A notification is a hint; the data is queried.

A stream begins with a snapshot, so a reconnection needs no memory. A slow reader's stream is closed rather than
buffered without end; it comes back and starts from a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import psycopg
from fastapi import FastAPI
from starlette.requests import Request

from api import looked, wall
from api.accounts import Account
from api.guard import whose
from care import cases
from ingest import outbox
from vitals.errors import Unavailable
from vitals.floor import database, metrics
from vitals.floor.database import Pool

log = logging.getLogger("api.events")

KEEPALIVE = 15.0  # s between comments; also how long a revoked account's stream may live on
BACKLOG = 256
QUEUE_LIMIT = 500
STREAM = "GET /v1/events"


class Subscriber:
    """One open stream. `wanted(channel, note)` says what it hears; account and shown: who reads, and whose data they were shown."""

    def __init__(self, wanted: Callable[[str, dict[str, Any]], bool], account: Account | None = None) -> None:
        self.wanted = wanted
        self.account = account
        self.shown: set[str] = set()
        self.notes: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue(BACKLOG)

    def offer(self, channel: str, note: dict[str, Any]) -> None:
        try:
            self.notes.put_nowait((channel, note))
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        while not self.notes.empty():
            self.notes.get_nowait()
        self.notes.put_nowait(None)


class Hub:
    """One LISTEN connection for all streams of this process; after it was lost every stream restarts."""

    def __init__(self, app: FastAPI, conninfo: str, pool: Pool) -> None:
        self._app, self._conninfo, self._pool = app, conninfo, pool
        self._subscribers: set[Subscriber] = set()
        self._snapshots: dict[tuple[str, ...], asyncio.Task[tuple[bytes, list[str]]]] = {}
        self._reading = asyncio.Semaphore(2)

    @contextlib.contextmanager
    def subscribe(self, subscriber: Subscriber) -> Any:
        self._subscribers.add(subscriber)
        metrics.streams.inc()
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)
            metrics.streams.dec()

    def end_all(self) -> None:
        for subscriber in list(self._subscribers):
            subscriber.end()

    async def run(self) -> None:
        while True:
            try:
                async with await database.connect(self._conninfo, autocommit=True) as connection:
                    await connection.execute("listen queue")
                    await connection.execute("listen outbox")
                    self.end_all()  # what was missed while not listening comes with the new snapshot
                    async for note in connection.notifies():
                        await self._dispatch(note.channel, note.payload)
            except (psycopg.Error, OSError, Unavailable):
                log.warning("lost the database's notifications")
                await asyncio.sleep(1)

    async def _dispatch(self, channel: str, payload: str) -> None:
        note: dict[str, Any] = {"checkin": payload} if channel == "outbox" else json.loads(payload)
        listening = [one for one in self._subscribers if one.wanted(channel, note)]
        if listening and channel == "queue":  # nobody's queue is not read
            async with self._pool.connection() as connection:
                await wall.enter_team(connection, note["team"])
                rows = await cases.queue(connection, [note["team"]], 1, note["care_case"])
            note["row"] = rows[0] if rows else None
        resident = (note.get("row") or {}).get("resident")
        if resident is not None:  # written down before anybody sees it, for all of them at once
            new = [one for one in listening if one.account is not None and resident not in one.shown]
            await self.looked(new, [resident])
        for subscriber in listening:
            subscriber.offer(channel, note)

    async def snapshot(self, account: Account) -> tuple[bytes, list[str]]:
        """The queue of this account's teams as an event, and whose data it shows; read once for all who ask before the reading begins.

        After a restart all browsers come back at the same moment, most of them for the same few queues.
        """
        task = self._snapshots.get(account.teams)
        if task is None:
            task = self._snapshots[account.teams] = asyncio.create_task(self._read(account))
        return await asyncio.shield(task)

    async def _read(self, account: Account) -> tuple[bytes, list[str]]:
        async with self._reading:
            del self._snapshots[account.teams]  # who comes from now on might miss what is committed meanwhile
            async with self._pool.connection() as connection:
                await wall.enter(connection, account.account)
                rows = await cases.queue(connection, account.teams, QUEUE_LIMIT)
        return event("snapshot", rows), sorted({row["resident"] for row in rows if row["resident"]})

    async def looked(self, subscribers: list[Subscriber], residents: list[str]) -> None:
        """Once a stream for each person."""
        seen = looked.Seen(dict.fromkeys(residents))
        entries = [looked.entry(one.account, STREAM, seen) for one in subscribers if one.account is not None]
        if entries and residents:
            await looked.write(self._app, entries)
        for one in subscribers:
            one.shown.update(residents)


def event(name: str, data: Any) -> bytes:
    """One server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


async def queue_stream(request: Request, account: Account, token_check: Callable[[], Any]) -> AsyncIterator[bytes]:
    """`snapshot` with the whole queue, then `case` for every change of a case of this team, `ended` when one ends."""
    hub: Hub = request.app.state.hub
    subscriber = Subscriber(lambda channel, note: channel == "queue" and note["team"] in account.teams, account)
    with hub.subscribe(subscriber):
        snapshot, residents = await hub.snapshot(account)
        await hub.looked([subscriber], residents)
        yield snapshot
        async for item in _notes(subscriber, token_check):
            if isinstance(item, bytes):
                yield item
            elif item["row"] is not None:
                yield event("case", item["row"])
            else:
                yield event("ended", {"care_case": item["care_case"]})


async def advice_stream(request: Request, account: Account, checkin: str) -> AsyncIterator[bytes]:
    """`advice` for every measurement of one check-in, from its beginning."""
    hub: Hub = request.app.state.hub
    seen = 0
    subscriber = Subscriber(lambda channel, note: channel == "outbox" and note["checkin"] == checkin)
    with hub.subscribe(subscriber):
        subscriber.offer("outbox", {"checkin": checkin})
        async for item in _notes(subscriber, None):
            if isinstance(item, bytes):
                yield item
                continue
            async with request.app.state.pool.connection() as connection:
                await wall.enter(connection, account.account)
                rows = await outbox.advice_of(connection, checkin, seen)
            for row in rows:
                seen = row["outbox"]
                yield event("advice", row["body"])


async def _notes(subscriber: Subscriber, still_valid: Callable[[], Any] | None) -> AsyncIterator[Any]:
    while True:
        try:
            async with asyncio.timeout(KEEPALIVE):
                note = await subscriber.notes.get()
        except TimeoutError:
            if still_valid is not None and not await still_valid():
                return
            yield b": still here\n\n"
            continue
        if note is None:
            return
        yield note[1]


async def account_lives(request: Request, account: Account) -> bool:
    """Whether what an open stream was opened with still holds: token or session, and whose queue it is. Asked at every keepalive."""
    async with request.app.state.pool.connection() as connection:
        return await whose(request.app, connection, request.state.token, used=False) == account
