"""A virtual cuff with a vendor's protocol: no profile, a memory that is read in blocks over four channels each way."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, CharacteristicValue, Service

from firmware_sim.device import NOTIFY, WRITE, VirtualDevice
from vitals import device_model
from vitals.gatt.fields import DeviceTime
from vitals.gatt.omron import ANSWER, CHANNEL, READ, READ_CHANNELS, WRITE_CHANNELS, OmronRecord, packet

SERVICE = "ecbe3980-c9a2-11e1-b1bd-0002a5d5c51b"


class MemoryCuff(VirtualDevice):
    """As an Omron HEM-7322T (`model`): never-written slots are all ones."""

    def __init__(self, *arguments: Any, model: str = "Omron HEM-7322T", **options: Any) -> None:
        row = device_model.named(model)
        assert row is not None
        assert row.memory is not None
        self._layout = row.memory
        self._bytes = bytearray(b"\xff" * 0x2000)
        self._next = [0] * len(self._layout.users)
        self._out: list[Characteristic] = []
        self._answering: asyncio.Task[None] | None = None
        super().__init__(*arguments, **{"protected": False, **options})

    def services(self) -> list[Service]:
        takes = CharacteristicValue(read=lambda _connection: b"", write=self._asked)
        written = [Characteristic(UUID(uuid), WRITE, Characteristic.WRITEABLE, takes) for uuid in WRITE_CHANNELS]
        self._out = [Characteristic(UUID(uuid), NOTIFY, Characteristic.READABLE, b"") for uuid in READ_CHANNELS]
        return [Service(UUID(SERVICE), [*written, *self._out])]

    def _asked(self, connection: Connection, data: bytes) -> None:
        data = bytes(data)
        command, address, size = int.from_bytes(data[1:3], "big"), int.from_bytes(data[3:5], "big"), data[5]
        told = bytes(self._bytes[address : address + size]) if command == READ else b""
        whole = packet(command | ANSWER, address, len(told), told)
        self._answering = asyncio.get_running_loop().create_task(self._answer(connection, whole))

    async def _answer(self, connection: Connection, whole: bytes) -> None:
        for channel, at in enumerate(range(0, len(whole), CHANNEL)):
            await self.device.notify_subscriber(connection, self._out[channel], whole[at : at + CHANNEL])
            if not await self.sent(connection):
                return

    async def measure(
        self, systolic: int, diastolic: int, pulse: int, *, user: int = 1, irregular: bool = False, seconds_ago: float = 0
    ) -> bytes:
        taken = DeviceTime.of(self.clock.at(self.clock.now() - timedelta(seconds=seconds_ago)))
        record = bytes(OmronRecord(systolic, diastolic, pulse, taken, irregular=irregular, size=self._layout.size))
        slot = self._next[user - 1] % self._layout.records
        at = self._layout.users[user - 1] + slot * self._layout.size
        self._bytes[at : at + self._layout.size] = record
        self._next[user - 1] += 1
        await self.wake()
        return record
