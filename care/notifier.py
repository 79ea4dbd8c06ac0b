"""The notifier's loop: tells due rungs, hands notices to jobs, looks after what killed processes left behind.

Any number of notifiers may run. Time is the database's; a clock of this machine that jumps changes only how long we sleep, and we never
sleep longer than a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import procrastinate
import psycopg
from procrastinate import exceptions

from care import indicators, ladders, notices, plans
from care.identity import Seal
from care.notices import Send, clock
from ingest import health
from vitals.floor import database
from vitals.floor.database import Connection, Pool
from vitals.settings import Settings

log = logging.getLogger("care.notifier")

SLEEP = 5.0  # s at most between two looks
HEARTBEAT = 10.0  # s between a job worker's signs of life
STALLED = 60.0  # s without one until it counts as gone
FROZEN = "15s"  # a transaction of ours that stands still this long is ended by the database
AT_ONCE = 20  # tries side by side
CHANNEL = "ladder"


class Clock:
    """The database's time, which should never go back; when it does, what was due stays due.

    How much time passed is measured here as well (a clock of the machine that nobody sets). What the database's clock lost against it is
    added until it comes forward again; what it once gained is believed (a machine may have slept) and taken off what it loses later.
    """

    JUMP = 60.0  # s; less is drift

    def __init__(self) -> None:
        self._last: tuple[datetime, float] | None = None
        self.gained = self.lost = 0.0

    def at(self, told: datetime, here: float) -> datetime:
        if self._last is not None:
            jump = (told - self._last[0]).total_seconds() - (here - self._last[1])
            if abs(jump) > self.JUMP:
                log.warning("the database's clock jumped", extra={"seconds": round(jump)})
                paid = min(self.lost, jump) if jump > 0 else -min(self.gained, -jump)
                self.lost -= max(paid, 0) + min(jump - paid, 0)
                self.gained += min(paid, 0) + max(jump - paid, 0)
        self._last = told, here
        return told + timedelta(seconds=self.lost)


async def install(conninfo: str) -> bool:
    """The job queue's own tables, once. Returns whether they were made."""
    async with await database.connect(conninfo) as connection:
        await connection.execute("select pg_advisory_xact_lock(hashtext('yizhan jobs'))")
        row = await (await connection.execute("select to_regclass('procrastinate_jobs') is not null as there")).fetchone()
        assert row is not None
        if not row["there"]:
            await connection.execute(procrastinate.schema.SchemaManager.get_schema())
        await connection.commit()
        return not row["there"]


class Notifier:
    """One process of it. send: how a notice leaves."""

    def __init__(
        self, conninfo: str, pool: Pool, seal: Seal, zone: str, send: Send = notices.send, elapsed: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._conninfo, self._pool, self._seal, self._zone, self._send = conninfo, pool, seal, zone, send
        self._clock, self._elapsed = Clock(), elapsed
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo, min_size=1, max_size=4))
        self._job = self.app.task(name="tell", queue="notices")(self._tell)
        self._plans = self.app.periodic(cron="7 * * * *")(self.app.task(name="plan", queue="plans", queueing_lock="plan")(self._plan))

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        async with self.app.open_async():
            working = asyncio.create_task(self._work())
            try:
                async with self._woken() as wake:
                    while not stop.is_set():
                        pause = await self._look()
                        waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stop.wait())]
                        await asyncio.wait(waits, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                        for one in waits:
                            one.cancel()
                        wake.clear()
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

    async def _work(self) -> None:
        """The jobs. A worker that was frozen longer than others waited for it is struck off their list and ends: a new one begins."""
        while True:
            try:
                await self.app.run_worker_async(
                    concurrency=AT_ONCE, install_signal_handlers=False, delete_jobs="always", update_heartbeat_interval=HEARTBEAT,
                    stalled_worker_timeout=STALLED, fetch_job_polling_interval=SLEEP, shutdown_graceful_timeout=notices.CALL,
                )  # fmt: skip
            except (exceptions.ConnectorException, psycopg.Error, OSError):
                log.warning("the jobs' worker ended; another begins", exc_info=True)
            await asyncio.sleep(1)

    async def _look(self) -> float:
        """Everything that is due; returns how long to wait. The database may be away: then we look again."""
        try:
            while await self.step():
                pass
            async with self._pool.connection() as connection:
                now = await self._now(connection)
                for notice in await notices.left_over(connection, now):
                    await self._hand_over(connection, notice)
                due = await ladders.next_due(connection)
            return SLEEP if due is None else min(max((due - now).total_seconds(), 0.02), SLEEP)
        except (psycopg.OperationalError, psycopg.InternalError, exceptions.ConnectorException, OSError, TimeoutError):
            log.warning("the database is away")
            return 1.0

    async def step(self) -> bool:
        """One transaction: tell the most overdue rung and make the jobs that send it. Returns whether there was one."""
        async with self._pool.connection() as connection:
            await connection.execute(f"set local idle_in_transaction_session_timeout = '{FROZEN}'")
            now = await self._now(connection)
            rung = await ladders.take(connection, now)
            if rung is not None:
                for notice in await ladders.tell(connection, rung, now, self._zone):
                    await self._hand_over(connection, notice)
        return rung is not None

    async def _hand_over(self, connection: Connection, notice: int, at: datetime | None = None) -> bool:
        """A job for a try; False if one waits already. A job whose worker died leaves none waiting, so the next look makes another."""
        try:
            async with connection.transaction():
                job = self._job.configure(queueing_lock=f"notice-{notice}", schedule_at=at, connection=connection)
                await job.defer_async(notice=notice)
        except exceptions.AlreadyEnqueued:
            return False
        return True

    async def _tell(self, notice: int) -> None:
        again = await notices.attempt(self._pool, self._seal, notice, self._send, self._now)
        if again is not None:
            async with self._pool.connection() as connection:
                await self._hand_over(connection, notice, again)

    async def _plan(self, timestamp: int) -> None:
        """What the calendar asks for; hourly, so that a night this process did not see costs nothing."""
        async with self._pool.connection() as connection:
            now = await self._now(connection)
            made = await plans.daily(connection, now, self._zone)
            await health.look(connection, now)
            figures = await indicators.daily(connection, now, self._zone)
        log.info("plans looked at", extra={"new": made, "figures": figures})

    async def _now(self, connection: Connection) -> datetime:
        return self._clock.at(await clock(connection), self._elapsed())

    @contextlib.asynccontextmanager
    async def _woken(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set when somebody lays a ladder."""
        wake = asyncio.Event()

        async def listen() -> None:
            while True:
                try:
                    async with await database.connect(self._conninfo, autocommit=True) as connection:
                        await connection.execute(f"listen {CHANNEL}")
                        wake.set()
                        async for _ in connection.notifies():
                            wake.set()
                except (psycopg.Error, OSError):
                    await asyncio.sleep(1)

        task = asyncio.create_task(listen())
        try:
            yield wake
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """`yizhan notifier`."""
    seal = Seal(settings.sealing())
    async with database.pool(settings.database(), settings.database_pool) as pool:
        log.info("notifier started")
        await Notifier(settings.database(), pool, seal, settings.zone).run(stop)
