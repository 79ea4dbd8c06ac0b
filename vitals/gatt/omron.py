"""A vendor's own record: blood pressure as Omron cuffs keep it in their memory (models before the SIG profile).

Two families of layout. 14 bytes, bits counted from the most significant bit of the first byte: diastolic, systolic
less 25, year, pulse, then movement, irregular pulse, month, day, hour, minute, second. 16 bytes: the same fields the
other way round, as one little-endian number. An empty slot of the memory is all ones.

A packet is its length, a command of two bytes, an address, a size, data, and a byte that makes the exclusive or of all of
them zero; packets longer than 16 bytes are spread over the channels. Sources: public protocol notes of these models; no
captured frame of ours.
"""

from __future__ import annotations

import functools
import operator
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


# the memory is read by packets over four characteristics each way
WRITE_CHANNELS = (
    "db5b55e0-aee7-11e1-965e-0002a5d5c51b", "e0b8a060-aee7-11e1-92f4-0002a5d5c51b",
    "0ae12b00-aee8-11e1-a192-0002a5d5c51b", "10e1ba60-aee8-11e1-89e5-0002a5d5c51b",
)  # fmt: skip
READ_CHANNELS = (
    "49123040-aee8-11e1-a74d-0002a5d5c51b", "4d0bf320-aee8-11e1-a0d9-0002a5d5c51b",
    "5128ce60-aee8-11e1-b84b-0002a5d5c51b", "560f1420-aee8-11e1-8184-0002a5d5c51b",
)  # fmt: skip
CHANNEL = 16  # bytes
BEGIN, READ, END = 0x0000, 0x0100, 0x0F00
ANSWER = 0x8000


def packet(command: int, address: int = 0, size: int = 0, data: bytes = b"") -> bytes:
    """One packet with its checksum."""
    body = command.to_bytes(2, "big") + address.to_bytes(2, "big") + bytes((size,)) + data
    whole = bytes((len(body) + 3,)) + body + b"\0"
    return whole + bytes((functools.reduce(operator.xor, whole),))


def unpacked(whole: bytes) -> tuple[int, int, bytes]:
    """(command, address, data) of a packet; raises DecodeError `omron_packet`."""
    if len(whole) < 8 or whole[0] != len(whole) or functools.reduce(operator.xor, whole):
        raise DecodeError("omron_packet", whole.hex()[:64])
    return int.from_bytes(whole[1:3], "big"), int.from_bytes(whole[3:5], "big"), whole[6 : 6 + whole[5]]
