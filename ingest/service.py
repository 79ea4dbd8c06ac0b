"""The worker: one transaction for readings, rules, cases, outbox and position; receipts only after its commit.

It knows no rules: `steps` are functions run in order inside the transaction. It sleeps until a message or an
intake row arrives, or until the earliest time a step asked for. A database that is away costs latency only:
messages stay unacknowledged, the batch is tried again. A message that makes the transaction fail by itself is
found by halving the batch and goes to quarantine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from ingest import admit, attribution, devices, intake, lives, outbox, pairing, quarantine, readings
from ingest.batch import Batch, Event, Incoming, Source, Step, Stored
from ingest.mqtt_source import SUBSCRIPTIONS, MqttSource
from ingest.readings import Candidate
from vitals import wire
from vitals.errors import BadInput, Refused, Unavailable
from vitals.floor import database, metrics
from vitals.floor.database import Connection
from vitals.floor.mqtt import Link
from vitals.measurement import Measurement, weak_source
from vitals.settings import Settings
from vitals.wire import Refusal

log = logging.getLogger("ingest.service")

LONGEST_SLEEP = 5.0  # s; a notification is only a hint, so look by ourselves now and then
RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0
INTAKE_LIMIT = 200
STOP_GRACE = 5.0  # s for a transaction to finish after the stop signal


class Worker:
    """Owns one database connection; `process` is one transaction over `items`."""

    def __init__(self, conninfo: str, steps: Sequence[Step], batch_limit: int) -> None:
        self._conninfo = conninfo
        self._steps = steps
        self._batch_limit = batch_limit
        self._connection: Connection | None = None
        self._wake_at: float | None = None  # monotonic; the database's clock is told apart from ours
        self.more_intake = False

    async def connection(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await database.connect(self._conninfo)
        return self._connection

    def idle_seconds(self) -> float:
        """How long to sleep when nothing arrives: until the earliest time a step asked for."""
        return LONGEST_SLEEP if self._wake_at is None else min(LONGEST_SLEEP, max(0.02, self._wake_at - time.monotonic()))

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def process(self, items: list[Incoming]) -> list[admit.Admitted]:
        """Commit these messages and whatever intake waits; retries for ever while the database is away."""
        wait = RETRY_FIRST
        while True:
            try:
                return await self._halving(items)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError, Unavailable) as error:
                log.warning("cannot commit, nothing acknowledged", extra={"error": type(error).__name__, "items": len(items)})
                if self._connection is not None:
                    with contextlib.suppress(psycopg.Error, OSError):
                        await self._connection.close()
                self._connection = None
                await asyncio.sleep(wait)
                wait = min(wait * 2, RETRY_LONGEST)

    async def _halving(self, items: list[Incoming]) -> list[admit.Admitted]:
        try:
            return await self._transaction(items)
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError):
            raise
        except Exception:
            if len(items) > 1:
                middle = len(items) // 2
                return await self._halving(items[:middle]) + await self._halving(items[middle:])
            log.exception("transaction failed", extra={"items": len(items)})
            if not items:
                await self._intake_one_by_one()
                return []
        # is it the message, or an intake row that came with it?
        await self._halving([])
        try:
            return await self._transaction(items)
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  a poisonous message, whatever it breaks, must not block the next
            return [await self._set_aside(items[0], f"store_failed:{getattr(error, 'sqlstate', None) or type(error).__name__}")]

    async def _set_aside(self, item: Incoming, reason: str) -> admit.Admitted:
        connection = await self.connection()
        judged = admit.admit(item, datetime.now(UTC))
        judged.refusal = (reason, "")
        async with connection.transaction():
            await quarantine.keep(connection, item, reason, "")
        return judged

    async def _intake_one_by_one(self) -> None:
        """Apply intake rows singly, so that only the one that fails is refused.

        Raises Unavailable when a transaction fails with no input at all (a timer, a bug): then nobody is to blame
        but us, and everything waits rather than being refused or going to quarantine.
        """
        try:
            await self._transaction([], intake_limit=0)
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError):
            raise
        except Exception as error:
            raise Unavailable("the steps fail without any input") from error
        self.more_intake = True
        while self.more_intake:
            try:
                await self._transaction([], intake_limit=1)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError):
                raise
            except Exception as error:
                log.exception("intake row failed")
                await self._refuse_first_intake(type(error).__name__)

    async def _refuse_first_intake(self, reason: str) -> None:
        connection = await self.connection()
        async with connection.transaction():
            now = await _now(connection)
            events = await intake.take(connection, 1)
            await intake.finish(connection, {event.intake: f"refused:internal:{reason}" for event in events}, now)

    async def _transaction(self, items: list[Incoming], intake_limit: int = INTAKE_LIMIT) -> list[admit.Admitted]:
        started = time.monotonic()
        connection = await self.connection()
        batch = Batch()
        async with connection.transaction():
            now = await _now(connection)
            batch.events = await intake.take(connection, intake_limit)
            candidates = await self._apply_events(connection, batch)
            judged = [admit.admit(item, now) for item in items]
            candidates += await self._admit(connection, judged)
            entries = await readings.enter(connection, candidates)
            owners = await attribution.attribute(connection, [(e.candidate.device, e.candidate.measurement) for e in entries])
            stored = [(_stored(entry, owner), entry.candidate) for entry, owner in zip(entries, owners, strict=True)]
            await readings.write(connection, stored, now)
            batch.measurements += [item for item, _ in stored]
            await _note_positions(connection, judged)
            wakes = [await step(connection, batch, now) for step in self._steps]
            await intake.finish(connection, {e.intake: batch.results.get(e.intake, "applied") for e in batch.events}, now)
        earliest = min((wake for wake in wakes if wake is not None), default=None)
        self._wake_at = None if earliest is None else started + (earliest - now).total_seconds()
        self.more_intake = len(batch.events) == intake_limit
        metrics.batch_seconds.observe(time.monotonic() - started)
        metrics.measurements_stored.inc(len(entries))
        metrics.duplicates.inc(len(candidates) - len(entries))
        for change in batch.changes:
            metrics.alert_changes.labels(change.family, change.state.value).inc()
        if log.isEnabledFor(logging.DEBUG):
            log.debug("committed", extra={"records": [str(item.measurement.record) for item, _ in stored], "changes": len(batch.changes)})
        return judged

    async def _apply_events(self, connection: Connection, batch: Batch) -> list[Candidate]:
        """Attribution changes at once; measurements that came over HTTPS join the stream here."""
        candidates: list[Candidate] = []
        for event in batch.events:
            try:
                if event.kind in intake.ATTRIBUTION:
                    await attribution.apply(connection, event)
                elif event.kind == "measurement":
                    candidates.append(await _posted(connection, event))
                elif event.kind == "claim":
                    claimed = await readings.claim(connection, int(event.body["measurement"]), str(event.body["resident"]))
                    if claimed is None:
                        raise Refused("already_claimed")
                    batch.measurements.append(claimed)
            except (Refused, BadInput) as error:
                batch.results[event.intake] = f"refused:{error.reason}"
        return candidates

    async def _admit(self, connection: Connection, judged: list[admit.Admitted]) -> list[Candidate]:
        """Known gateways and devices only; everything refused is put into quarantine in this transaction."""
        gateways = await devices.gateways(connection, [one.gateway for one in judged])
        known = await devices.by_name(connection, [m.device for one in judged for m in one.measurements])
        candidates: list[Candidate] = []
        for one in judged:
            if one.wanted and one.refusal is None and gateways.get(one.gateway) != one.site:
                one.refusal, one.measurements, one.gaps, one.pairing = ("unknown_gateway", ""), (), (), None
            for measurement in one.measurements:
                device = known.get(measurement.device)
                if device is None:
                    one.unknown_devices.append(measurement.device)
                else:
                    candidates.append(Candidate(device, measurement, f"mqtt:{one.gateway}", one.sent_at))
            if one.unknown_devices:
                # the bytes are kept whole; its known measurements are stored, and a replay will not double them
                one.refusal = ("unknown_device", "")
            if one.pairing is not None and not await pairing.answer(connection, one.gateway, one.pairing):
                one.refusal = ("unknown_pairing", "")
            await lives.note_gaps(connection, f"mqtt:{one.gateway}", one.gaps)
            if one.refusal is not None:
                await quarantine.keep(connection, one.item, *one.refusal)
        return candidates


async def _now(connection: Connection) -> datetime:
    row = await (await connection.execute("select now() as now")).fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


def _stored(entry: readings.Entry, owner: attribution.Owner) -> Stored:
    device, measurement = entry.candidate.device, entry.candidate.measurement
    return Stored(
        number=entry.number,
        measurement=measurement,
        subject=owner.resident or f"device:{device.device}",
        resident=owner.resident,
        checkin=owner.checkin,
        station=device.station,
        site=device.site,
        weak=tuple(weak_source(measurement, device.bond_protected)),
    )


async def _posted(connection: Connection, event: Event) -> Candidate:
    """A measurement from a kiosk over HTTPS: its body was judged by the API, its device must still be known."""
    measurement = Measurement(**{**event.body, **_times(event)})
    known = await devices.by_name(connection, [measurement.device])
    if measurement.device not in known:
        raise Refused("unknown_device")
    return Candidate(known[measurement.device], measurement, f"https:{event.account}", event.created_at)


def _times(event: Event) -> dict[str, Any]:
    return {"measured_at": datetime.fromisoformat(event.body["measured_at"]), "received_at": event.created_at}


async def _note_positions(connection: Connection, judged: list[admit.Admitted]) -> None:
    seen: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in judged:
        if one.receipt is not None and one.refusal is None:
            seen[f"mqtt:{one.gateway}", one.receipt[0]].append(one.receipt[1])
    await lives.note_positions(connection, seen)


async def _send_receipts(link: Link, judged: list[admit.Admitted]) -> None:
    stored: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    refused: dict[tuple[str, str, str], list[Refusal]] = defaultdict(list)
    for one in judged:
        if one.receipt is None or not one.gateway:
            continue
        key = (one.site, one.gateway, one.receipt[0])
        if one.refusal is None:
            stored[key].append(one.receipt[1])
        else:
            refused[key].append(Refusal(one.receipt[1], one.refusal[0]))
    for site, gateway, boot in stored.keys() | refused.keys():
        key = (site, gateway, boot)
        with contextlib.suppress(Unavailable):  # a receipt may be lost: the message comes again and is answered again
            await link.publish(wire.topic(site, gateway, "down", "receipt"), wire.encode_receipt(boot, stored[key], refused[key]))


class _Hints:
    """LISTEN on intake and outbox; each sets an event. Survives the database: a hint lost costs LONGEST_SLEEP."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self.intake, self.outbox = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                async with await database.connect(self._conninfo, autocommit=True) as connection:
                    await connection.execute("listen intake")
                    await connection.execute("listen outbox")
                    self.intake.set()
                    self.outbox.set()
                    async for note in connection.notifies():
                        (self.intake if note.channel == "intake" else self.outbox).set()
            except (psycopg.Error, OSError):
                await asyncio.sleep(1)


async def run(settings: Settings, steps: Sequence[Step], stop: asyncio.Event) -> None:
    """The worker process of the embedded composition, until `stop`."""
    conninfo = settings.database()
    worker = Worker(conninfo, steps, settings.batch_limit)
    hints = _Hints(conninfo)
    password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None
    link = Link(
        settings.mqtt_host,
        settings.mqtt_port,
        settings.mqtt_user or "worker",
        user=settings.mqtt_user or "worker",
        password=password,
        ca=settings.mqtt_ca,
        window=settings.mqtt_window,
        subscriptions=SUBSCRIPTIONS,
    )
    metrics.serve(settings.metrics_port)
    async with link, asyncio.TaskGroup() as tasks:
        helpers = [
            tasks.create_task(hints.run()),
            tasks.create_task(_send_outbox(conninfo, link, hints.outbox)),
        ]
        main = tasks.create_task(_consume(worker, MqttSource(link), link, hints.intake, settings.batch_limit, stop))
        await main
        for helper in helpers:
            helper.cancel()


async def _consume(worker: Worker, source: Source, link: Link, hint: asyncio.Event, limit: int, stop: asyncio.Event) -> None:
    first = True
    while not stop.is_set():
        if not first and not worker.more_intake:
            await _sleep(worker, source, hint, stop)
        first = False
        hint.clear()
        items = source.take(limit)
        judged = await _unless_stopped(worker.process(items), stop)
        if judged is None:
            break  # the database stayed away until we were told to stop: nothing is acknowledged, all of it comes again
        source.done(items)
        await _send_receipts(link, judged)
    await worker.close()


async def _unless_stopped(work: Coroutine[Any, Any, list[admit.Admitted]], stop: asyncio.Event) -> list[admit.Admitted] | None:
    """The result of a transaction; None if it could not finish within STOP_GRACE after the stop signal."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        await asyncio.wait([working], timeout=STOP_GRACE)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return None


async def _sleep(worker: Worker, source: Source, hint: asyncio.Event, stop: asyncio.Event) -> None:
    """Until a message, a hint, the stop signal, or the time a step asked for."""
    if source.waiting() or hint.is_set():
        return
    seconds = worker.idle_seconds()
    waits = [asyncio.ensure_future(wait) for wait in (source.wait(), hint.wait(), stop.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _send_outbox(conninfo: str, link: Link, hint: asyncio.Event) -> None:
    while True:
        with contextlib.suppress(psycopg.Error, OSError):
            async with await database.connect(conninfo) as connection:
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LONGEST_SLEEP):
                            await hint.wait()
                    hint.clear()
                    await link.connected.wait()
                    while await outbox.send(connection, link):
                        pass
        await asyncio.sleep(1)
