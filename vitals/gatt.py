"""GATT characteristic values as values: decode and encode side by side, any bytes → value or `DecodeError`.

Layouts follow the Bluetooth SIG GATT Specification Supplement; field names of `as_json` are what
`yizhan gatt decode` prints. Lengths are strict: a frame that is longer or shorter than its flags say is not
guessed at (a device that does so on purpose gets a quirk by model).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from typing import Any, NamedTuple

from vitals import sfloat
from vitals.errors import DecodeError
from vitals.metric import KPA_TO_MMHG
from vitals.sfloat import Special


def uuid16(number: int) -> str:
    """The 128-bit text form that bleak uses for a 16-bit assigned number."""
    return f"0000{number:04x}-0000-1000-8000-00805f9b34fb"


BLOOD_PRESSURE_SERVICE = uuid16(0x1810)
BLOOD_PRESSURE_MEASUREMENT = uuid16(0x2A35)
BLOOD_PRESSURE_FEATURE = uuid16(0x2A49)
CURRENT_TIME_SERVICE = uuid16(0x1805)
CURRENT_TIME = uuid16(0x2A2B)
DEVICE_INFORMATION_SERVICE = uuid16(0x180A)
BATTERY_SERVICE = uuid16(0x180F)
BATTERY_LEVEL = uuid16(0x2A19)


class DeviceTime(NamedTuple):
    """The SIG DateTime (2A08, 7 bytes), exactly as sent: a device may say month 0 ("unknown") or day 32."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceTime:
        if len(data) != 7:
            raise DecodeError("date_time_length", f"{len(data)} bytes, 7 expected")
        return cls(*struct.unpack("<HBBBBB", data))

    @classmethod
    def of(cls, moment: datetime) -> DeviceTime:
        return cls(moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second)

    def __bytes__(self) -> bytes:
        return struct.pack("<HBBBBB", *self)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}-{self.day:02d}T{self.hour:02d}:{self.minute:02d}:{self.second:02d}"

    def calendar(self) -> datetime | None:
        """Naive wall-clock time, or None when it is no date ("unknown" zeros included)."""
        try:
            return datetime(*self)  # noqa: DTZ001  a device has no zone; whoever corrects it knows one
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class CurrentTime:
    """2A2B: wall-clock time, weekday (1 = Monday, 0 unknown), 1/256 s and the reason of the last adjustment."""

    time: DeviceTime
    weekday: int = 0
    fraction_256: int = 0
    adjust_reason: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> CurrentTime:
        if len(data) != 10:
            raise DecodeError("current_time_length", f"{len(data)} bytes, 10 expected")
        if data[7] > 7:
            raise DecodeError("current_time_weekday", str(data[7]))
        return cls(DeviceTime.from_bytes(data[:7]), data[7], data[8], data[9])

    def __bytes__(self) -> bytes:
        return bytes(self.time) + bytes((self.weekday, self.fraction_256, self.adjust_reason))


class BloodPressureStatus(IntFlag):
    """Measurement Status of 2A35; bits 3-4 are the pulse range as a number (0 ok, 1 above, 2 below)."""

    BODY_MOVEMENT = 0x01
    CUFF_TOO_LOOSE = 0x02
    IRREGULAR_PULSE = 0x04
    PULSE_ABOVE_RANGE = 0x08
    PULSE_BELOW_RANGE = 0x10
    IMPROPER_POSITION = 0x20


_PULSE_RANGE = ("in_range", "above", "below", "reserved")
_KPA, _TIME, _PULSE, _USER, _STATUS = 0x01, 0x02, 0x04, 0x08, 0x10
_USER_UNKNOWN = 0xFF


@dataclass(frozen=True, slots=True)
class BloodPressureMeasurement:
    """2A35 (indicate) and 2A36: pressures in `unit` as sent ("mm[Hg]" or "kPa"); absent fields are None.

    user: None when the field is absent, 255 when the device does not know. reserved: flag bits 5-7, kept.
    """

    systolic: float | Special
    diastolic: float | Special
    mean_arterial: float | Special
    unit: str = "mm[Hg]"
    timestamp: DeviceTime | None = None
    pulse: float | Special | None = None
    user: int | None = None
    status: BloodPressureStatus | None = None
    reserved: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> BloodPressureMeasurement:
        if len(data) < 7:
            raise DecodeError("blood_pressure_length", f"{len(data)} bytes, at least 7 expected")
        flags = data[0]
        expected = 7 + 7 * bool(flags & _TIME) + 2 * bool(flags & _PULSE) + bool(flags & _USER) + 2 * bool(flags & _STATUS)
        if len(data) != expected:
            raise DecodeError("blood_pressure_length", f"{len(data)} bytes, the flags say {expected}")
        systolic, diastolic, mean = (sfloat.decode(word) for word in struct.unpack_from("<3H", data, 1))
        at = 7
        timestamp = pulse = user = status = None
        if flags & _TIME:
            timestamp = DeviceTime.from_bytes(data[at : at + 7])
            at += 7
        if flags & _PULSE:
            pulse = sfloat.decode(struct.unpack_from("<H", data, at)[0])
            at += 2
        if flags & _USER:
            user = data[at]
            at += 1
        if flags & _STATUS:
            status = BloodPressureStatus(struct.unpack_from("<H", data, at)[0])
        unit = "kPa" if flags & _KPA else "mm[Hg]"
        return cls(systolic, diastolic, mean, unit, timestamp, pulse, user, status, flags & 0xE0)

    def __bytes__(self) -> bytes:
        flags = (
            self.reserved
            | _KPA * (self.unit == "kPa")
            | _TIME * (self.timestamp is not None)
            | _PULSE * (self.pulse is not None)
            | _USER * (self.user is not None)
            | _STATUS * (self.status is not None)
        )
        out = struct.pack("<B3H", flags, *(sfloat.encode(v) for v in (self.systolic, self.diastolic, self.mean_arterial)))
        if self.timestamp is not None:
            out += bytes(self.timestamp)
        if self.pulse is not None:
            out += struct.pack("<H", sfloat.encode(self.pulse))
        if self.user is not None:
            out += bytes((self.user,))
        if self.status is not None:
            out += struct.pack("<H", int(self.status))
        return out

    def pressures_mmhg(self) -> tuple[float | Special, float | Special, float | Special]:
        """Systolic, diastolic, mean in mm[Hg], converted without rounding (1 kPa = 7.50062 mmHg)."""
        factor = KPA_TO_MMHG if self.unit == "kPa" else 1.0

        def convert(value: float | Special) -> float | Special:
            return value if isinstance(value, Special) else value * factor

        return convert(self.systolic), convert(self.diastolic), convert(self.mean_arterial)

    def flag_names(self) -> list[str]:
        """Status bits as the words that travel in `Measurement.flags`."""
        return [] if self.status is None else [bit.name.lower() for bit in BloodPressureStatus if bit in self.status and bit.name]

    def as_json(self) -> dict[str, Any]:
        """The stable output of `yizhan gatt decode 2A35`: numbers as sent; null for absent, NaN or unknown."""

        def number(value: float | Special | None) -> float | None:
            return None if value is None or isinstance(value, Special) else value

        fields = {"systolic": self.systolic, "diastolic": self.diastolic, "mean": self.mean_arterial, "pulse_rate": self.pulse}
        status = self.status if self.status is not None else BloodPressureStatus(0)
        return {
            "unit": self.unit,
            **{name: number(value) for name, value in fields.items()},
            "pulse_unit": "/min",
            "timestamp": str(self.timestamp) if self.timestamp and self.timestamp.calendar() else None,
            "user_id": None if self.user in (None, _USER_UNKNOWN) else self.user,
            "status_raw": None if self.status is None else int(self.status),
            "body_movement": BloodPressureStatus.BODY_MOVEMENT in status,
            "cuff_too_loose": BloodPressureStatus.CUFF_TOO_LOOSE in status,
            "irregular_pulse": BloodPressureStatus.IRREGULAR_PULSE in status,
            "pulse_range": _PULSE_RANGE[(int(status) >> 3) & 3],
            "improper_position": BloodPressureStatus.IMPROPER_POSITION in status,
            "codes": {name: value.value for name, value in fields.items() if isinstance(value, Special)},
        }


def decode_json(uuid: str, data: bytes) -> dict[str, Any]:
    """Decode one characteristic value by its 16-bit UUID ("2A35") for people and scripts.

    Raises DecodeError for an unknown characteristic and for bytes that do not decode.
    """
    match uuid.upper().removeprefix("0X"):
        case "2A35" | "2A36":
            return BloodPressureMeasurement.from_bytes(data).as_json()
        case "2A08":
            moment = DeviceTime.from_bytes(data)
            return {"timestamp": str(moment) if moment.calendar() else None, "raw": str(moment)}
        case "2A2B":
            current = CurrentTime.from_bytes(data)
            return {
                "timestamp": str(current.time) if current.time.calendar() else None,
                "weekday": current.weekday or None,
                "fraction_256": current.fraction_256,
                "adjust_reason": current.adjust_reason,
            }
        case "2A19":
            if len(data) != 1 or data[0] > 100:
                raise DecodeError("battery_level", "one byte of 0 to 100 expected")
            return {"battery_level": data[0], "unit": "%"}
        case other:
            raise DecodeError("unknown_characteristic", other)
