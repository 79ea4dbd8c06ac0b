"""Measurements that travel in advertisements: BTHome v2, Xiaomi scales, Polar heart-rate sensors.

An advertisement is heard by everyone and can be repeated by anyone: a gateway treats it as a weak source, drops
repetitions by packet id or content, and trusts BTHome's encrypted form only with its key and a rising counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import DeviceTime, Reader, time_text, unsigned
from vitals.gatt.scale import POUND

BTHOME_UUID = 0xFCD2
_ENCRYPTED, _TRIGGERED, _VERSION = 0x01, 0x04, 2

# object id → (name, bytes, signed, factor, unit); source: bthome.io, format version 2
_OBJECTS: dict[int, tuple[str, int, bool, float, str | None]] = {
    0x00: ("packet_id", 1, False, 1, None), 0x01: ("battery", 1, False, 1, "%"), 0x02: ("temperature", 2, True, 100, "Cel"),
    0x03: ("humidity", 2, False, 100, "%"), 0x04: ("pressure", 3, False, 100, "hPa"), 0x05: ("illuminance", 3, False, 100, "lx"),
    0x06: ("mass", 2, False, 100, "kg"), 0x07: ("mass", 2, False, 100, "[lb_av]"), 0x08: ("dewpoint", 2, True, 100, "Cel"),
    0x09: ("count", 1, False, 1, None), 0x0A: ("energy", 3, False, 1000, "kW.h"), 0x0B: ("power", 3, False, 100, "W"),
    0x0C: ("voltage", 2, False, 1000, "V"), 0x0D: ("pm2_5", 2, False, 1, "ug/m3"), 0x0E: ("pm10", 2, False, 1, "ug/m3"),
    0x12: ("co2", 2, False, 1, "[ppm]"), 0x13: ("tvoc", 2, False, 1, "ug/m3"), 0x14: ("moisture", 2, False, 100, "%"),
    0x2E: ("humidity", 1, False, 1, "%"), 0x2F: ("moisture", 1, False, 1, "%"), 0x3A: ("button", 1, False, 1, None),
    0x3C: ("dimmer", 2, False, 1, None), 0x3D: ("count", 2, False, 1, None), 0x3E: ("count", 4, False, 1, None),
    0x3F: ("rotation", 2, True, 10, "deg"), 0x40: ("distance", 2, False, 1, "mm"), 0x41: ("distance", 2, False, 10, "m"),
    0x42: ("duration", 3, False, 1000, "s"), 0x43: ("current", 2, False, 1000, "A"), 0x44: ("speed", 2, False, 100, "m/s"),
    0x45: ("temperature", 2, True, 10, "Cel"), 0x46: ("uv_index", 1, False, 10, None), 0x47: ("volume", 2, False, 10, "L"),
    0x48: ("volume", 2, False, 1, "mL"), 0x49: ("volume_flow_rate", 2, False, 1000, "m3/h"), 0x4A: ("voltage", 2, False, 10, "V"),
    0x4B: ("gas", 3, False, 1000, "m3"), 0x4C: ("gas", 4, False, 1000, "m3"), 0x4D: ("energy", 4, False, 1000, "kW.h"),
    0x4E: ("volume", 4, False, 1000, "L"), 0x4F: ("water", 4, False, 1000, "L"), 0x50: ("timestamp", 4, False, 1, "s"),
    0x51: ("acceleration", 2, False, 1000, "m/s2"), 0x52: ("gyroscope", 2, False, 1000, "deg/s"),
    0x55: ("volume_storage", 4, False, 1000, "L"), 0x56: ("conductivity", 2, False, 1, "uS/cm"), 0x57: ("temperature", 1, True, 1, "Cel"),
    0x58: ("temperature", 1, True, 1 / 0.35, "Cel"), 0x59: ("count", 1, True, 1, None), 0x5A: ("count", 2, True, 1, None),
    0x5B: ("count", 4, True, 1, None), 0x5C: ("power", 4, True, 100, "W"), 0x5D: ("current", 2, True, 1000, "A"),
    0x5E: ("direction", 2, False, 100, "deg"), 0x5F: ("precipitation", 2, False, 10, "mm"), 0x60: ("channel", 1, False, 1, None),
    0x61: ("rotational_speed", 2, False, 1, "/min"), 0xF0: ("device_type", 2, False, 1, None), 0xF1: ("firmware", 4, False, 1, None),
    0xF2: ("firmware", 3, False, 1, None),
}  # fmt: skip
_BINARY = {
    0x0F: "generic", 0x10: "power_on", 0x11: "opening", 0x15: "battery_low", 0x16: "battery_charging", 0x17: "carbon_monoxide",
    0x18: "cold", 0x19: "connectivity", 0x1A: "door", 0x1B: "garage_door", 0x1C: "gas_detected", 0x1D: "heat", 0x1E: "light",
    0x1F: "lock", 0x20: "moisture_detected", 0x21: "motion", 0x22: "moving", 0x23: "occupancy", 0x24: "plug", 0x25: "presence",
    0x26: "problem", 0x27: "running", 0x28: "safety", 0x29: "smoke", 0x2A: "sound", 0x2B: "tamper", 0x2C: "vibration", 0x2D: "window",
}  # fmt: skip
_TEXT, _RAW = 0x53, 0x54


@dataclass(frozen=True, slots=True)
class BTHome:
    """Service data of 0xFCD2, version 2. objects: (object id, raw integer or bytes) in the order sent.

    counter: the replay counter of an encrypted advertisement, None of a plain one.
    """

    objects: tuple[tuple[int, int | bytes], ...]
    triggered: bool = False
    counter: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes, key: bytes | None = None, address: str = "") -> BTHome:
        """key, address: the 16-byte bind key and "AA:BB:…" of the sender, needed for the encrypted form.

        Raises DecodeError `encrypted` without a key, `bthome_key` when key, sender or bytes are not the right ones.
        """
        data = data.removeprefix(BTHOME_UUID.to_bytes(2, "little"))
        if not data:
            raise DecodeError("bthome_length", "no bytes")
        information, body = data[0], data[1:]
        if information >> 5 != _VERSION:
            raise DecodeError("bthome_version", str(information >> 5))
        counter = None
        if information & _ENCRYPTED:
            if key is None:
                raise DecodeError("encrypted", "needs the bind key of this sensor")
            counter, body = _decrypt(information, body, key, address)
        reader = Reader(body, "bthome")
        objects: list[tuple[int, int | bytes]] = []
        while reader.left():
            number = reader.unsigned()
            if number in (_TEXT, _RAW):
                objects.append((number, reader.take(reader.unsigned())))
            elif number in _BINARY:
                objects.append((number, reader.unsigned()))
            elif number in _OBJECTS:
                _, size, negative, _, _ = _OBJECTS[number]
                objects.append((number, reader.signed(size) if negative else reader.unsigned(size)))
            else:
                raise DecodeError("bthome_object", f"unknown object {number:02x}")
        return cls(tuple(objects), bool(information & _TRIGGERED), counter)

    def __bytes__(self) -> bytes:
        """The plain form."""
        return unsigned(_VERSION << 5 | _TRIGGERED * self.triggered) + self._body()

    def _body(self) -> bytes:
        out = b""
        for number, value in self.objects:
            out += unsigned(number)
            if isinstance(value, bytes):
                out += unsigned(len(value)) + value
            else:
                _, size, negative, _, _ = _OBJECTS.get(number, ("", 1, False, 1, None))
                out += value.to_bytes(size, "little", signed=negative)
        return out

    def encrypted(self, key: bytes, address: str, counter: int) -> bytes:
        """The encrypted form, as a sensor with this key sends it."""
        information = _VERSION << 5 | _ENCRYPTED | _TRIGGERED * self.triggered
        sealed: bytes = _cipher(key).encrypt(_nonce(address, information, counter.to_bytes(4, "little")), self._body(), None)
        return unsigned(information) + sealed[:-4] + counter.to_bytes(4, "little") + sealed[-4:]

    def values(self) -> dict[str, float]:
        """name → value in the object's unit; the last one of several with the same name."""
        found = {}
        for number, value in self.objects:
            if isinstance(value, int):
                name, _, _, factor, _ = _OBJECTS.get(number, (_BINARY.get(number, ""), 1, False, 1, None))
                found[name] = round(value / factor, 9) if factor != 1 else value
        return found

    def packet_id(self) -> int | None:
        return next((value for number, value in self.objects if number == 0x00 and isinstance(value, int)), None)

    def kilograms(self) -> float | None:
        for number, value in self.objects:
            if number in (0x06, 0x07) and isinstance(value, int):
                return value / 100 * (1 if number == 0x06 else POUND)
        return None

    def not_a_reading(self) -> list[str]:
        return [] if {"temperature", "mass"} & self.values().keys() else ["not_a_person's"]

    def as_json(self) -> dict[str, Any]:
        units = {f"{name}_unit": unit for name, _, _, _, unit in (_OBJECTS[n] for n, _ in self.objects if n in _OBJECTS) if unit}
        texts = {}
        for number, value in self.objects:
            if isinstance(value, bytes):
                texts["raw" if number == _RAW else "text"] = value.hex() if number == _RAW else value.decode("utf-8", "replace")
        head = {"version": _VERSION, "encrypted": self.counter is not None, "trigger_based": self.triggered, "counter": self.counter}
        return {**head, **self.values(), **units, **texts}


def _cipher(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM  # only where a key was given: it is not small

    return AESCCM(key, tag_length=4)


def _nonce(address: str, information: int, counter: bytes) -> bytes:
    return bytes.fromhex(address.replace(":", "")) + BTHOME_UUID.to_bytes(2, "little") + unsigned(information) + counter


def _decrypt(information: int, body: bytes, key: bytes, address: str) -> tuple[int, bytes]:
    if len(body) < 8:
        raise DecodeError("bthome_length", f"{len(body)} bytes for counter and tag")
    sealed, counter, tag = body[:-8], body[-8:-4], body[-4:]
    try:
        plain: bytes = _cipher(key).decrypt(_nonce(address, information, counter), sealed + tag, None)
    except Exception:  # noqa: BLE001  a wrong tag, a key of the wrong size, an address that is none: one verdict
        raise DecodeError("bthome_key", "key, address or bytes are not the right ones") from None
    return int.from_bytes(counter, "little"), plain


_SCALE_UNITS = {"kg": 200, "[lb_av]": 100, "jin": 100}
_SCALE_KILOGRAMS = {"kg": 1.0, "[lb_av]": POUND, "jin": 0.5}
NO_IMPEDANCE = (0, 0xFFFD)


def _scale_unit(pounds: bool, jin: bool) -> str:
    return "jin" if jin else "[lb_av]" if pounds else "kg"


@dataclass(frozen=True, slots=True)
class XiaomiScale:
    """Mi Scale 1 (`impedance_known` is None, 10 bytes) and Mi Body Composition Scale (13 bytes; also its GATT frames).

    weight: raw, 1/200 kg or 1/100 of the pound or jin. time: the scale's own clock. flags: the control bytes as sent.
    """

    flags: int
    weight: int
    time: DeviceTime
    impedance: int | None = None

    @classmethod
    def from_v1(cls, data: bytes) -> XiaomiScale:
        """10 bytes of service data 0x181D."""
        reader = Reader(data, "xiaomi_scale")
        found = cls(reader.unsigned(), reader.unsigned(2), reader.date_time())
        reader.end()
        return found

    @classmethod
    def from_v2(cls, data: bytes) -> XiaomiScale:
        """13 bytes of service data 0x181B, or of the scale's own use of characteristic 2A9C."""
        reader = Reader(data, "xiaomi_scale")
        flags, time, impedance, weight = reader.unsigned(2), reader.date_time(), reader.unsigned(2), reader.unsigned(2)
        reader.end()
        return cls(flags, weight, time, impedance)

    def __bytes__(self) -> bytes:
        if self.impedance is None:
            return unsigned(self.flags) + unsigned(self.weight, 2) + bytes(self.time)
        return unsigned(self.flags, 2) + bytes(self.time) + unsigned(self.impedance, 2) + unsigned(self.weight, 2)

    @property
    def unit(self) -> str:
        return _scale_unit(bool(self.flags & 1), bool(self.flags >> (4 if self.impedance is None else 14) & 1))

    @property
    def stabilised(self) -> bool:
        return bool(self.flags >> (5 if self.impedance is None else 13) & 1)

    @property
    def removed(self) -> bool:
        return bool(self.flags >> (7 if self.impedance is None else 15) & 1)

    def kilograms(self) -> float:
        return self.weight / _SCALE_UNITS[self.unit] * _SCALE_KILOGRAMS[self.unit]

    def ohms(self) -> int | None:
        """The impedance, once the scale says that it has one."""
        known = self.impedance is not None and self.flags >> 9 & 1 and self.impedance not in NO_IMPEDANCE
        return self.impedance if known else None

    def not_a_reading(self) -> list[str]:
        reasons = [] if self.stabilised else ["not_stabilised"]
        return reasons + (["load_removed"] if self.removed else []) + (["zero_filled"] if self.weight == 0 else [])

    def as_json(self) -> dict[str, Any]:
        return {
            "weight": self.weight / _SCALE_UNITS[self.unit],
            "unit": self.unit,
            "weight_kg": round(self.kilograms(), 6),
            "stabilised": self.stabilised,
            "removed": self.removed,
            "impedance_ohm": self.ohms(),
            "timestamp": time_text(self.time),
        }


POLAR = 0x006B


@dataclass(frozen=True, slots=True)
class PolarAdvertisement:
    """Manufacturer data of company 0x006B: flags, a code, and the heart rate (fast and slow average, a minute)."""

    flags: int
    code: int
    fast: int
    slow: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> PolarAdvertisement:
        """With or without the two bytes of the company before it."""
        if len(data) > 4:
            data = data.removeprefix(POLAR.to_bytes(2, "little"))
        reader = Reader(data, "polar_advertisement")
        found = cls(reader.unsigned(), reader.unsigned(), reader.unsigned(), reader.unsigned() if reader.left() else None)
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        return bytes((self.flags, self.code, self.fast)) + (bytes((self.slow,)) if self.slow is not None else b"")

    @property
    def rate(self) -> int:
        return self.fast if self.slow is None else self.slow

    def not_a_reading(self) -> list[str]:
        return ["no_contact"] if self.rate == 0 else []

    def as_json(self) -> dict[str, Any]:
        return {
            "heart_rate": self.rate or None,
            "heart_rate_fast": self.fast or None,
            "unit": "/min",
            "contact": bool(self.flags & 0x02),
            "battery_low": bool(self.flags & 0x01),
            "frame_counter": self.flags >> 2 & 0x07,
        }
