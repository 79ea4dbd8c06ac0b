"""Pulse Oximeter (0x1822): spot check 2A5E, continuous 2A5F, features 2A60.

A result without a finger, from a demonstration or from a disconnected sensor is recognised and never a person's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from vitals.gatt.fields import DeviceTime, Reader, codes, number, sfloat16, time_text, unsigned
from vitals.sfloat import Special


class MeasurementStatus(IntFlag):
    ONGOING = 1 << 5
    EARLY_ESTIMATE = 1 << 6
    VALIDATED = 1 << 7
    FULLY_QUALIFIED = 1 << 8
    FROM_STORAGE = 1 << 9
    DEMONSTRATION = 1 << 10
    TESTING = 1 << 11
    CALIBRATING = 1 << 12
    UNAVAILABLE = 1 << 13
    QUESTIONABLE = 1 << 14
    INVALID = 1 << 15


class SensorStatus(IntFlag):
    EXTENDED_DISPLAY = 1 << 0
    EQUIPMENT_MALFUNCTION = 1 << 1
    PROCESSING_IRREGULARITY = 1 << 2
    INADEQUATE_SIGNAL = 1 << 3
    POOR_SIGNAL = 1 << 4
    LOW_PERFUSION = 1 << 5
    ERRATIC_SIGNAL = 1 << 6
    NON_PULSATILE = 1 << 7
    QUESTIONABLE_PULSE = 1 << 8
    SIGNAL_ANALYSIS = 1 << 9
    INTERFERENCE = 1 << 10
    NO_FINGER = 1 << 11
    UNKNOWN_SENSOR = 1 << 12
    DISPLACED = 1 << 13
    SENSOR_MALFUNCTION = 1 << 14
    DISCONNECTED = 1 << 15


REJECTED_MEASUREMENT = (
    MeasurementStatus.DEMONSTRATION | MeasurementStatus.TESTING | MeasurementStatus.UNAVAILABLE | MeasurementStatus.INVALID
)
REJECTED_SENSOR = SensorStatus.INTERFERENCE | SensorStatus.NO_FINGER | SensorStatus.DISPLACED | SensorStatus.DISCONNECTED


def _reasons(spo2: float | Special, measurement: int | None, sensor: int | None) -> list[str]:
    told = MeasurementStatus((measurement or 0) & 0xFFFF) & REJECTED_MEASUREMENT
    reasons = [bit.name.lower() for bit in MeasurementStatus if bit in told and bit.name]
    rejected = SensorStatus((sensor or 0) & 0xFFFF) & REJECTED_SENSOR
    reasons += [bit.name.lower() for bit in SensorStatus if bit in rejected and bit.name]
    return reasons + (["zero_filled"] if spo2 == 0 else [])


def _flag_names(measurement: int | None, sensor: int | None) -> list[str]:
    found = [bit.name.lower() for bit in MeasurementStatus if (measurement or 0) & bit and bit.name]
    return found + [bit.name.lower() for bit in SensorStatus if (sensor or 0) & bit and bit.name]


def _status_json(measurement: int | None, sensor: int | None) -> dict[str, Any]:
    return {
        "measurement_status_raw": measurement,
        "measurement_ongoing": None if measurement is None else bool(measurement & MeasurementStatus.ONGOING),
        "sensor_status_raw": sensor,
        "status": _flag_names(measurement, sensor),
    }


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """2A5E (indicate). spo2 in percent, pulse a minute, amplitude index in percent; status words as sent."""

    spo2: float | Special
    pulse: float | Special
    timestamp: DeviceTime | None = None
    measurement_status: int | None = None
    sensor_status: int | None = None
    amplitude_index: float | Special | None = None
    clock_not_set: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> SpotCheck:
        reader = Reader(data, "pulse_oximeter")
        flags = reader.unsigned()
        found = cls(
            reader.sfloat(), reader.sfloat(),
            timestamp=reader.date_time() if flags & 0x01 else None,
            measurement_status=reader.unsigned(2) if flags & 0x02 else None,
            sensor_status=reader.unsigned(3) if flags & 0x04 else None,
            amplitude_index=reader.sfloat() if flags & 0x08 else None,
            clock_not_set=bool(flags & 0x10),
        )  # fmt: skip
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        present = (self.timestamp, self.measurement_status, self.sensor_status, self.amplitude_index)
        flags = sum(1 << bit for bit, value in enumerate(present) if value is not None) | 0x10 * self.clock_not_set
        out = unsigned(flags) + sfloat16(self.spo2) + sfloat16(self.pulse)
        out += bytes(self.timestamp) if self.timestamp is not None else b""
        out += unsigned(self.measurement_status, 2) if self.measurement_status is not None else b""
        out += unsigned(self.sensor_status, 3) if self.sensor_status is not None else b""
        return out + (sfloat16(self.amplitude_index) if self.amplitude_index is not None else b"")

    def flag_names(self) -> list[str]:
        return _flag_names(self.measurement_status, self.sensor_status) + (["clock_not_set"] if self.clock_not_set else [])

    def not_a_reading(self) -> list[str]:
        return _reasons(self.spo2, self.measurement_status, self.sensor_status)

    def as_json(self) -> dict[str, Any]:
        return {
            "spo2": number(self.spo2),
            "spo2_unit": "%",
            "pulse_rate": number(self.pulse),
            "pulse_unit": "/min",
            "timestamp": time_text(self.timestamp),
            "clock_not_set": self.clock_not_set,
            **_status_json(self.measurement_status, self.sensor_status),
            "pulse_amplitude_index": number(self.amplitude_index),
            "codes": codes(spo2=self.spo2, pulse_rate=self.pulse, pulse_amplitude_index=self.amplitude_index),
        }


@dataclass(frozen=True, slots=True)
class Continuous:
    """2A5F (notify): normal averaging, and fast and slow pairs (spo2, pulse) where the sensor sends them."""

    spo2: float | Special
    pulse: float | Special
    fast: tuple[float | Special, float | Special] | None = None
    slow: tuple[float | Special, float | Special] | None = None
    measurement_status: int | None = None
    sensor_status: int | None = None
    amplitude_index: float | Special | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Continuous:
        reader = Reader(data, "pulse_oximeter")
        flags = reader.unsigned()
        found = cls(
            reader.sfloat(), reader.sfloat(),
            fast=(reader.sfloat(), reader.sfloat()) if flags & 0x01 else None,
            slow=(reader.sfloat(), reader.sfloat()) if flags & 0x02 else None,
            measurement_status=reader.unsigned(2) if flags & 0x04 else None,
            sensor_status=reader.unsigned(3) if flags & 0x08 else None,
            amplitude_index=reader.sfloat() if flags & 0x10 else None,
        )  # fmt: skip
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        present = (self.fast, self.slow, self.measurement_status, self.sensor_status, self.amplitude_index)
        out = unsigned(sum(1 << bit for bit, value in enumerate(present) if value is not None)) + sfloat16(self.spo2) + sfloat16(self.pulse)
        for pair in (self.fast, self.slow):
            out += sfloat16(pair[0]) + sfloat16(pair[1]) if pair is not None else b""
        out += unsigned(self.measurement_status, 2) if self.measurement_status is not None else b""
        out += unsigned(self.sensor_status, 3) if self.sensor_status is not None else b""
        return out + (sfloat16(self.amplitude_index) if self.amplitude_index is not None else b"")

    def flag_names(self) -> list[str]:
        return _flag_names(self.measurement_status, self.sensor_status)

    def not_a_reading(self) -> list[str]:
        return _reasons(self.spo2, self.measurement_status, self.sensor_status)

    def as_json(self) -> dict[str, Any]:
        fast, slow = self.fast or (None, None), self.slow or (None, None)
        return {
            "spo2": number(self.spo2),
            "spo2_unit": "%",
            "pulse_rate": number(self.pulse),
            "pulse_unit": "/min",
            "spo2_fast": number(fast[0]),
            "pulse_rate_fast": number(fast[1]),
            "spo2_slow": number(slow[0]),
            "pulse_rate_slow": number(slow[1]),
            **_status_json(self.measurement_status, self.sensor_status),
            "pulse_amplitude_index": number(self.amplitude_index),
            "codes": codes(spo2=self.spo2, pulse_rate=self.pulse, pulse_amplitude_index=self.amplitude_index),
        }
