"""Physical Activity Monitor (0x183E): step summary 2B40 and sleep summary 2B42.

No retail band is known to speak it, so it has met no captured frame. The step summary follows the GATT Specification
Supplement as noted by implementers; the sleep summary's order of fields follows the same pattern and is to be verified
against the specification before a real device is trusted. A summary in several segments is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import Reader, unsigned

SINGLE_SEGMENT = 0x03  # first and last


@dataclass(frozen=True, slots=True)
class SummaryHeader:
    """What every summary begins with: its session, sub-session, seconds since the session began, and its number."""

    session: int
    sub_session: int
    relative: int
    sequence: int

    @classmethod
    def take(cls, reader: Reader) -> tuple[SummaryHeader, int]:
        """(header, flags); raises DecodeError `segmented` for a part of a longer summary."""
        segment = reader.unsigned()
        if segment & 0x03 != SINGLE_SEGMENT:
            raise DecodeError("segmented", f"segment header {segment:02x}")
        flags = reader.unsigned()
        return cls(reader.unsigned(2), reader.unsigned(2), reader.unsigned(4), reader.unsigned(4)), flags

    def to_bytes(self, flags: int) -> bytes:
        out = unsigned(SINGLE_SEGMENT) + unsigned(flags) + unsigned(self.session, 2) + unsigned(self.sub_session, 2)
        return out + unsigned(self.relative, 4) + unsigned(self.sequence, 4)

    def as_json(self) -> dict[str, Any]:
        return {"session_id": self.session, "sub_session_id": self.sub_session, "relative_s": self.relative, "sequence": self.sequence}


_STEP_FIELDS = ("walking_steps", "intensity_steps", "floors", "distance", "worn")
_SLEEP_FIELDS = ("total_sleep", "total_wake", "sleep_efficiency", "sleep_latency", "awakenings", "worn")


def _take(reader: Reader, flags: int, names: tuple[str, ...]) -> dict[str, int]:
    return {name: reader.unsigned(3) for bit, name in enumerate(names) if flags >> bit & 1}


def _give(value: object, names: tuple[str, ...]) -> tuple[int, bytes]:
    told = [(bit, getattr(value, name)) for bit, name in enumerate(names) if getattr(value, name) is not None]
    return sum(1 << bit for bit, _ in told), b"".join(unsigned(number, 3) for _, number in told)


@dataclass(frozen=True, slots=True)
class StepSummary:
    """2B40 (notify, indicate): counts over the sub-session; distance in metres, worn in seconds."""

    header: SummaryHeader
    walking_steps: int | None = None
    intensity_steps: int | None = None
    floors: int | None = None
    distance: int | None = None
    worn: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> StepSummary:
        reader = Reader(data, "step_summary")
        header, flags = SummaryHeader.take(reader)
        found = cls(header, **_take(reader, flags, _STEP_FIELDS))
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        flags, body = _give(self, _STEP_FIELDS)
        return self.header.to_bytes(flags) + body

    def steps(self) -> int | None:
        """Walking and intensity steps together; None if it counted neither."""
        told = [count for count in (self.walking_steps, self.intensity_steps) if count is not None]
        return sum(told) if told else None

    def not_a_reading(self) -> list[str]:
        return ["no_value"] if self.steps() is None else []

    def as_json(self) -> dict[str, Any]:
        names = {"walking_steps": self.walking_steps, "intensity_steps": self.intensity_steps, "floors": self.floors}
        return {**self.header.as_json(), "steps": self.steps(), **names, "distance_m": self.distance, "worn_s": self.worn}


@dataclass(frozen=True, slots=True)
class SleepSummary:
    """2B42 (notify, indicate): durations in seconds, efficiency in percent, awakenings as a count."""

    header: SummaryHeader
    total_sleep: int | None = None
    total_wake: int | None = None
    sleep_efficiency: int | None = None
    sleep_latency: int | None = None
    awakenings: int | None = None
    worn: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> SleepSummary:
        reader = Reader(data, "sleep_summary")
        header, flags = SummaryHeader.take(reader)
        found = cls(header, **_take(reader, flags, _SLEEP_FIELDS))
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        flags, body = _give(self, _SLEEP_FIELDS)
        return self.header.to_bytes(flags) + body

    def not_a_reading(self) -> list[str]:
        return ["no_value"] if self.total_sleep is None else []

    def as_json(self) -> dict[str, Any]:
        return {
            **self.header.as_json(), "total_sleep_s": self.total_sleep, "total_wake_s": self.total_wake,
            "sleep_efficiency_pct": self.sleep_efficiency, "sleep_latency_s": self.sleep_latency, "awakenings": self.awakenings,
            "worn_s": self.worn,
        }  # fmt: skip
