"""Heart Rate (0x180D): measurement 2A37 with RR intervals, body sensor location 2A38."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import Reader, unsigned

_WIDE, _CONTACT, _CONTACT_SUPPORTED, _ENERGY, _RR = 0x01, 0x02, 0x04, 0x08, 0x10
LOCATIONS = ("other", "chest", "wrist", "finger", "hand", "ear lobe", "foot")


@dataclass(frozen=True, slots=True)
class HeartRateMeasurement:
    """2A37 (notify). rate: beats a minute; contact: None where the sensor cannot tell; energy: kJ; rr: in 1/1024 s, oldest first."""

    rate: int
    contact: bool | None = None
    energy: int | None = None
    rr: tuple[int, ...] = ()
    wide: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> HeartRateMeasurement:
        reader = Reader(data, "heart_rate")
        flags = reader.unsigned()
        rate = reader.unsigned(2 if flags & _WIDE else 1)
        energy = reader.unsigned(2) if flags & _ENERGY else None
        if reader.left() % 2:
            raise DecodeError("heart_rate_length", "half an RR interval")
        rr = tuple(reader.unsigned(2) for _ in range(reader.left() // 2)) if flags & _RR else ()
        reader.end()
        contact = bool(flags & _CONTACT) if flags & _CONTACT_SUPPORTED else None
        return cls(rate, contact, energy, rr, bool(flags & _WIDE))

    def __bytes__(self) -> bytes:
        wide = self.wide or self.rate > 255
        flags = (
            _WIDE * wide | _CONTACT * bool(self.contact) | _CONTACT_SUPPORTED * (self.contact is not None)
            | _ENERGY * (self.energy is not None) | _RR * bool(self.rr)
        )  # fmt: skip
        out = unsigned(flags) + unsigned(self.rate, 2 if wide else 1)
        out += unsigned(self.energy, 2) if self.energy is not None else b""
        return out + b"".join(unsigned(interval, 2) for interval in self.rr)

    def not_a_reading(self) -> list[str]:
        """Off the skin nothing is measured; many bands say so with a rate of 0."""
        return ["no_contact"] if self.contact is False or self.rate == 0 else []

    def as_json(self) -> dict[str, Any]:
        words = {None: "not_supported", True: "detected", False: "not_detected"}
        return {
            "heart_rate": self.rate,
            "unit": "/min",
            "contact": words[self.contact],
            "energy_kj": self.energy,
            "rr_1024": list(self.rr),
            "rr_ms": [round(interval * 1000 / 1024, 3) for interval in self.rr],
        }
