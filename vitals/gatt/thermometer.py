"""Health Thermometer (0x1809): temperature 2A1C, intermediate temperature 2A1E, site 2A1D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.gatt.fields import DeviceTime, Reader, codes, float32, number, time_text, unsigned
from vitals.sfloat import Special

_FAHRENHEIT, _TIME, _SITE = 0x01, 0x02, 0x04
SITES = {
    1: "armpit", 2: "body", 3: "ear", 4: "finger", 5: "gastro-intestinal tract", 6: "mouth", 7: "rectum", 8: "toe", 9: "tympanum",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TemperatureMeasurement:
    """2A1C (indicate) and 2A1E (notify, `intermediate`). temperature in `unit` ("Cel" or "[degF]") as sent."""

    temperature: float | Special
    unit: str = "Cel"
    timestamp: DeviceTime | None = None
    site: int | None = None
    intermediate: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, *, intermediate: bool = False) -> TemperatureMeasurement:
        reader = Reader(data, "temperature")
        flags = reader.unsigned()
        found = cls(
            reader.float32(), "[degF]" if flags & _FAHRENHEIT else "Cel",
            timestamp=reader.date_time() if flags & _TIME else None, site=reader.unsigned() if flags & _SITE else None,
            intermediate=intermediate,
        )  # fmt: skip
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        flags = _FAHRENHEIT * (self.unit == "[degF]") | _TIME * (self.timestamp is not None) | _SITE * (self.site is not None)
        out = unsigned(flags) + float32(self.temperature)
        out += bytes(self.timestamp) if self.timestamp is not None else b""
        return out + (unsigned(self.site) if self.site is not None else b"")

    def celsius(self) -> float | Special:
        """In degrees Celsius without rounding."""
        if isinstance(self.temperature, Special) or self.unit == "Cel":
            return self.temperature
        return (self.temperature - 32) * 5 / 9

    def not_a_reading(self) -> list[str]:
        if self.intermediate:
            return ["intermediate"]
        return ["zero_filled"] if self.temperature == 0 and self.unit == "Cel" else []

    def as_json(self) -> dict[str, Any]:
        return {
            "temperature": number(self.temperature),
            "unit": self.unit,
            "timestamp": time_text(self.timestamp),
            "site_code": self.site,
            "site": None if self.site is None else SITES.get(self.site, "reserved"),
            "codes": codes(temperature=self.temperature),
        }
