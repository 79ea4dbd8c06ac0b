"""Blood Pressure (0x1810): measurement 2A35, intermediate cuff pressure 2A36, feature 2A49, enhanced measurement 2B34.

Source: GATT Specification Supplement; Blood Pressure Service 1.1 for the enhanced form. 1 kPa = 7.50062 mm[Hg].
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntFlag
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import DeviceTime, Reader, codes, number, sfloat16, time_text, unsigned
from vitals.metric import KPA_TO_MMHG
from vitals.sfloat import Special

USER_UNKNOWN = 0xFF
_KPA, _TIME, _PULSE, _USER, _STATUS, _FACING, _EPOCH_2000 = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40
_PULSE_RANGE = ("in_range", "above", "below", "reserved")


class BloodPressureStatus(IntFlag):
    """Measurement Status; bits 3-4 are the pulse range as a number (0 ok, 1 above, 2 below)."""

    BODY_MOVEMENT = 0x01
    CUFF_TOO_LOOSE = 0x02
    IRREGULAR_PULSE = 0x04
    PULSE_ABOVE_RANGE = 0x08
    PULSE_BELOW_RANGE = 0x10
    IMPROPER_POSITION = 0x20


def status_json(raw: BloodPressureStatus | None) -> dict[str, Any]:
    """The status bits under their names; absent bits are False, status_raw tells whether the field was there."""
    status = raw if raw is not None else BloodPressureStatus(0)
    return {
        "status_raw": None if raw is None else int(raw),
        "body_movement": BloodPressureStatus.BODY_MOVEMENT in status,
        "cuff_too_loose": BloodPressureStatus.CUFF_TOO_LOOSE in status,
        "irregular_pulse": BloodPressureStatus.IRREGULAR_PULSE in status,
        "pulse_range": _PULSE_RANGE[(int(status) >> 3) & 3],
        "improper_position": BloodPressureStatus.IMPROPER_POSITION in status,
    }


@dataclass(frozen=True, slots=True)
class BloodPressureMeasurement:
    """2A35 (indicate) and 2A36: pressures in `unit` as sent ("mm[Hg]" or "kPa"); absent fields are None.

    user: None when the field is absent, 255 when the device does not know. reserved: flag bits 5-7, kept.
    intermediate: a 2A36, the cuff's pressure on the way (`systolic`), never a result.
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
    intermediate: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, quirks: frozenset[str] = frozenset(), *, intermediate: bool = False) -> BloodPressureMeasurement:
        """quirks: `pulse_status_swapped_with_user` (Beurer BM85), `plain_u16_pressures` (Silvercrest SBM69)."""
        if "pulse_status_swapped_with_user" in quirks:
            data = _unswapped(data)
        reader = Reader(data, "blood_pressure")
        flags = reader.unsigned()
        plain = "plain_u16_pressures" in quirks
        systolic, diastolic, mean = (float(reader.unsigned(2)) if plain else reader.sfloat() for _ in range(3))
        found = cls(
            systolic, diastolic, mean, "kPa" if flags & _KPA else "mm[Hg]",
            timestamp=reader.date_time() if flags & _TIME else None,
            pulse=reader.sfloat() if flags & _PULSE else None,
            user=reader.unsigned() if flags & _USER else None,
            status=BloodPressureStatus(reader.unsigned(2)) if flags & _STATUS else None,
            reserved=flags & 0xE0, intermediate=intermediate,
        )  # fmt: skip
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        flags = (
            self.reserved
            | _KPA * (self.unit == "kPa")
            | _TIME * (self.timestamp is not None)
            | _PULSE * (self.pulse is not None)
            | _USER * (self.user is not None)
            | _STATUS * (self.status is not None)
        )
        out = unsigned(flags) + sfloat16(self.systolic) + sfloat16(self.diastolic) + sfloat16(self.mean_arterial)
        out += bytes(self.timestamp) if self.timestamp is not None else b""
        out += sfloat16(self.pulse) if self.pulse is not None else b""
        out += unsigned(self.user) if self.user is not None else b""
        return out + (unsigned(int(self.status), 2) if self.status is not None else b"")

    def pressures_mmhg(self) -> tuple[float | Special, float | Special, float | Special]:
        """Systolic, diastolic, mean in mm[Hg], converted without rounding."""
        factor = KPA_TO_MMHG if self.unit == "kPa" else 1.0

        def convert(value: float | Special) -> float | Special:
            return value if isinstance(value, Special) else value * factor

        return convert(self.systolic), convert(self.diastolic), convert(self.mean_arterial)

    def flag_names(self) -> list[str]:
        """Status bits as the words that travel in `Measurement.flags`."""
        return [] if self.status is None else [bit.name.lower() for bit in BloodPressureStatus if bit in self.status and bit.name]

    def not_a_reading(self) -> list[str]:
        if self.intermediate:
            return ["intermediate"]
        return ["zero_filled"] if self.systolic == 0 and self.diastolic == 0 else []

    def as_json(self) -> dict[str, Any]:
        """Numbers as sent; null for absent, NaN or unknown. A mean of 0 is how some cuffs say "not computed"."""
        return {
            "unit": self.unit,
            "systolic": number(self.systolic),
            "diastolic": number(self.diastolic),
            "mean": number(self.mean_arterial) or None,
            "timestamp": time_text(self.timestamp),
            "pulse_rate": number(self.pulse),
            "pulse_unit": "/min",
            "user_id": None if self.user in (None, USER_UNKNOWN) else self.user,
            **status_json(self.status),
            "codes": codes(systolic=self.systolic, diastolic=self.diastolic, mean=self.mean_arterial, pulse_rate=self.pulse),
        }


def _unswapped(data: bytes) -> bytes:
    """A Beurer BM85 frame as the profile would have it: pulse and status little endian, the user's flag told.

    The cuff sends both words big endian and a user byte although flag bit 3 is 0 (seen in captured frames).
    """
    flags = data[0] if data else 0
    at = 7 + 7 * bool(flags & _TIME)
    size = at + 2 * bool(flags & _PULSE) + 1 + 2 * bool(flags & _STATUS)
    if flags & _USER or not flags & _PULSE or len(data) != size:
        raise DecodeError("blood_pressure_length", f"{len(data)} bytes, this model sends {size} with a user it does not announce")
    pulse, user, status = data[at : at + 2], data[at + 2 : at + 3], data[at + 3 :]
    return unsigned(flags | _USER) + data[1:at] + pulse[::-1] + user + status[::-1]


FEATURES = ("body_movement", "cuff_fit", "irregular_pulse", "pulse_range", "position", "multiple_bonds")  # bits of 2A49

EPOCH_1900, EPOCH_2000 = datetime(1900, 1, 1), datetime(2000, 1, 1)  # noqa: DTZ001  the device's own wall clock


@dataclass(frozen=True, slots=True)
class EnhancedBloodPressure:
    """2B34: as 2A35, with times as u32 seconds since 1900 or 2000 (`epoch_2000`) and the time the user saw."""

    systolic: float | Special
    diastolic: float | Special
    mean_arterial: float | Special
    unit: str = "mm[Hg]"
    seconds: int | None = None
    pulse: float | Special | None = None
    user: int | None = None
    status: BloodPressureStatus | None = None
    user_facing_seconds: int | None = None
    epoch_2000: bool = True

    @classmethod
    def from_bytes(cls, data: bytes) -> EnhancedBloodPressure:
        reader = Reader(data, "enhanced_blood_pressure")
        flags = reader.unsigned()
        found = cls(
            reader.sfloat(), reader.sfloat(), reader.sfloat(), "kPa" if flags & _KPA else "mm[Hg]",
            seconds=reader.unsigned(4) if flags & _TIME else None,
            pulse=reader.sfloat() if flags & _PULSE else None,
            user=reader.unsigned() if flags & _USER else None,
            status=BloodPressureStatus(reader.unsigned(2)) if flags & _STATUS else None,
            user_facing_seconds=reader.unsigned(4) if flags & _FACING else None,
            epoch_2000=bool(flags & _EPOCH_2000),
        )  # fmt: skip
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        flags = (
            _KPA * (self.unit == "kPa") | _TIME * (self.seconds is not None) | _PULSE * (self.pulse is not None)
            | _USER * (self.user is not None) | _STATUS * (self.status is not None)
            | _FACING * (self.user_facing_seconds is not None) | _EPOCH_2000 * self.epoch_2000
        )  # fmt: skip
        out = unsigned(flags) + sfloat16(self.systolic) + sfloat16(self.diastolic) + sfloat16(self.mean_arterial)
        out += unsigned(self.seconds, 4) if self.seconds is not None else b""
        out += sfloat16(self.pulse) if self.pulse is not None else b""
        out += unsigned(self.user) if self.user is not None else b""
        out += unsigned(int(self.status), 2) if self.status is not None else b""
        return out + (unsigned(self.user_facing_seconds, 4) if self.user_facing_seconds is not None else b"")

    def _time(self, seconds: int | None) -> DeviceTime | None:
        return None if seconds is None else DeviceTime.of((EPOCH_2000 if self.epoch_2000 else EPOCH_1900) + timedelta(seconds=seconds))

    def plain(self) -> BloodPressureMeasurement:
        """The same result as a 2A35, with the time the user saw if there is one."""
        seconds = self.seconds if self.user_facing_seconds is None else self.user_facing_seconds
        return BloodPressureMeasurement(
            self.systolic, self.diastolic, self.mean_arterial, self.unit, self._time(seconds), self.pulse, self.user, self.status
        )

    def not_a_reading(self) -> list[str]:
        return self.plain().not_a_reading()

    def as_json(self) -> dict[str, Any]:
        times = {"timestamp": time_text(self._time(self.seconds)), "user_facing_time": time_text(self._time(self.user_facing_seconds))}
        return {**self.plain().as_json(), **times}
