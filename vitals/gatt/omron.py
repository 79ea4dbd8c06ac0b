"""A vendor's own record: blood pressure as Omron cuffs keep it in their memory (models before the SIG profile).

Two families of layout. 14 bytes, bits counted from the most significant bit of the first byte: diastolic, systolic
less 25, year, pulse, then movement, irregular pulse, month, day, hour, minute, second. 16 bytes: the same fields the
other way round, as one little-endian number. An empty slot of the memory is all ones. Sources: public protocol notes
of these models; no captured frame of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.blood_pressure import BloodPressureMeasurement, BloodPressureStatus
from vitals.gatt.fields import DeviceTime, time_text

# field → (first bit, last bit), counted from the most significant bit of the record read as one number
_BIG = {
    "diastolic": (0, 7), "systolic": (8, 15), "year": (16, 23), "pulse": (24, 31), "movement": (32, 32), "irregular": (33, 33),
    "month": (34, 37), "day": (38, 42), "hour": (43, 47), "minute": (52, 57), "second": (58, 63),
}  # fmt: skip
_LITTLE = {
    "minute": (68, 73), "second": (74, 79), "movement": (80, 80), "irregular": (81, 81), "month": (82, 85), "day": (86, 90),
    "hour": (91, 95), "year": (98, 103), "pulse": (104, 111), "diastolic": (112, 119), "systolic": (120, 127),
}  # fmt: skip
_LAYOUTS: dict[int, tuple[dict[str, tuple[int, int]], Any]] = {14: (_BIG, "big"), 16: (_LITTLE, "little")}
SYSTOLIC_BASE = 25


@dataclass(frozen=True, slots=True)
class OmronRecord:
    """One record in mm[Hg]; size (14 or 16) tells the layout."""

    systolic: int
    diastolic: int
    pulse: int
    time: DeviceTime
    movement: bool = False
    irregular: bool = False
    size: int = 14

    @classmethod
    def from_bytes(cls, data: bytes) -> OmronRecord:
        """Raises DecodeError `omron_length`, and `omron_empty` for a slot of the memory that was never written."""
        if len(data) not in _LAYOUTS:
            raise DecodeError("omron_length", f"{len(data)} bytes, 14 or 16 expected")
        if set(data) == {0xFF}:
            raise DecodeError("omron_empty", "an empty slot")
        layout, order = _LAYOUTS[len(data)]
        number, width = int.from_bytes(data, order), len(data) * 8
        field = {name: number >> (width - last - 1) & (1 << last - first + 1) - 1 for name, (first, last) in layout.items()}
        time = DeviceTime(2000 + field["year"], field["month"], field["day"], field["hour"], field["minute"], min(field["second"], 59))
        return cls(
            field["systolic"] + SYSTOLIC_BASE, field["diastolic"], field["pulse"], time,
            bool(field["movement"]), bool(field["irregular"]), len(data),
        )  # fmt: skip

    def __bytes__(self) -> bytes:
        layout, order = _LAYOUTS[self.size]
        values = {
            "systolic": self.systolic - SYSTOLIC_BASE, "diastolic": self.diastolic, "pulse": self.pulse, "year": self.time.year - 2000,
            "month": self.time.month, "day": self.time.day, "hour": self.time.hour, "minute": self.time.minute, "second": self.time.second,
            "movement": self.movement, "irregular": self.irregular,
        }  # fmt: skip
        number = sum(int(values[name]) << (self.size * 8 - last - 1) for name, (_, last) in layout.items())
        return number.to_bytes(self.size, order)

    def plain(self) -> BloodPressureMeasurement:
        """The same result as the profile's own measurement; this cuff computes no mean."""
        status = BloodPressureStatus.BODY_MOVEMENT * self.movement | BloodPressureStatus.IRREGULAR_PULSE * self.irregular
        return BloodPressureMeasurement(
            float(self.systolic),
            float(self.diastolic),
            0.0,
            timestamp=self.time,
            pulse=float(self.pulse),
            status=BloodPressureStatus(status),
        )

    def not_a_reading(self) -> list[str]:
        return ["zero_filled"] if self.diastolic == 0 and self.pulse == 0 else []

    def as_json(self) -> dict[str, Any]:
        return {**self.plain().as_json(), "timestamp": time_text(self.time)}
