"""Continuous glucose (0x181F): measurement 2AA7, feature 2AA8, status 2AA9, session start 2AAA, run time 2AAB, control point 2AAC.

Glucose in mg/dL; a record's time is the session's start plus minutes. The E2E-CRC is the Bluetooth SIG's (MCRF4XX);
one pump family sends CRC-16/CCITT-FALSE instead, so both are known, and a model may allow only one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import CRC_VARIANTS, DeviceTime, Reader, codes, number, sfloat16, signed, time_text, unsigned
from vitals.gatt.glucose import SAMPLE_LOCATIONS, SAMPLE_TYPES
from vitals.sfloat import Special

_TREND, _QUALITY, _WARNING, _CALIBRATION, _STATUS = 0x01, 0x02, 0x20, 0x40, 0x80
CRC_SIG, CRC_CCITT = CRC_VARIANTS
NO_CRC = 0xFFFF  # what a feature sends in place of a checksum when it has none

STATUS_BITS = ("session_stopped", "battery_low", "sensor_type_incorrect", "sensor_malfunction", "device_alert", "general_fault")
CALIBRATION_BITS = (
    "time_sync_required", "calibration_not_allowed", "calibration_recommended", "calibration_required", "sensor_too_hot", "sensor_too_cold",
)  # fmt: skip
WARNING_BITS = ("below_patient_low", "above_patient_high", "hypo", "hyper", "rate_decrease", "rate_increase", "result_low", "result_high")
RESULT_LOW, RESULT_HIGH = 0x40, 0x80
UNSUCCESSFUL = 0b101101  # stopped, wrong type, malfunction, general fault


def _names(bits: tuple[str, ...], value: int | None) -> list[str]:
    return [] if value is None else [name for bit, name in enumerate(bits) if value >> bit & 1]


def split_crc(data: bytes, quirks: frozenset[str]) -> tuple[bytes, str]:
    """Take the checksum off the end: (body, variant); raises DecodeError `cgm_crc`. quirk `crc_ccitt_false` allows only that one."""
    body, told = data[:-2], int.from_bytes(data[-2:], "little")
    allowed = (CRC_CCITT,) if "crc_ccitt_false" in quirks else (CRC_SIG,) if "crc_sig" in quirks else (CRC_SIG, CRC_CCITT)
    for variant in allowed:
        if CRC_VARIANTS[variant](body) == told:
            return body, variant
    raise DecodeError("cgm_crc", f"{told:04x} fits {' or '.join(allowed)} of no such bytes")


@dataclass(frozen=True, slots=True)
class GlucoseRecord:
    """One record of 2AA7: glucose mg/dL, minutes since the session's start, and what the flags announce."""

    glucose: float | Special
    minutes: int
    status: int | None = None
    calibration: int | None = None
    warning: int | None = None
    trend: float | Special | None = None
    quality: float | Special | None = None
    crc_variant: str | None = None

    @classmethod
    def from_bytes(cls, data: bytes, quirks: frozenset[str] = frozenset()) -> GlucoseRecord:
        """One record, its size byte first."""
        reader = Reader(data, "cgm")
        size, flags = reader.unsigned(), reader.unsigned()
        if size != len(data):
            raise DecodeError("cgm_length", f"{len(data)} bytes, the record says {size}")
        glucose, minutes = reader.sfloat(), reader.unsigned(2)
        status = reader.unsigned() if flags & _STATUS else None
        calibration = reader.unsigned() if flags & _CALIBRATION else None
        warning = reader.unsigned() if flags & _WARNING else None
        trend = reader.sfloat() if flags & _TREND else None
        quality = reader.sfloat() if flags & _QUALITY else None
        variant = None
        if reader.left():
            if reader.left() != 2:
                raise DecodeError("cgm_length", f"{size} bytes, the flags say {size - reader.left()}")
            variant = split_crc(data, quirks)[1]
        return cls(glucose, minutes, status, calibration, warning, trend, quality, variant)

    def __bytes__(self) -> bytes:
        flags = (
            _TREND * (self.trend is not None) | _QUALITY * (self.quality is not None) | _WARNING * (self.warning is not None)
            | _CALIBRATION * (self.calibration is not None) | _STATUS * (self.status is not None)
        )  # fmt: skip
        out = unsigned(flags) + sfloat16(self.glucose) + unsigned(self.minutes, 2)
        for octet in (self.status, self.calibration, self.warning):
            out += unsigned(octet) if octet is not None else b""
        out += sfloat16(self.trend) if self.trend is not None else b""
        out += sfloat16(self.quality) if self.quality is not None else b""
        size = 1 + len(out) + (2 if self.crc_variant else 0)
        out = unsigned(size) + out
        return out + (unsigned(CRC_VARIANTS[self.crc_variant](out), 2) if self.crc_variant else b"")

    def out_of_range(self) -> str | None:
        """ "HI" or "LO" when the sensor says that the value lies beyond what it can measure."""
        bits = (self.warning or 0) & (RESULT_LOW | RESULT_HIGH)
        return {RESULT_LOW: "LO", RESULT_HIGH: "HI"}.get(bits)

    def flag_names(self) -> list[str]:
        return _names(STATUS_BITS, self.status) + _names(CALIBRATION_BITS, self.calibration) + _names(WARNING_BITS, self.warning)

    def not_a_reading(self) -> list[str]:
        reasons = ["unsuccessful"] if (self.status or 0) & UNSUCCESSFUL else []
        empty = not isinstance(self.glucose, Special) and self.glucose <= 0
        return reasons + (["no_value"] if empty and self.out_of_range() is None else [])

    def as_json(self) -> dict[str, Any]:
        return {
            "glucose_mg_dl": number(self.glucose),
            "time_offset_min": self.minutes,
            "status_raw": self.status,
            "cal_temp_raw": self.calibration,
            "warning_raw": self.warning,
            "annunciations": self.flag_names(),
            "trend_mg_dl_min": number(self.trend),
            "quality_pct": number(self.quality),
            "crc_variant": self.crc_variant,
            "codes": codes(glucose=self.glucose, trend=self.trend, quality=self.quality),
        }


@dataclass(frozen=True, slots=True)
class GlucoseRecords:
    """2AA7 (notify): one or several records in one notification."""

    records: tuple[GlucoseRecord, ...]

    @classmethod
    def from_bytes(cls, data: bytes, quirks: frozenset[str] = frozenset()) -> GlucoseRecords:
        found: list[GlucoseRecord] = []
        at = 0
        while at < len(data) or not found:
            size = data[at] if at < len(data) else 0
            if size < 6 or at + size > len(data):
                raise DecodeError("cgm_length", f"{len(data)} bytes, a record of {size} at {at}")
            found.append(GlucoseRecord.from_bytes(data[at : at + size], quirks))
            at += size
        return cls(tuple(found))

    @staticmethod
    def slices(data: bytes) -> list[bytes]:
        """The bytes of each record of a notification that decodes."""
        found, at = [], 0
        while at < len(data):
            found.append(data[at : at + data[at]])
            at += data[at]
        return found

    def __bytes__(self) -> bytes:
        return b"".join(bytes(record) for record in self.records)

    def not_a_reading(self) -> list[str]:
        """Only when no record of it is one."""
        reasons = [record.not_a_reading() for record in self.records]
        return reasons[0] if all(reasons) else []

    def as_json(self) -> dict[str, Any]:
        """The first record's fields, and `records` with all of them."""
        sizes = [{"size": len(bytes(record)), **record.as_json()} for record in self.records]
        return {**sizes[0], "records": sizes}


@dataclass(frozen=True, slots=True)
class GlucoseMonitorFeature:
    """2AA8: 24 feature bits, sample type and location, checksum (0xFFFF when it has none)."""

    bits: int
    sample_type: int
    sample_location: int
    crc_variant: str | None = None

    NAMES = (
        "calibration", "patient_alerts", "hypo_alerts", "hyper_alerts", "rate_alerts", "device_alerts", "malfunction_detection",
        "temperature_detection", "result_detection", "low_battery", "type_error", "general_fault", "e2e_crc", "multiple_bonds",
        "multiple_sessions", "trend", "quality",
    )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes, quirks: frozenset[str] = frozenset()) -> GlucoseMonitorFeature:
        reader = Reader(data, "cgm_feature")
        bits, nibbles, told = reader.unsigned(3), reader.unsigned(), reader.unsigned(2)
        reader.end()
        variant = split_crc(data, quirks)[1] if bits >> 12 & 1 and told != NO_CRC else None
        return cls(bits, nibbles & 0x0F, nibbles >> 4, variant)

    def __bytes__(self) -> bytes:
        body = unsigned(self.bits, 3) + unsigned(self.sample_location << 4 | self.sample_type)
        return body + unsigned(CRC_VARIANTS[self.crc_variant](body) if self.crc_variant else NO_CRC, 2)

    def not_a_reading(self) -> list[str]:
        return ["feature"]

    def as_json(self) -> dict[str, Any]:
        return {
            "features_raw": self.bits,
            **{f"{name}_supported": bool(self.bits >> bit & 1) for bit, name in enumerate(self.NAMES)},
            "sample_type": SAMPLE_TYPES[self.sample_type] if self.sample_type < len(SAMPLE_TYPES) else "reserved",
            "sample_location": SAMPLE_LOCATIONS.get(self.sample_location, "reserved"),
            "crc_variant": self.crc_variant,
        }


@dataclass(frozen=True, slots=True)
class GlucoseMonitorStatus:
    """2AA9: minutes since the session's start and three octets of status."""

    minutes: int
    status: int
    calibration: int
    warning: int
    crc_variant: str | None = None

    @classmethod
    def from_bytes(cls, data: bytes, quirks: frozenset[str] = frozenset()) -> GlucoseMonitorStatus:
        variant = None
        if len(data) == 7:
            data, variant = split_crc(data, quirks)
        reader = Reader(data, "cgm_status")
        found = cls(reader.unsigned(2), reader.unsigned(), reader.unsigned(), reader.unsigned(), variant)
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        body = unsigned(self.minutes, 2) + bytes((self.status, self.calibration, self.warning))
        return body + (unsigned(CRC_VARIANTS[self.crc_variant](body), 2) if self.crc_variant else b"")

    def not_a_reading(self) -> list[str]:
        return ["status"]

    def as_json(self) -> dict[str, Any]:
        names = _names(STATUS_BITS, self.status) + _names(CALIBRATION_BITS, self.calibration) + _names(WARNING_BITS, self.warning)
        raw = {"status_raw": self.status, "cal_temp_raw": self.calibration, "warning_raw": self.warning}
        return {"time_offset_min": self.minutes, **raw, "annunciations": names, "crc_variant": self.crc_variant}


ZONE_UNKNOWN, DST_UNKNOWN = -128, 255


@dataclass(frozen=True, slots=True)
class SessionStart:
    """2AAA: when the sensor session began, on the device's wall clock. zone in quarters of an hour, dst likewise."""

    time: DeviceTime
    zone: int = ZONE_UNKNOWN
    dst: int = DST_UNKNOWN
    crc_variant: str | None = None

    @classmethod
    def from_bytes(cls, data: bytes, quirks: frozenset[str] = frozenset()) -> SessionStart:
        variant = None
        if len(data) == 11:
            data, variant = split_crc(data, quirks)
        reader = Reader(data, "cgm_session_start")
        found = cls(reader.date_time(), reader.signed(), reader.unsigned(), variant)
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        body = bytes(self.time) + signed(self.zone) + unsigned(self.dst)
        return body + (unsigned(CRC_VARIANTS[self.crc_variant](body), 2) if self.crc_variant else b"")

    def not_a_reading(self) -> list[str]:
        return ["session"]

    def as_json(self) -> dict[str, Any]:
        return {
            "session_start": time_text(self.time),
            "time_zone_min": None if self.zone == ZONE_UNKNOWN else self.zone * 15,
            "dst_offset_min": None if self.dst == DST_UNKNOWN else self.dst * 15,
            "crc_variant": self.crc_variant,
        }


@dataclass(frozen=True, slots=True)
class RunTime:
    """2AAB: how long the sensor can run, in hours."""

    hours: int
    crc_variant: str | None = None

    @classmethod
    def from_bytes(cls, data: bytes, quirks: frozenset[str] = frozenset()) -> RunTime:
        variant = None
        if len(data) == 4:
            data, variant = split_crc(data, quirks)
        reader = Reader(data, "cgm_run_time")
        found = cls(reader.unsigned(2), variant)
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        body = unsigned(self.hours, 2)
        return body + (unsigned(CRC_VARIANTS[self.crc_variant](body), 2) if self.crc_variant else b"")

    def not_a_reading(self) -> list[str]:
        return ["session"]

    def as_json(self) -> dict[str, Any]:
        return {"run_time_h": self.hours, "crc_variant": self.crc_variant}


CONTROL_OPS = {
    1: "set communication interval", 2: "get communication interval", 3: "communication interval response", 4: "set calibration",
    5: "get calibration", 6: "calibration response", 7: "set patient high alert", 8: "get patient high alert",
    9: "patient high alert response", 10: "set patient low alert", 11: "get patient low alert", 12: "patient low alert response",
    13: "set hypo alert", 14: "get hypo alert", 15: "hypo alert response", 16: "set hyper alert", 17: "get hyper alert",
    18: "hyper alert response", 19: "set rate of decrease alert", 20: "get rate of decrease alert", 21: "rate of decrease alert response",
    22: "set rate of increase alert", 23: "get rate of increase alert", 24: "rate of increase alert response",
    25: "reset device specific alert", 26: "start session", 27: "stop session", 28: "response",
}  # fmt: skip
_CONTROL_ANSWERS = {
    1: "success",
    2: "op code not supported",
    3: "invalid operand",
    4: "procedure not completed",
    5: "parameter out of range",
}
CONTROL_RESPONSE = 28


@dataclass(frozen=True, slots=True)
class ControlPoint:
    """2AAC: session commands and their responses; operand bytes are kept, the checksum (if any) among them."""

    op: int
    operand: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> ControlPoint:
        reader = Reader(data, "cgm_control")
        op = reader.unsigned()
        if op not in CONTROL_OPS:
            raise DecodeError("cgm_control_op", str(op))
        operand = reader.rest()
        if op == CONTROL_RESPONSE and len(operand) not in (2, 4):
            raise DecodeError("cgm_control_length", f"{len(data)} bytes")
        return cls(op, operand)

    def __bytes__(self) -> bytes:
        return bytes((self.op,)) + self.operand

    def not_a_reading(self) -> list[str]:
        return ["control_point"]

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"op": CONTROL_OPS[self.op], "operand": self.operand.hex()}
        if self.op == CONTROL_RESPONSE:
            answer = _CONTROL_ANSWERS.get(self.operand[1], "reserved")
            found |= {"request_op": CONTROL_OPS.get(self.operand[0], "reserved"), "response": answer}
        return found
