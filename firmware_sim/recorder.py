"""Devices that measure, wake up, indicate what they remember and hang up: cuffs, thermometer, spot oximeter, scales."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, Service

from firmware_sim.device import INDICATE, DeviceClock, VirtualDevice, characteristic
from firmware_sim.link import SimLink

# An indication and its confirmation take two connection events on the air, 7.5 ms each at the shortest interval.
CONNECTION_EVENTS = 0.015


@dataclass(frozen=True, slots=True)
class Indicated:
    """One confirmed indication: the frame, and when it left (seconds since the epoch)."""

    frame: bytes
    at: float


class Recorder(VirtualDevice):
    """A device with a memory of frames, sent oldest first as indications once the host subscribes to the first of VALUES.

    SERVICE, VALUES: 16-bit numbers. idle: seconds it stays connected after its last record before it hangs up.
    replays: it sends its whole memory at every connection and forgets nothing; else a record is forgotten when its
    indication was confirmed. wants_time: it sends nothing before its clock was written.
    """

    SERVICE = 0
    VALUES: tuple[int, ...] = ()

    def __init__(
        self, link: SimLink, name: str, address: str, clock: DeviceClock, *, idle: float = 1.0, replays: bool = False,
        wants_time: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.values = {number: characteristic(number, INDICATE) for number in self.VALUES}
        self.memory: deque[tuple[int, bytes]] = deque()
        self.on_indicated: Callable[[Indicated], None] | None = None
        self._idle, self._replays, self._wants_time = idle, replays, wants_time
        self._stored, self._time_written = asyncio.Event(), asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None
        super().__init__(link, name, address, clock, **options)
        clock.on_write = self._time_written.set
        self.values[self.VALUES[0]].on("subscription", self._on_subscription)

    def services(self) -> list[Service]:
        for value in self.values.values():
            self.protect_subscription(value)
        return [Service(UUID.from_16_bits(self.SERVICE), [*self.values.values(), *self.extras()])]

    def extras(self) -> list[Characteristic]:
        """Further characteristics of the measuring service."""
        return []

    async def remember(self, frame: bytes, number: int | None = None) -> None:
        """Put a ready frame into memory (a deliberately broken one, too) and wake up."""
        self.memory.append((number or self.VALUES[0], frame))
        self._stored.set()
        await self.wake()

    def _on_subscription(self, connection: Connection, _notify: bool, indicate: bool) -> None:
        if self._sending is not None:
            self._sending.cancel()
        # unsubscribed: nobody listens any more, so keep the rest and hang up after a while
        work = self._send_memory(connection) if indicate else self._give_up(connection)
        self._sending = asyncio.get_running_loop().create_task(work)

    async def ready(self, connection: Connection) -> bool:
        """Whether this host may have the records; a device that wants something first waits for it here."""
        if self._wants_time:
            try:
                async with asyncio.timeout(5 * self._idle):
                    await self._time_written.wait()
            except TimeoutError:
                return False
        return self.connection is connection

    async def _send_memory(self, connection: Connection) -> None:
        if await self.ready(connection):
            await self._send_all(connection)
        await self.hang_up()

    async def _send_all(self, connection: Connection) -> None:
        at = 0
        while self.connection is connection:
            if at >= len(self.memory):
                self._stored.clear()
                try:
                    async with asyncio.timeout(self._idle):
                        await self._stored.wait()
                except TimeoutError:
                    return
                continue
            number, frame = self.memory[at]
            left = time.time()
            await self.device.indicate_subscriber(connection, self.values[number], frame)
            if self._replays:
                at += 1
            else:
                self.memory.popleft()  # confirmed
            if self.on_indicated is not None:
                self.on_indicated(Indicated(frame, left))
            if not await self.sent(connection):
                return
            await asyncio.sleep(CONNECTION_EVENTS)

    async def _give_up(self, connection: Connection) -> None:
        await asyncio.sleep(self._idle)
        if self.connection is connection:
            await self.hang_up()

    def _on_disconnection(self, reason: int) -> None:
        super()._on_disconnection(reason)
        self._time_written.clear()
        if self._sending is not None and self._sending is not asyncio.current_task():
            self._sending.cancel()  # in the middle of an indication: unconfirmed, so still in memory
        if self.memory and not self._replays:
            self._waking = asyncio.get_running_loop().create_task(self._wake_later())

    async def _wake_later(self) -> None:
        await asyncio.sleep(0.2)
        await self.wake()
