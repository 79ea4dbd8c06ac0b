"""One conversation with one connected device: bond, clock, consent, subscriptions, stored records; then listen.

What differs between models comes from their row in the table, never from a branch on a name. Indications are made
durable in the turn of the event loop that brought them, together, because the host has confirmed them already and a
transaction for each would fall behind a burst; numbered histories arrive as notifications that can be asked for
again, so they are gathered a little longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from bleak import BleakClient
from bleak.exc import BleakError

from gateway import omron_memory
from gateway.clock import ClockReading
from gateway.device_clock import DeviceClock
from gateway.devices import Device
from gateway.store import Store
from gateway.translate import Frame
from vitals import gatt
from vitals.device_model import Memory
from vitals.errors import DecodeError, Unavailable
from vitals.gatt.cgm import GlucoseRecords, SessionStart
from vitals.gatt.glucose import GlucoseContext, GlucoseMeasurement
from vitals.gatt.records import SEQUENCE, Answer, Op, Operator, RecordAccess
from vitals.gatt.scale import CONSENT, USER_SUCCESS, UserControl, WeightMeasurement

log = logging.getLogger("gateway.session")

QUIET_LIMIT = 10.0  # s without a frame after which we hang up ourselves
STREAM_QUIET = 30.0  # s, for a device that sends as long as it is worn
TRANSFER_QUIET = 30.0  # s without a record after which a transfer is aborted
ANSWER_LIMIT = 10.0
REQUESTS, REQUEST_PAUSE = 3, 0.3
GATHER = 0.05  # s of notifications made durable together
LAST_NUMBER = 0xFFFF
UNKNOWN_SESSION = "unknown-session"

# what is subscribed to, in this order: a context before the value that announces it, control points last
MEASUREMENTS = ("2A34", "2A18", "2AA7", "2A35", "2B34", "2A37", "2A5E", "2A5F", "2A1C", "2A9D", "2A9C", "2B40", "2B42")
RACP = "2A52"


@dataclass(slots=True)
class _Transfer:
    """A request for records under way: what came, and how it ended."""

    probing: bool = False  # only looking at the newest record
    newest: bytes | None = None
    answer: int | None = None


class Session:
    """One connection. `run` returns how many frames came; raises BleakError, TimeoutError or Unavailable."""

    def __init__(
        self, client: BleakClient, device: Device, store: Store, zone: ZoneInfo, gone: asyncio.Event, fail: Callable[[Exception], None]
    ) -> None:
        self._client, self._device, self._store, self._zone, self._gone, self._fail = client, device, store, zone, gone, fail
        self._heard = asyncio.Event()
        self._answered = asyncio.Event()
        self._transfer = _Transfer()
        self._clock: ClockReading | None = None
        self._written: ClockReading | None = None
        self._session_start: SessionStart | None = None
        self._weight: WeightMeasurement | None = None
        self._newest_offset: int | None = None
        self._newest_number: int | None = None
        self._reading = False  # the history was asked for in this session
        self._indicated: list[Frame] = []  # of this turn of the event loop
        self._gathered: list[Frame] = []
        self._held: Frame | None = None  # a glucose value whose context is still to come
        self._high: tuple[str, int, str] | None = None
        self._consented: asyncio.Future[int] | None = None
        self.frames = 0

    def _has(self, name: str) -> bool:
        return self._client.services.get_characteristic(gatt.uuid16(int(name, 16))) is not None

    async def run(self) -> int:
        model = self._device.model
        if model.memory is not None:
            return await self._read_memory(model.memory)
        device_clock = DeviceClock(self._client, self._device, self._store, self._zone)
        self._clock = await device_clock.read()
        if model.time == "write" and (self._clock is None or self._clock.wrong(self._zone)):
            self._written = await device_clock.write()
        if model.consent:
            await self._consent()
        if self._has("2AAA"):
            with contextlib.suppress(BleakError, DecodeError):
                data = bytes(await self._client.read_gatt_char(gatt.CGM_SESSION_START))
                self._session_start = SessionStart.from_bytes(data, model.quirks)
        try:
            for name in MEASUREMENTS:
                if self._has(name):
                    await self._client.start_notify(gatt.uuid16(int(name, 16)), self._listener(name))
            if model.time == "write_first":
                self._written = await device_clock.write()
            if model.history.startswith("racp") and self._has(RACP):
                await self._client.start_notify(gatt.RECORD_ACCESS, self._on_answer)
                await self._fetch()
            await self._until_quiet()
        finally:
            self._flush(final=False)
        return self.frames

    async def _read_memory(self, memory: Memory) -> int:
        """A vendor's own way to the records; what was read before is known by its bytes."""
        now = datetime.now(UTC)
        records = await omron_memory.read(self._client, memory)
        self._keep([Frame("omron_proprietary_record", data, now, user=user) for user, data in records], None)
        return len(records)

    # consent

    async def _consent(self) -> None:
        """Scales stay silent until they hear whose data we may have; raises Unavailable when they refuse."""
        user, code = self._device.user, self._device.consent
        if user is None or code is None or not self._has("2A9F"):
            return
        self._consented = asyncio.get_running_loop().create_future()
        await self._client.start_notify(gatt.USER_CONTROL, self._on_user_answer)
        await self._client.write_gatt_char(gatt.USER_CONTROL, bytes(UserControl.consent(user, code)), response=True)
        async with asyncio.timeout(ANSWER_LIMIT):
            answer = await self._consented
        if answer != USER_SUCCESS:
            raise Unavailable(f"consent refused ({answer})")

    def _on_user_answer(self, _characteristic: Any, data: bytearray) -> None:
        with contextlib.suppress(DecodeError):
            answer = UserControl.from_bytes(bytes(data))
            waiting = self._consented
            if waiting is not None and not waiting.done() and answer.operand[:1] == bytes((CONSENT,)):
                waiting.set_result(answer.operand[1])

    # what arrives

    def _listener(self, name: str) -> Callable[[Any, bytearray], None]:
        def hear(_characteristic: Any, data: bytearray) -> None:
            self._heard.set()
            try:
                self._receive(name, bytes(data))
            except Exception as error:  # noqa: BLE001  what cannot be made durable must stop the process
                self._fail(error)

        return hear

    def _frame(self, name: str, data: bytes) -> Frame:
        return Frame(
            name, data, datetime.now(UTC), self._clock, newest_offset=self._newest_offset, session=self._session_start,
            weight=self._weight, written=self._written,
        )  # fmt: skip

    def _receive(self, name: str, data: bytes) -> None:
        if name == "2A18":
            self._glucose(data)
        elif name == "2A34":
            self._context(data)
        elif name == "2AA7":
            self._continuous(data)
        else:
            self.frames += 1
            if name == "2A9D":
                with contextlib.suppress(DecodeError):
                    self._weight = WeightMeasurement.from_bytes(data)
            if not self._indicated:
                asyncio.get_running_loop().call_soon(self._flush_or_fail)
            self._indicated.append(self._frame(name, data))

    def _glucose(self, data: bytes) -> None:
        if self._transfer.probing:
            self._transfer.newest = data
            return
        self._release()
        self.frames += 1
        frame = self._frame("2A18", data)
        follows = False
        with contextlib.suppress(DecodeError):
            follows = GlucoseMeasurement.from_bytes(data).context_follows
        if follows:
            self._held = frame
        else:
            self._gather(frame)

    def _context(self, data: bytes) -> None:
        if self._held is None or self._transfer.probing:
            return
        with contextlib.suppress(DecodeError):
            context = GlucoseContext.from_bytes(data)
            if context.sequence == GlucoseMeasurement.from_bytes(self._held.data).sequence:
                held, self._held = self._held, None
                self._gather(held.with_context(context))
                return
        self._release()

    def _release(self) -> None:
        """A value whose context never came goes without it."""
        if self._held is not None:
            held, self._held = self._held, None
            self._gather(held)

    def _continuous(self, data: bytes) -> None:
        if self._transfer.probing:
            self._transfer.newest = data
            return
        self.frames += 1
        self._gather(self._frame("2AA7", data))

    def _gather(self, frame: Frame) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_later(GATHER, self._flush_or_fail)
        self._gathered.append(frame)
        number = self._number(frame)
        # a live record, before the history is asked for or newer than all of it, says nothing about the rest
        if number is not None and self._reading and (self._newest_number is None or number <= self._newest_number):
            self._high = (self._series(), number, _digest(frame))

    def _series(self) -> str:
        if self._device.kind != "cgm":
            return "1"
        return str(self._session_start.time) if self._session_start is not None else UNKNOWN_SESSION

    def _number(self, frame: Frame) -> int | None:
        """Where in the device's history this frame stands."""
        with contextlib.suppress(DecodeError):
            if frame.name == "2A18":
                return GlucoseMeasurement.from_bytes(frame.data).sequence
            return GlucoseRecords.from_bytes(frame.data, self._device.model.quirks).records[-1].minutes
        return None

    def _flush_or_fail(self) -> None:
        try:
            self._flush(final=False)
        except Exception as error:  # noqa: BLE001  handed to the radio, which ends the process with it
            self._fail(error)

    def _keep(self, frames: list[Frame], progress: tuple[str, int, str] | None) -> None:
        """Make durable; what cannot be must stop the process, wherever it happens."""
        try:
            self._store.frames(self._device, frames, progress)
        except Exception as error:
            self._fail(error)
            raise

    def _flush(self, *, final: bool) -> None:
        """Make durable what was gathered; a value still waiting for its context is left to be asked for again."""
        if final:
            self._release()
        if self._indicated:
            indicated, self._indicated = self._indicated, []
            self._keep(indicated, None)
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            numbered = self._high if self._device.model.history == "racp" else None
            self._keep(gathered, numbered)

    # stored records

    def _on_answer(self, _characteristic: Any, data: bytearray) -> None:
        self._heard.set()
        with contextlib.suppress(DecodeError):
            answer = RecordAccess.from_bytes(bytes(data)).answer()
            if answer is not None:
                self._transfer.answer = answer[1] if answer[0] == Op.REPORT else None
                self._answered.set()

    async def _fetch(self) -> None:
        """Ask for what is new; after a restart, a drop or a reset of the meter it is asked for again, never guessed."""
        if self._device.model.history == "racp_reversed":
            await self._report(RecordAccess.report_all())
            return
        known = self._store.history(self._device.device, self._series())
        newest = await self._newest()
        if newest is None:
            whole = known is None or known[0] >= LAST_NUMBER
            await self._report(RecordAccess.report_all() if whole or known is None else RecordAccess.report_from(known[0] + 1))
            return
        number, digest = newest
        if known is None:
            await self._report(RecordAccess.report_all())
        elif number > known[0]:
            await self._report(RecordAccess.report_from(known[0] + 1))
        elif (number, digest) != known:
            # the numbers began again (a new battery, a wrap): what is new has numbers up to the newest one
            log.info("numbers began again", extra={"device": self._device.device, "newest": number, "known": known[0]})
            operand = bytes((SEQUENCE,)) + number.to_bytes(2, "little")
            await self._report(RecordAccess(Op.REPORT, Operator.LESS_OR_EQUAL, operand))

    async def _newest(self) -> tuple[int, str] | None:
        """Number and bytes of the newest record; None where the meter cannot tell, or has none."""
        answer = await self._ask(RecordAccess(Op.REPORT, Operator.LAST), probing=True)
        data = self._transfer.newest
        if answer != Answer.SUCCESS or data is None:
            return None
        frame = self._frame("2A18" if self._device.kind == "glucose" else "2AA7", data)
        if frame.name == "2A18":
            with contextlib.suppress(DecodeError):
                self._newest_offset = GlucoseMeasurement.from_bytes(data).offset or 0
        self._newest_number = number = self._number(frame)
        return None if number is None else (number, _digest(frame))

    async def _report(self, request: RecordAccess) -> None:
        self._reading = True
        began, before = time.monotonic(), self.frames
        answer = await self._ask(request, probing=False)
        if answer not in (Answer.SUCCESS, Answer.NO_RECORDS):
            raise Unavailable(f"records refused ({answer})")
        self._flush(final=True)
        words = {"device": self._device.device, "records": self.frames - before, "seconds": round(time.monotonic() - began, 3)}
        log.info("history read", extra=words)

    async def _ask(self, request: RecordAccess, *, probing: bool) -> int:
        """Write the request and wait for its answer; raises Unavailable when the device falls silent or leaves."""
        self._transfer = _Transfer(probing=probing)
        self._answered.clear()
        await self._request(request)
        while not self._answered.is_set():
            self._heard.clear()
            if not await _any(TRANSFER_QUIET, self._gone, self._heard, self._answered):
                with contextlib.suppress(BleakError):
                    await self._client.write_gatt_char(gatt.RECORD_ACCESS, bytes(RecordAccess.abort()), response=True)
                raise Unavailable("the transfer fell silent")
            if self._gone.is_set() and not self._answered.is_set():
                raise Unavailable("the device left in the middle of a transfer")
        self._transfer.probing = False
        return self._transfer.answer or 0

    async def _request(self, request: RecordAccess) -> None:
        """Write it; a meter that is busy (0x80) or forgot our subscription (0xFD) is asked again, a few times and not at once."""
        for attempt in range(1, REQUESTS + 1):
            try:
                await self._client.write_gatt_char(gatt.RECORD_ACCESS, bytes(request), response=True)
                return
            except BleakError:
                if attempt == REQUESTS or self._gone.is_set():
                    raise
            await asyncio.sleep(REQUEST_PAUSE * attempt)
            with contextlib.suppress(BleakError):
                await self._client.stop_notify(gatt.RECORD_ACCESS)
                await self._client.start_notify(gatt.RECORD_ACCESS, self._on_answer)

    async def _until_quiet(self) -> None:
        """Until the device hangs up, or says nothing for so long that we do."""
        model = self._device.model
        if model.history.startswith("racp") and model.hang_up == "host" and self._device.kind == "glucose":
            return  # everything was asked for
        limit = STREAM_QUIET if model.history == "stream" else QUIET_LIMIT
        while not self._gone.is_set():
            self._heard.clear()
            if not await _any(limit, self._gone, self._heard):
                return


def _digest(frame: Frame) -> str:
    """What the newest record of this frame was: the same whether it came alone or with others."""
    return (GlucoseRecords.slices(frame.data)[-1] if frame.name == "2AA7" else frame.data).hex()


async def _any(timeout: float, *events: asyncio.Event) -> bool:  # noqa: ASYNC109  a limit on waiting, not a cancellation
    """Whether one of the events was set within `timeout` seconds."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for task in waiting:
            task.cancel()
