"""Spool to broker: publish, wait for the backend's receipt, publish again what has none.

A PUBACK proves nothing (brokers lose what they acknowledged), so only a receipt empties the spool. What has no
receipt is published again after every reconnection and on a timer, at growing intervals, a bounded window at a
time; a danger value never waits behind a backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from gateway.spool import LANE_PRIORITY, Record, Spool
from vitals import wire
from vitals.errors import BadInput, Unavailable
from vitals.floor import metrics
from vitals.floor.mqtt import Delivery, Link
from vitals.wire import PairingReport

log = logging.getLogger("gateway.uplink")

WINDOW = 200  # messages without a receipt
RESERVE = 50  # more of them for the priority lane
CHUNK = 50
LONGEST_INTERVAL = 60.0
STATUS_GRACE = 0.3  # s the broker has to throw us out over the status topic
STATUS_RETRY = 300.0


class Outstanding:
    """Which messages are on their way, and when each is due again. Pure but for the `now` it is given (monotonic s)."""

    def __init__(self, first_interval: float) -> None:
        self._first = first_interval
        self._due: dict[tuple[str, int], tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._due)

    def select(self, waiting: list[Record], now: float) -> list[Record]:
        """What to publish now: due repeats, and new records while the window has room."""
        room, reserve = WINDOW - len(self._due), WINDOW + RESERVE - len(self._due)
        chosen = []
        for record in waiting:
            known = self._due.get((record.boot, record.seq))
            if known is not None:
                if known[0] <= now:
                    chosen.append(record)
            elif room > 0 or (record.lane == LANE_PRIORITY and reserve > 0):
                room, reserve = room - 1, reserve - 1
                chosen.append(record)
        return chosen

    def sent(self, record: Record, now: float) -> None:
        """Note a publication; the next one is due after an interval that doubles each time."""
        known = self._due.get((record.boot, record.seq))
        interval = self._first if known is None else min(known[1] * 2, LONGEST_INTERVAL)
        self._due[record.boot, record.seq] = (now + interval, interval)

    def settled(self, boot: str, first: int, last: int) -> None:
        for key in [k for k in self._due if k[0] == boot and first <= k[1] <= last]:
            del self._due[key]

    def all_due(self) -> None:
        """A new connection: everything without a receipt goes again, at the first interval."""
        self._due = dict.fromkeys(self._due, (0.0, self._first))

    def next_due(self) -> float | None:
        return min((due for due, _ in self._due.values()), default=None)


class Uplink:
    """One gateway's traffic on one link. `wake` it after every `Spool.append`."""

    def __init__(self, spool: Spool, site: str, gateway: str, resend_after: float) -> None:
        self._spool = spool
        self._readings = wire.topic(site, gateway, "up", "readings")
        self._status = wire.topic(site, gateway, "up", "status")
        self._down = {wire.topic(site, gateway, "down", what): what for what in wire.DOWN}
        self.on_command: Callable[[dict[str, Any]], None] | None = None
        self._pairing = wire.topic(site, gateway, "up", "pairing")
        self._reports: list[PairingReport] = []
        self._outstanding = Outstanding(resend_after)
        self._wake = asyncio.Event()
        self._reconnected = False
        self._told_on: date | None = None
        self._status_refusals = 0
        self._status_muted_until = 0.0

    @property
    def subscriptions(self) -> list[str]:
        return list(self._down)

    def report(self, report: PairingReport) -> None:
        """Answer a pairing command, now or as soon as there is a connection."""
        self._reports.append(report)
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def on_connected(self) -> None:
        self._reconnected = True
        self._wake.set()

    async def run(self, link: Link) -> None:
        """Publish and take receipts, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_loop(link))
            tasks.create_task(self._receive_loop(link))

    async def _publish_loop(self, link: Link) -> None:
        while True:
            await link.connected.wait()
            if self._reconnected:
                self._reconnected = False
                self._outstanding.all_due()
                await self._announce(link)
            self._wake.clear()
            today = datetime.now(UTC).date()
            if today != self._told_on:  # after a start, and after each midnight (UTC)
                self._spool.tell_days()
                self._told_on = today
            with contextlib.suppress(Unavailable):
                while self._reports:
                    await link.publish(self._pairing, wire.encode_pairing(self._reports[0]))
                    self._reports.pop(0)
                chosen = self._outstanding.select(self._spool.waiting(WINDOW + RESERVE + CHUNK), time.monotonic())
                for at in range(0, len(chosen), CHUNK):
                    await self._publish(link, chosen[at : at + CHUNK])
            metrics.spool_depth.set(self._spool.depth())
            due = self._outstanding.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.05, due - time.monotonic())):
                    await self._wake.wait()

    async def _publish(self, link: Link, records: list[Record]) -> None:
        now = datetime.now(UTC)
        for record in records:
            self._outstanding.sent(record, time.monotonic())
            log.debug("published", extra={"boot": record.boot, "seq": record.seq})
        metrics.messages_published.inc(len(records))
        payloads = [wire.encode_message(r.boot, r.seq, now, [r.body], r.day) for r in records]
        results = await asyncio.gather(*(link.publish(self._readings, payload) for payload in payloads), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _announce(self, link: Link) -> None:
        """Publish the status, unless this broker throws us out for it: readings matter more."""
        if time.monotonic() < self._status_muted_until:
            return
        state = json.dumps({"state": "online", "boot": self._spool.boot, "at": wire.text_of(datetime.now(UTC))})
        asyncio.get_running_loop().call_later(STATUS_GRACE, self._judge_status, link, link.epoch)
        with contextlib.suppress(Unavailable):
            # QoS 0: a refused status must not be repeated by the client itself after the reconnection
            await link.publish(self._status, state.encode(), qos=0, retain=True)
        if self._status_refusals:
            await asyncio.sleep(STATUS_GRACE)  # alone on the line, so that we know what we were thrown out for

    def _judge_status(self, link: Link, epoch: int) -> None:
        if link.epoch == epoch:
            self._status_refusals = 0
            return
        self._status_refusals += 1
        if self._status_refusals >= 2:
            log.warning("status topic refused, muted", extra={"seconds": STATUS_RETRY})
            self._status_muted_until = time.monotonic() + STATUS_RETRY

    async def _receive_loop(self, link: Link) -> None:
        while True:
            delivery = await link.deliveries.get()
            try:
                self._receive(delivery)
            except BadInput as error:
                log.warning("unusable message from the backend", extra={"reason": error.reason})
            link.acknowledge(delivery)

    def _receive(self, delivery: Delivery) -> None:
        match self._down.get(delivery.topic):
            case "receipt":
                receipt = wire.decode_receipt(delivery.payload)
                self._spool.settle(receipt.boot, receipt.stored, receipt.quarantined)
                for first, last in receipt.stored:
                    self._outstanding.settled(receipt.boot, first, last)
                for refusal in receipt.quarantined:
                    log.warning("message went to quarantine", extra={"seq": refusal.seq, "reason": refusal.reason})
                    self._outstanding.settled(receipt.boot, refusal.seq, refusal.seq)
                self._wake.set()
            case "command":
                try:
                    command = json.loads(delivery.payload)
                except (ValueError, RecursionError):
                    raise BadInput("not_json") from None
                if not isinstance(command, dict):
                    raise BadInput("bad_command")
                if self.on_command is not None:
                    self.on_command(command)
