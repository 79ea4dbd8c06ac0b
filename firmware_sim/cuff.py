"""Virtual blood-pressure cuffs: one that follows the profile, one that replays its history with swapped bytes, one that wants the time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bumble.gatt import Characteristic

from firmware_sim.device import READ, characteristic
from firmware_sim.recorder import Recorder
from vitals.gatt import BloodPressureMeasurement, BloodPressureStatus, DeviceTime


class Cuff(Recorder):
    """A SIG upper-arm cuff."""

    ADVERTISES = (0x1810,)
    SERVICE = 0x1810
    VALUES = (0x2A35,)

    def extras(self) -> list[Characteristic]:
        return [characteristic(0x2A49, READ, b"\x3f\x00")]

    async def measure(
        self, systolic: float, diastolic: float, pulse: float, *, status: int = 0, user: int | None = 1, unit: str = "mm[Hg]",
        seconds_ago: float = 0,
    ) -> bytes:  # fmt: skip
        """Take one measurement `seconds_ago` before now and remember it; returns the frame that will be indicated."""
        taken = self.clock.at(self.clock.now() - timedelta(seconds=seconds_ago))
        digits = 1 if unit == "kPa" else 0
        frame = self.frame(
            BloodPressureMeasurement(
                systolic, diastolic, round(diastolic + (systolic - diastolic) / 3, digits), unit, timestamp=DeviceTime.of(taken),
                pulse=pulse, user=user, status=BloodPressureStatus(status),
            )
        )  # fmt: skip
        await self.remember(frame)
        return frame

    def frame(self, report: BloodPressureMeasurement) -> bytes:
        """The bytes this model makes of a report."""
        return bytes(report)


class SwappedCuff(Cuff):
    """As a Beurer BM85: replays its whole memory, pulse and status big endian, a user byte that no flag announces."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"replays": True, **options})

    def frame(self, report: BloodPressureMeasurement) -> bytes:
        data = bytes(report)
        flags, body, pulse, user, status = data[0] & ~0x08, data[1:14], data[14:16], data[16:17], data[17:19]
        return bytes((flags,)) + body + pulse[::-1] + user + status[::-1]


class TimeCuff(Cuff):
    """As an A&D UA-651BLE: sends nothing before its clock was written, and leaves it to the host to disconnect."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"wants_time": True, "idle": 20.0, **options})
