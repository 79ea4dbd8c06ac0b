"""A virtual blood-pressure cuff (Blood Pressure profile): measures, advertises, bonds, indicates, hangs up.

It forgets a record only when its indication was confirmed, and sends what it remembers oldest first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Service

from firmware_sim.device import INDICATE, READ, DeviceClock, VirtualDevice, characteristic
from firmware_sim.link import SimLink
from vitals.gatt import BloodPressureMeasurement, BloodPressureStatus, DeviceTime

# An indication and its confirmation take two connection events on the air, 7.5 ms each at the shortest interval.
CONNECTION_EVENTS = 0.015


@dataclass(frozen=True, slots=True)
class Indicated:
    """One confirmed indication: the frame, and when it left (seconds since the epoch)."""

    frame: bytes
    at: float


class Cuff(VirtualDevice):
    """A SIG upper-arm cuff. idle: seconds it stays connected after its last record before it hangs up."""

    def __init__(self, link: SimLink, name: str, address: str, clock: DeviceClock, *, serial: str = "SN0001", idle: float = 1.0) -> None:
        self.measurement = characteristic(0x2A35, INDICATE)
        super().__init__(link, name, address, clock, advertises=[0x1810], serial=serial)
        self.memory: deque[bytes] = deque()
        self.on_indicated: Callable[[Indicated], None] | None = None
        self._idle = idle
        self._stored = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None
        self.measurement.on("subscription", self._on_subscription)

    def services(self) -> list[Service]:
        self.protect_subscription(self.measurement)
        feature = characteristic(0x2A49, READ, b"\x3f\x00")
        return [Service(UUID.from_16_bits(0x1810), [self.measurement, feature])]

    async def measure(self, systolic: float, diastolic: float, pulse: float, *, status: int = 0, ago: timedelta = timedelta()) -> bytes:
        """Take one measurement `ago` before now and remember it; returns the frame that will be indicated."""
        taken = self.clock.at(self.clock.now() - ago)
        frame = bytes(
            BloodPressureMeasurement(
                systolic, diastolic, round(diastolic + (systolic - diastolic) / 3), timestamp=DeviceTime.of(taken),
                pulse=pulse, user=1, status=BloodPressureStatus(status),
            )
        )  # fmt: skip
        await self.remember(frame)
        return frame

    async def remember(self, frame: bytes) -> None:
        """Put a ready frame into memory (a deliberately broken one, too) and wake up."""
        self.memory.append(frame)
        self._stored.set()
        await self.wake()

    def _on_subscription(self, connection: Connection, _notify: bool, indicate: bool) -> None:
        if self._sending is not None:
            self._sending.cancel()
        # unsubscribed: nobody listens any more, so keep the rest and hang up after a while
        work = self._send_memory(connection) if indicate else self._give_up(connection)
        self._sending = asyncio.get_running_loop().create_task(work)

    async def _send_memory(self, connection: Connection) -> None:
        while self.connection is connection:
            if not self.memory:
                self._stored.clear()
                try:
                    await asyncio.wait_for(self._stored.wait(), self._idle)
                except TimeoutError:
                    break
                continue
            frame, at = self.memory[0], time.time()
            await self.device.indicate_subscriber(connection, self.measurement, frame)
            self.memory.popleft()  # confirmed
            if self.on_indicated is not None:
                self.on_indicated(Indicated(frame, at))
            await asyncio.sleep(CONNECTION_EVENTS)
        await self.hang_up()

    async def _give_up(self, connection: Connection) -> None:
        await asyncio.sleep(self._idle)
        if self.connection is connection:
            await self.hang_up()

    def _on_disconnection(self, reason: int) -> None:
        super()._on_disconnection(reason)
        if self._sending is not None and self._sending is not asyncio.current_task():
            self._sending.cancel()  # in the middle of an indication: unconfirmed, so still in memory
        if self.memory:
            self._waking = asyncio.get_running_loop().create_task(self._wake_later())

    async def _wake_later(self) -> None:
        await asyncio.sleep(0.2)
        await self.wake()
