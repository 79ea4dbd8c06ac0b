"""The room's processes: the worker of either composition, and the bridge between broker and Kafka.

*embedded*: broker → worker, which acknowledges after its commit. *distributed*: broker → bridge → Kafka → workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import psycopg

from ingest import admit, lives, outbox, receipts, stream
from ingest.batch import Incoming, Source, Step
from ingest.mqtt_source import SUBSCRIPTIONS, MqttSource
from ingest.worker import LONGEST_SLEEP, Worker
from vitals.errors import Unavailable
from vitals.floor import database, metrics
from vitals.floor.mqtt_reader import Reader
from vitals.settings import Settings

log = logging.getLogger("ingest.service")

BOOKS_EVERY = 600.0  # s
AHEAD_FROM = 50  # messages in a transaction from which on the next ones are judged beside it
STOP_GRACE = 5.0  # s for a transaction to finish after the stop signal


class Hints:
    """LISTEN on channels; each sets its event. Survives the database: a hint lost costs LONGEST_SLEEP."""

    def __init__(self, conninfo: str, *channels: str) -> None:
        self._conninfo = conninfo
        self.of = {channel: asyncio.Event() for channel in channels}

    async def run(self) -> None:
        while True:
            try:
                async with await database.connect(self._conninfo, autocommit=True) as connection:
                    for channel, event in self.of.items():
                        await connection.execute(f"listen {channel}")
                        event.set()
                    async for note in connection.notifies():
                        self.of[note.channel].set()
            except (psycopg.Error, OSError):
                await asyncio.sleep(1)


def backend_link(settings: Settings, subscriptions: Sequence[str]) -> Reader:
    """The backend's connection to the broker."""
    user = settings.mqtt_user or "worker"
    password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None
    return Reader(
        settings.mqtt_host, settings.mqtt_port, user, user=user, password=password, ca=settings.mqtt_ca, window=settings.mqtt_window,
        subscriptions=subscriptions,
    )  # fmt: skip


async def run(settings: Settings, steps: Sequence[Step], stop: asyncio.Event) -> None:
    """The worker process, until `stop`: fed by Kafka where its address is set, else by the broker."""
    metrics.serve(settings.metrics_port)
    if settings.kafka_servers is not None:
        await _run_on_kafka(settings, steps, stop)
    else:
        await _run_on_mqtt(settings, steps, stop)


async def _run_on_mqtt(settings: Settings, steps: Sequence[Step], stop: asyncio.Event) -> None:
    conninfo = settings.database()
    hints = Hints(conninfo, "intake", "outbox")
    link = backend_link(settings, SUBSCRIPTIONS)
    source = MqttSource(link)
    worker = Worker(conninfo, steps, source)

    async def answer(judged: list[admit.Admitted]) -> None:
        await receipts.send(link, judged)

    async with link, asyncio.TaskGroup() as tasks:
        helpers = [
            tasks.create_task(hints.run()),
            tasks.create_task(send_outbox(conninfo, link, hints.of["outbox"])),
            tasks.create_task(watch_books(conninfo)),
        ]
        await tasks.create_task(_consume(worker, source, answer, hints.of["intake"], settings.batch_limit, stop))
        for helper in helpers:
            helper.cancel()


async def _run_on_kafka(settings: Settings, steps: Sequence[Step], stop: asyncio.Event) -> None:
    from ingest.kafka_source import KafkaSource
    from vitals.floor import kafka

    conninfo = settings.database()

    async def answered(_judged: list[admit.Admitted]) -> None:
        """The receipts are rows of the same transaction; a bridge sends them."""

    async with KafkaSource(conninfo, kafka.options(settings), name=settings.worker_name) as source:
        worker = Worker(conninfo, steps, source, relayed=True)
        await _consume(worker, source, answered, asyncio.Event(), settings.batch_limit, stop)


async def _consume(
    worker: Worker,
    source: Source,
    answer: Callable[[list[admit.Admitted]], Coroutine[Any, Any, None]],
    hint: asyncio.Event,
    limit: int,
    stop: asyncio.Event,
) -> None:
    first = True
    ahead: tuple[list[Incoming], asyncio.Future[list[admit.Admitted]]] | None = None
    while not stop.is_set():
        if not first and not worker.more_intake and ahead is None:
            await _sleep(worker, source, hint, stop)
        first = False
        hint.clear()
        if ahead is not None:
            items, judging = ahead
            work = worker.process(items, await judging)
        else:
            items = source.take(limit)
            work = worker.process(items)
        # while the database works, the next messages are judged: under load it is waited for a sixth of the time
        ahead = None
        if len(items) >= AHEAD_FROM and source.waiting():
            following = source.take(limit)
            ahead = following, asyncio.ensure_future(asyncio.to_thread(worker.judge, following))
        judged = await _unless_stopped(work, stop)
        if judged is None:
            break  # the database stayed away until we were told to stop: nothing is acknowledged, all of it comes again
        source.done(items)
        await answer(judged)
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


async def send_outbox(conninfo: str, link: Reader, hint: asyncio.Event) -> None:
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


async def watch_books(conninfo: str) -> None:
    """Compare the gateways' books with ours now and then, for ever; a difference is logged as an error and counted."""
    while True:
        with contextlib.suppress(psycopg.Error, OSError):
            async with await database.connect(conninfo) as connection:
                await stream.forget_parts(connection)
                await lives.reconcile(connection)
        await asyncio.sleep(BOOKS_EVERY)


async def send_receipts(conninfo: str, link: Reader, hint: asyncio.Event) -> None:
    """Forward the receipts that workers wrote, for ever."""
    while True:
        with contextlib.suppress(psycopg.Error, OSError, Unavailable):
            async with await database.connect(conninfo) as connection:
                while True:
                    await link.connected.wait()
                    hint.clear()
                    while await receipts.forward(connection, link):
                        pass
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LONGEST_SLEEP):
                            await hint.wait()
        await asyncio.sleep(0.5)
