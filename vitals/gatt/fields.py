"""What characteristic values are made of: a strict cursor, the date and time, checksums, and "this is no reading".

Lengths are strict: a value that is longer or shorter than its flags say is not guessed at. A device that does so on
purpose gets a quirk in the table of models.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from vitals import sfloat
from vitals.errors import DecodeError
from vitals.sfloat import Special


def uuid16(number: int) -> str:
    """The 128-bit text form that bleak uses for a 16-bit assigned number."""
    return f"0000{number:04x}-0000-1000-8000-00805f9b34fb"


class Value(Protocol):
    """One decoded value. `not_a_reading`: why it must never be published as a person's reading; empty if it may."""

    def as_json(self) -> dict[str, Any]: ...

    def not_a_reading(self) -> list[str]: ...


class Reader:
    """A cursor over one value; asking for more than there is raises DecodeError `<what>_length`, so does leaving some."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise DecodeError(f"{self._what}_length", f"{len(self._data)} bytes, the flags say more")
        self._at += size
        return taken

    def unsigned(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def sfloat(self) -> float | Special:
        return sfloat.decode(self.unsigned(2))

    def float32(self) -> float | Special:
        return sfloat.decode32(self.unsigned(4))

    def date_time(self) -> DeviceTime:
        return DeviceTime.from_bytes(self.take(7))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def left(self) -> int:
        return len(self._data) - self._at

    def end(self) -> None:
        if self.left():
            raise DecodeError(f"{self._what}_length", f"{len(self._data)} bytes, the flags say {self._at}")


def unsigned(value: int, size: int = 1) -> bytes:
    """Little endian, unsigned."""
    return value.to_bytes(size, "little")


def signed(value: int, size: int = 1) -> bytes:
    return value.to_bytes(size, "little", signed=True)


def sfloat16(value: float | Special) -> bytes:
    return unsigned(sfloat.encode(value), 2)


def float32(value: float | Special) -> bytes:
    return unsigned(sfloat.encode32(value), 4)


def number(value: float | Special | None) -> float | None:
    """A number for people and scripts, or None: absent, NaN and the other special words are no numbers."""
    return None if value is None or isinstance(value, Special) else value


def codes(**values: float | Special | None) -> dict[str, str]:
    """What the device said instead of numbers: field → special word."""
    return {name: value.value for name, value in values.items() if isinstance(value, Special)}


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


def time_text(moment: DeviceTime | None) -> str | None:
    """ISO text of a time that is one; None for an absent, unknown or impossible time."""
    return str(moment) if moment is not None and moment.calendar() is not None else None


@dataclass(frozen=True, slots=True)
class Features:
    """A characteristic that tells what a device can do, bit by bit (2A49, 2A51); later versions of a service append bytes."""

    bits: int
    names: tuple[str, ...]

    @classmethod
    def from_bytes(cls, data: bytes, names: tuple[str, ...]) -> Features:
        return cls(Reader(data, "feature").unsigned(2), names)

    def __bytes__(self) -> bytes:
        return unsigned(self.bits, 2)

    def not_a_reading(self) -> list[str]:
        return ["feature"]

    def as_json(self) -> dict[str, Any]:
        return {"features_raw": self.bits, **{f"{name}_supported": bool(self.bits >> bit & 1) for bit, name in enumerate(self.names)}}


def crc_mcrf4xx(data: bytes) -> int:
    """The E2E-CRC of the Bluetooth SIG: CRC-16, initial 0xFFFF, polynomial 0x1021 reflected (0x8408)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    return crc


def crc_ccitt_false(data: bytes) -> int:
    """CRC-16/CCITT-FALSE: the same polynomial and start, most significant bit first; one insulin pump sends it."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


CRC_VARIANTS = {"CRC-16/MCRF4XX": crc_mcrf4xx, "CRC-16/CCITT-FALSE": crc_ccitt_false}
