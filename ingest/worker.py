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
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from ingest import admit, attribution, devices, intake, lives, pairing, quarantine, readings, receipts, stream
from ingest.batch import Batch, Event, Incoming, Source, Step, Stored
from ingest.readings import Candidate
from ingest.stream import Fenced
from vitals.errors import BadInput, Refused, Unavailable
from vitals.floor import database, metrics
from vitals.floor.database import Connection
from vitals.measurement import Measurement, weak_source

log = logging.getLogger("ingest.worker")

LONGEST_SLEEP = 5.0  # s; a notification is only a hint, so look by ourselves now and then
RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0
INTAKE_LIMIT = 200
MOVES = frozenset({"claim", "reattribute", "rebind"})  # intake kinds by which measurements change hands
PASSING = (psycopg.OperationalError, psycopg.InterfaceError, OSError)  # the database's trouble, not a message's


class Worker:
    """Owns one database connection; `process` is one transaction over `items`.

    source: where the items come from; None (tests) for messages that need no position. With `relayed`, intake rows
    come through the source like everything else and receipts leave as rows; without it, they are looked up here.
    """

    def __init__(self, conninfo: str, steps: Sequence[Step], source: Source | None = None, *, relayed: bool = False) -> None:
        self._conninfo = conninfo
        self._steps = steps
        self._source = source
        self._relayed = relayed
        self._registry = devices.Registry()
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

    def judge(self, items: list[Incoming]) -> list[admit.Admitted]:
        """Judge messages ahead of their transaction; what is judged here need not be judged there."""
        return [admit.admit(item, datetime.now(UTC)) for item in items]

    async def process(self, items: list[Incoming], judged: list[admit.Admitted] | None = None) -> list[admit.Admitted]:
        """Commit these messages and whatever intake waits; retries for ever while the database is away.

        judged: what `judge` said of the same items, if it was asked before.
        """
        unsure = judged is not None
        if judged is not None:
            try:
                return await self._transaction(items, judged=judged)
            except Exception as error:  # noqa: BLE001  whatever it is, the way below finds out, with messages judged anew
                log.info("judged ahead for nothing", extra={"error": type(error).__name__})
                await self._forget_connection()
        wait = RETRY_FIRST
        while True:
            try:
                if unsure and self._source is not None:
                    items = await self._source.still_waiting(await self.connection(), items)
                    await (await self.connection()).rollback()
                return await self._halving(items)
            except Fenced as error:
                # whoever reads this now begins where the last commit ended
                log.warning("fenced", extra={"items": len(items), "text": str(error)})
                metrics.fenced.inc()
                with contextlib.suppress(*PASSING):
                    if self._source is not None:
                        connection = await self.connection()
                        await self._source.rewind(connection, items)
                        await connection.rollback()
                return []
            except (*PASSING, Unavailable) as error:
                unsure = True
                log.warning("cannot commit, nothing acknowledged", extra={"error": type(error).__name__, "items": len(items)})
                await self._forget_connection()
                await asyncio.sleep(wait)
                wait = min(wait * 2, RETRY_LONGEST)

    async def _forget_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await self._connection.close()
        self._connection = None

    async def _halving(self, items: list[Incoming]) -> list[admit.Admitted]:
        try:
            return await self._transaction(items)
        except (*PASSING, Unavailable):
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
        except (*PASSING, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001  a poisonous message, whatever it breaks, must not block the next
            return [await self._set_aside(items[0], f"store_failed:{getattr(error, 'sqlstate', None) or type(error).__name__}")]

    async def _set_aside(self, item: Incoming, reason: str) -> admit.Admitted:
        connection = await self.connection()
        judged = admit.admit(item, datetime.now(UTC))
        judged.refusal = (reason, "")
        async with connection.transaction():
            await quarantine.keep(connection, item, reason, "")
            await self._conclude(connection, [item], [judged])
        self._committed([item])
        return judged

    async def _conclude(self, connection: Connection, items: list[Incoming], judged: list[admit.Admitted]) -> None:
        """The end of every transaction: what came in parts is put together, receipts and position are written."""
        if self._relayed:
            await stream.settle_parts(connection, judged)
        await lives.note_positions(connection, judged)
        if self._relayed:
            await receipts.put(connection, judged)
            if self._source is not None:
                await self._source.seal(connection, items)

    def _committed(self, items: list[Incoming]) -> None:
        if self._source is not None:
            self._source.committed(items)

    async def _intake_one_by_one(self) -> None:
        """Apply intake rows singly, so that only the one that fails is refused.

        Raises Unavailable when a transaction fails with no input at all (a timer, a bug): then nobody is to blame
        but us, and everything waits rather than being refused or going to quarantine.
        """
        try:
            await self._transaction([], intake_limit=0)
        except (*PASSING, Unavailable):
            raise
        except Exception as error:
            raise Unavailable("the steps fail without any input") from error
        self.more_intake = True
        while self.more_intake:
            try:
                await self._transaction([], intake_limit=1)
            except (*PASSING, Unavailable):
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

    async def _transaction(
        self, items: list[Incoming], intake_limit: int = INTAKE_LIMIT, judged: list[admit.Admitted] | None = None
    ) -> list[admit.Admitted]:  # fmt: skip
        started = time.monotonic()
        connection = await self.connection()
        batch = Batch(mine=self._source.mine) if self._source is not None else Batch()
        try:
            async with connection.transaction():
                now = await _now(connection)
                if self._relayed:
                    numbers = [int(item.payload) for item in items if item.topic == admit.INTAKE]
                    batch.events = await intake.named(connection, numbers)
                else:
                    batch.events = await intake.take(connection, intake_limit)
                candidates = await self._apply_events(connection, batch)
                if judged is None:
                    judged = [admit.admit(item, now) for item in items]
                candidates += await self._admit(connection, judged)
                candidates += await self._replay(connection, batch, now)
                entries = await readings.enter(connection, candidates)
                owners = await attribution.attribute(connection, [(e.candidate.device, e.candidate.measurement) for e in entries])
                stored = [(_stored(entry, owner), entry.candidate) for entry, owner in zip(entries, owners, strict=True)]
                await readings.write(connection, stored, now)
                batch.measurements += [item for item, _ in stored]
                wakes = [await step(connection, batch, now) for step in self._steps]
                await intake.finish(connection, {e.intake: batch.results.get(e.intake, "applied") for e in batch.events}, now)
                await self._conclude(connection, items, judged)
        except BaseException:
            for forget in batch.undo:
                forget()
            raise
        self._committed(items)
        earliest = min((wake for wake in wakes if wake is not None), default=None)
        self._wake_at = None if earliest is None else started + (earliest - now).total_seconds()
        self.more_intake = not self._relayed and len(batch.events) == intake_limit
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
                elif event.kind in MOVES:
                    await _move(connection, batch, event)
                elif event.kind in ("arrived", "taken"):
                    await _arrived(connection, batch, event)
            except (Refused, BadInput) as error:
                batch.results[event.intake] = f"refused:{error.reason}"
        return candidates

    async def _replay(self, connection: Connection, batch: Batch, now: datetime) -> list[Candidate]:
        """Quarantined messages that somebody wants read again; the ledger makes a second replay none. Their receipt was sent long ago."""
        candidates: list[Candidate] = []
        for event in batch.events:
            if event.kind == "replay":
                item = await quarantine.read(connection, int(event.body["quarantine"]))
                if item is None:
                    batch.results[event.intake] = "refused:nothing_to_replay"
                    continue
                judged = admit.admit(item, now)
                candidates += await self._admit(connection, [judged])
                outcome = "stored" if judged.refusal is None else f"refused:{judged.refusal[0]}"
                await quarantine.replayed(connection, int(event.body["quarantine"]), outcome)
                if judged.refusal is not None:
                    batch.results[event.intake] = outcome
        return candidates

    async def _admit(self, connection: Connection, judged: list[admit.Admitted]) -> list[Candidate]:
        """Known gateways and devices only; everything refused is put into quarantine in this transaction."""
        await self._registry.look(connection)
        gateways = await self._registry.gateways(connection, {one.gateway for one in judged})
        await lives.note_status(
            connection, {o.gateway: o.online for o in judged if o.online is not None and gateways.get(o.gateway) == o.site}
        )
        known = await self._registry.devices(connection, {m.device for one in judged for m in one.measurements})
        candidates: list[Candidate] = []
        for one in judged:
            source = f"mqtt:{one.gateway}"
            if one.wanted and one.refusal is None and gateways.get(one.gateway) != one.site:
                one.refusal, one.measurements, one.gaps, one.pairing = ("unknown_gateway", ""), (), (), None
            for measurement in one.measurements:
                device = known.get(measurement.device)
                if device is None:
                    one.unknown_devices.append(measurement.device)
                else:
                    candidates.append(Candidate(device, measurement, source, one.sent_at))
            if one.unknown_devices:
                # the bytes are kept whole; its known measurements are stored, and a replay will not double them
                one.refusal = ("unknown_device", "")
            if one.pairing is not None and not await pairing.answer(connection, one.gateway, one.pairing):
                one.refusal = ("unknown_pairing", "")
            if one.gaps:
                await lives.note_gaps(connection, source, one.gaps)
            if one.tallies:
                await lives.note_reports(connection, source, one.tallies)
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


async def _move(connection: Connection, batch: Batch, event: Event) -> None:
    """What was measured belongs to somebody else than was thought: claimed, attributed anew, or worn by another.

    Those it belongs to now hear of it like of any other measurement (by the law of late data); those it is taken from are
    looked at again. Raises Refused.
    """
    body = event.body
    resident = body.get("resident")
    why = str(body.get("why", event.kind))
    if event.kind == "rebind":
        since = datetime.fromisoformat(body["since"])
        until = datetime.fromisoformat(body["until"]) if body.get("until") else None
        before = await attribution.rebind(connection, str(body["device"]), resident, since, until)
        numbers = await readings.of_device(connection, str(body["device"]), before, since, until)
    else:
        numbers = [int(body["measurement"])]
    taken = await readings.move(connection, numbers, resident, event.account, why)
    if event.kind == "claim" and not any(subject.startswith("device:") for subject in taken):
        raise Refused("already_claimed")
    if event.kind == "reattribute" and not taken:
        raise Refused("already_theirs")
    arrived: dict[str, list[int]] = {}
    for subject, moved in taken.items():
        if batch.mine(subject):
            batch.taken.setdefault(subject, set()).update(one.number for one in moved)
        else:  # one writer for each person: theirs looks again
            await intake.submit(connection, "taken", {"measurements": [one.number for one in moved]}, event.account, subject)
        for one in moved:
            if batch.mine(one.subject):
                batch.measurements.append(one)
            else:
                arrived.setdefault(one.subject, []).append(one.number)
    for subject, numbers in arrived.items():
        await intake.submit(connection, "arrived", {"measurements": numbers}, event.account, subject)


async def _arrived(connection: Connection, batch: Batch, event: Event) -> None:
    """What another worker moved: measurements that came to this person, or were taken from them. What moved on since is left alone."""
    numbers = [int(number) for number in event.body["measurements"]]
    if event.kind == "taken" and event.subject is not None:
        batch.taken.setdefault(event.subject, set()).update(numbers)
        return
    found = [readings.stored_of(row) for row in await readings.by_number(connection, numbers)]
    batch.measurements += sorted((one for one in found if one.subject == event.subject), key=lambda one: one.number)


async def _posted(connection: Connection, event: Event) -> Candidate:
    """A measurement from a kiosk over HTTPS: its body was judged by the API, its device must still be known."""
    measurement = Measurement(**{**event.body, **_times(event)})
    known = await devices.by_name(connection, [measurement.device])
    if measurement.device not in known:
        raise Refused("unknown_device")
    return Candidate(known[measurement.device], measurement, f"https:{event.account}", event.created_at)


def _times(event: Event) -> dict[str, Any]:
    return {"measured_at": datetime.fromisoformat(event.body["measured_at"]), "received_at": event.created_at}
