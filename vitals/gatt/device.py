"""What every device has beside its measurements: Current Time (0x1805), Device Information (0x180A), Battery (0x180F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import DeviceTime, Reader, signed, time_text, unsigned


@dataclass(frozen=True, slots=True)
class DateTimeValue:
    """2A08: a bare date and time, in some vendors' services the only clock."""

    time: DeviceTime

    @classmethod
    def from_bytes(cls, data: bytes) -> DateTimeValue:
        return cls(DeviceTime.from_bytes(data))

    def __bytes__(self) -> bytes:
        return bytes(self.time)

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        return {"timestamp": time_text(self.time), "raw": str(self.time)}


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

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        return {
            "timestamp": time_text(self.time),
            "weekday": self.weekday or None,
            "fraction_256": self.fraction_256,
            "adjust_reason": self.adjust_reason,
        }


@dataclass(frozen=True, slots=True)
class LocalTime:
    """2A0F: zone in quarters of an hour from UTC (-128 unknown), daylight saving likewise (255 unknown)."""

    zone: int
    dst: int

    @classmethod
    def from_bytes(cls, data: bytes) -> LocalTime:
        reader = Reader(data, "local_time")
        found = cls(reader.signed(), reader.unsigned())
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        return signed(self.zone) + unsigned(self.dst)

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        zone, dst = None if self.zone == -128 else self.zone * 15, None if self.dst == 255 else self.dst * 15
        return {"time_zone_min": zone, "dst_offset_min": dst}


@dataclass(frozen=True, slots=True)
class BatteryLevel:
    """2A19: percent."""

    level: int

    @classmethod
    def from_bytes(cls, data: bytes) -> BatteryLevel:
        if len(data) != 1 or data[0] > 100:
            raise DecodeError("battery_level", "one byte of 0 to 100 expected")
        return cls(data[0])

    def __bytes__(self) -> bytes:
        return bytes((self.level,))

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        return {"battery_level": self.level, "unit": "%"}


@dataclass(frozen=True, slots=True)
class Text:
    """2A00, 2A24 to 2A29: UTF-8, possibly padded with zeros; bytes that are no text are replaced, never raised."""

    text: str

    @classmethod
    def from_bytes(cls, data: bytes) -> Text:
        if len(data) > 512:  # the longest attribute there is
            raise DecodeError("text_length", f"{len(data)} bytes")
        return cls(data.split(b"\0", 1)[0].decode("utf-8", "replace").strip())

    def __bytes__(self) -> bytes:
        return self.text.encode()

    def meaningful(self) -> bool:
        """False for an empty or all-zero serial number, which identifies nothing."""
        return bool(self.text.strip("0 .-"))

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text}


@dataclass(frozen=True, slots=True)
class SystemId:
    """2A23: 5 bytes given by the maker, 3 of its OUI."""

    manufacturer: int
    organisation: int

    @classmethod
    def from_bytes(cls, data: bytes) -> SystemId:
        reader = Reader(data, "system_id")
        found = cls(reader.unsigned(5), reader.unsigned(3))
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        return unsigned(self.manufacturer, 5) + unsigned(self.organisation, 3)

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        return {"manufacturer_id": f"{self.manufacturer:010x}", "organisation_id": f"{self.organisation:06x}"}


@dataclass(frozen=True, slots=True)
class PnpId:
    """2A50: vendor id source (1 Bluetooth SIG, 2 USB), vendor, product, version."""

    source: int
    vendor: int
    product: int
    version: int

    @classmethod
    def from_bytes(cls, data: bytes) -> PnpId:
        reader = Reader(data, "pnp_id")
        found = cls(reader.unsigned(), reader.unsigned(2), reader.unsigned(2), reader.unsigned(2))
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        return unsigned(self.source) + unsigned(self.vendor, 2) + unsigned(self.product, 2) + unsigned(self.version, 2)

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        source = {1: "bluetooth", 2: "usb"}.get(self.source, "reserved")
        return {"vendor_id_source": source, "vendor_id": self.vendor, "product_id": self.product, "version": self.version}
