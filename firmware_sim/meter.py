"""Virtual glucose devices with a numbered memory: a meter with contexts and ketones, and a continuous monitor.

Both serve the Record Access Control Point: report all, from a number on, up to a number, first, last, count, delete,
abort. A meter's base clock never changes; setting its clock moves the offset of what it measures from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bumble.att import ATT_Error
from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, CharacteristicValue, Service

from firmware_sim.device import INDICATE, NOTIFY, READ, WRITE, DeviceClock, VirtualDevice, characteristic
from firmware_sim.link import SimLink
from vitals.errors import DecodeError
from vitals.gatt.cgm import CRC_SIG, GlucoseMonitorFeature, GlucoseRecord, GlucoseRecords, RunTime, SessionStart
from vitals.gatt.fields import DeviceTime
from vitals.gatt.glucose import KETONE_MEAL, GlucoseContext, GlucoseMeasurement, GlucoseStatus
from vitals.gatt.records import CCCD_NOT_CONFIGURED, PROCEDURE_IN_PROGRESS, SEQUENCE, Answer, Op, Operator, RecordAccess
from vitals.sfloat import Special


@dataclass(frozen=True, slots=True)
class Stored:
    """One record of a meter's memory: its number and its frames, each with the characteristic it goes out on."""

    number: int
    frames: tuple[tuple[int, bytes], ...]


class RecordServer(VirtualDevice):
    """A device whose memory is asked for by number. hang_up_after: seconds without a request after which it leaves."""

    SERVICE = 0
    VALUES: tuple[int, ...] = ()

    def __init__(self, link: SimLink, name: str, address: str, clock: DeviceClock, *, hang_up_after: float = 30.0, **options: Any) -> None:
        self.values = {number: characteristic(number, NOTIFY) for number in self.VALUES}
        control = CharacteristicValue(read=lambda _connection: b"", write=self._requested)
        self.control = characteristic(0x2A52, WRITE | INDICATE, control)
        self.records: list[Stored] = []
        self.requests: list[bytes] = []
        self.busy = 0  # how many requests to refuse as "procedure in progress"
        self.unconfigured = 0  # how many to refuse as "subscription not configured"
        self.interjection: tuple[int, Stored] | None = None  # after so many records of a transfer, this one
        self._task: asyncio.Task[None] | None = None
        self._hang_up_after = hang_up_after
        super().__init__(link, name, address, clock, **options)

    def services(self) -> list[Service]:
        for value in (*self.values.values(), self.control):
            self.protect_subscription(value)
        return [Service(UUID.from_16_bits(self.SERVICE), [*self.values.values(), self.control, *self.extras()])]

    def extras(self) -> list[Characteristic]:
        """Further characteristics of the measuring service."""
        return []

    def _requested(self, connection: Connection, data: bytes) -> None:
        data = bytes(data)
        self.requests.append(data)
        if self.unconfigured:
            self.unconfigured -= 1
            raise ATT_Error(CCCD_NOT_CONFIGURED)
        if data[:1] == bytes((Op.ABORT,)):
            if self._task is not None:
                self._task.cancel()
            self._task = asyncio.get_running_loop().create_task(self._answer(connection, Op.ABORT, Answer.SUCCESS))
            return
        if self.busy or (self._task is not None and not self._task.done()):
            self.busy = max(0, self.busy - 1)
            raise ATT_Error(PROCEDURE_IN_PROGRESS)
        self._task = asyncio.get_running_loop().create_task(self._serve(connection, data))

    async def _serve(self, connection: Connection, data: bytes) -> None:
        try:
            request = RecordAccess.from_bytes(data)
        except DecodeError:
            await self._answer(connection, data[0] if data else 0, Answer.OP_NOT_SUPPORTED)
            return
        wanted = self._select(request)
        if isinstance(wanted, Answer):
            await self._answer(connection, request.op, wanted)
        elif request.op == Op.COUNT:
            count = RecordAccess(Op.COUNT_RESPONSE, Operator.NULL, len(wanted).to_bytes(2, "little"))
            await self.device.indicate_subscriber(connection, self.control, bytes(count))
        elif request.op == Op.DELETE:
            self.records = [record for record in self.records if record not in wanted]
            await self._answer(connection, request.op, Answer.SUCCESS)
        elif not wanted:
            await self._answer(connection, request.op, Answer.NO_RECORDS)
        else:
            for sent, record in enumerate(wanted, 1):
                for number, frame in record.frames:
                    await self.device.notify_subscriber(connection, self.values[number], frame)
                    if not await self.sent(connection):
                        return
                if self.interjection is not None and sent == self.interjection[0] and request.operator != Operator.LAST:
                    await self._interject(connection)
                    if not await self.sent(connection):
                        return
            await self._answer(connection, request.op, Answer.SUCCESS)

    async def _interject(self, connection: Connection) -> None:
        """A fresh record goes out live, in the middle of a transfer of older ones."""
        assert self.interjection is not None
        (_, fresh), self.interjection = self.interjection, None
        self.records.append(fresh)
        for number, frame in fresh.frames:
            await self.device.notify_subscriber(connection, self.values[number], frame)

    def _select(self, request: RecordAccess) -> list[Stored] | Answer:
        if request.op not in (Op.REPORT, Op.DELETE, Op.COUNT):
            return Answer.OP_NOT_SUPPORTED
        numbers = [int.from_bytes(request.operand[at : at + 2], "little") for at in range(1, len(request.operand) - 1, 2)]
        if numbers and request.operand[0] != SEQUENCE:
            return Answer.OPERAND_NOT_SUPPORTED
        chosen: dict[int, Callable[[], list[Stored]]] = {
            Operator.ALL: lambda: self.records,
            Operator.FIRST: lambda: self.records[:1],
            Operator.LAST: lambda: self.records[-1:],
        }
        if request.operator in chosen:
            return list(chosen[request.operator]())
        if len(numbers) != (2 if request.operator == Operator.RANGE else 1):
            return Answer.INVALID_OPERAND
        match request.operator:
            case Operator.GREATER_OR_EQUAL:
                return [record for record in self.records if record.number >= numbers[0]]
            case Operator.LESS_OR_EQUAL:
                return [record for record in self.records if record.number <= numbers[0]]
            case Operator.RANGE:
                return [record for record in self.records if numbers[0] <= record.number <= numbers[1]]
        return Answer.OPERATOR_NOT_SUPPORTED

    async def _answer(self, connection: Connection, to: int, answer: Answer) -> None:
        await self.device.indicate_subscriber(connection, self.control, bytes(RecordAccess.response(to, answer)))

    def _on_disconnection(self, reason: int) -> None:
        super()._on_disconnection(reason)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()


class GlucoseMeter(RecordServer):
    """A SIG meter. `base_error`: how far its never-adjusted base clock is off; what it shows is base plus `user_offset` minutes."""

    ADVERTISES = (0x1808,)
    SERVICE = 0x1808
    VALUES = (0x2A18, 0x2A34)

    def __init__(self, *arguments: Any, first_number: int = 1, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.next_number = first_number
        self.user_offset = 0  # minutes

    def extras(self) -> list[Characteristic]:
        return [characteristic(0x2A51, READ, b"\x00\x04")]

    def _base(self, moment: datetime) -> datetime:
        return self.clock.at(moment) - timedelta(minutes=self.user_offset)

    def change_offset(self, minutes: int) -> None:
        """The user sets the clock by so many minutes: the base stays, the offset moves, and what is shown with it."""
        self.user_offset += minutes
        self.clock.offset += timedelta(minutes=minutes)

    async def measure(
        self, glucose: float | None = None, *, unit: str = "mol/L", meal: int | None = None, ketone: float | None = None, status: int = 0,
        sample_type: int = 1, sample_location: int = 1, seconds_ago: float = 0, special: str | None = None, wake: bool = True,
    ) -> bytes:  # fmt: skip
        """One result of `glucose` mmol/L (or a ketone in mmol/L, marked by its context); returns the 2A18 frame."""
        taken = self.clock.now() - timedelta(seconds=seconds_ago)
        value: float | Special | None = None
        if special is not None:
            value = Special(special)
        elif ketone is not None:
            value, meal, unit = round(ketone * 10) / 1e5, KETONE_MEAL, "kg/L"
        elif glucose is not None:
            value = round(glucose, 1) / 1e3 if unit == "mol/L" else round(glucose * 18.0156) / 1e5
        measurement = GlucoseMeasurement(
            self.next_number, DeviceTime.of(self._base(taken)), self.user_offset or None, value, unit,
            None if value is None else sample_type, None if value is None else sample_location,
            GlucoseStatus(status) if status else None, context_follows=meal is not None,
        )  # fmt: skip
        frames: list[tuple[int, bytes]] = [(0x2A18, bytes(measurement))]
        if meal is not None:
            frames.append((0x2A34, bytes(GlucoseContext(self.next_number, meal=meal))))
        self.records.append(Stored(self.next_number, tuple(frames)))
        self.next_number = (self.next_number + 1) & 0xFFFF
        if wake:
            await self.wake()
        return bytes(measurement)

    def reset_numbers(self) -> None:
        """A new battery: memory and numbers begin again."""
        self.records, self.next_number = [], 1


class GlucoseMonitor(RecordServer):
    """A CGM sensor: a session since `begun` (true aware time), a record every five minutes, checksummed."""

    ADVERTISES = (0x181F,)
    SERVICE = 0x181F
    VALUES = (0x2AA7,)

    def __init__(self, *arguments: Any, crc: str | None = CRC_SIG, **options: Any) -> None:
        self.begun: datetime | None = None
        self._crc = crc
        super().__init__(*arguments, **options)

    def extras(self) -> list[Characteristic]:
        feature = GlucoseMonitorFeature(1 << 12 | 1 << 15 if self._crc else 1 << 15, 9, 15, self._crc)
        start = CharacteristicValue(read=lambda _connection: bytes(self._session()))
        return [
            characteristic(0x2AA8, READ, bytes(feature)),
            characteristic(0x2AAA, READ, start),
            characteristic(0x2AAB, READ, bytes(RunTime(24 * 14, self._crc))),
        ]

    def _session(self) -> SessionStart:
        begun = self.begun or self.clock.now()
        return SessionStart(DeviceTime.of(self.clock.at(begun).replace(microsecond=0)), zone=32, dst=0, crc_variant=self._crc)

    async def measure(
        self, glucose: float, *, minutes: int | None = None, trend: float | None = None, warning: int | None = None,
        status: int | None = None, wake: bool = True,
    ) -> bytes:  # fmt: skip
        """One record of `glucose` mg/dL, `minutes` after the session's start (now, if it is not said)."""
        if self.begun is None:
            self.begun = self.clock.now() - timedelta(minutes=minutes or 0)
        at = minutes if minutes is not None else int((self.clock.now() - self.begun).total_seconds() // 60)
        record = GlucoseRecord(glucose, at, status=status, warning=warning, trend=trend, crc_variant=self._crc)
        self.records.append(Stored(at, ((0x2AA7, bytes(record)),)))
        if wake:
            await self.wake()
        return bytes(record)

    async def corrupt(self, glucose: float, *, minutes: int) -> None:
        """A record whose checksum is wrong."""
        frame = bytearray(await self.measure(glucose, minutes=minutes, wake=False))
        frame[-1] ^= 0x55
        self.records[-1] = Stored(minutes, ((0x2AA7, bytes(frame)),))

    async def interject(self, after: int, glucose: float, minutes: int) -> None:
        """Measure again when `after` records of the next transfer went out."""
        await self.measure(glucose, minutes=minutes, wake=False)
        self.interjection = (after, self.records.pop())

    def pack(self, size: int) -> None:
        """Put the last `size` records into one notification, as some sensors do."""
        packed, self.records = self.records[-size:], self.records[:-size]
        frame = b"".join(frame for record in packed for _, frame in record.frames)
        GlucoseRecords.from_bytes(frame)
        self.records.append(Stored(packed[-1].number, ((0x2AA7, frame),)))
