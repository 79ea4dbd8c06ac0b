"""Weight Scale (0x181D) 2A9D/2A9E, Body Composition (0x181B) 2A9C/2A9B, User Data (0x181C) control point 2A9F.

Weight resolution 0.005 kg or 0.01 lb, height 0.001 m or 0.1 in, percentages 0.1, impedance 0.1 Ohm (the supplement
contradicts itself; captured frames fit 0.1). 0xFFFF means "measurement unsuccessful".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import DeviceTime, Reader, time_text, unsigned

UNSUCCESSFUL = 0xFFFF
USER_UNKNOWN = 0xFF
POUND, INCH = 0.45359237, 0.0254  # kg, m: exact by definition
_IMPERIAL, _TIME, _USER, _BMI = 0x01, 0x02, 0x04, 0x08


def _scaled(raw: int | None, divisor: int) -> float | None:
    return None if raw is None else raw / divisor


@dataclass(frozen=True, slots=True)
class WeightMeasurement:
    """2A9D (indicate). weight, bmi and height are the raw integers, in the resolution of `unit` ("kg" or "[lb_av]")."""

    weight: int
    unit: str = "kg"
    timestamp: DeviceTime | None = None
    user: int | None = None
    bmi: int | None = None
    height: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> WeightMeasurement:
        reader = Reader(data, "weight")
        flags = reader.unsigned()
        found = cls(
            reader.unsigned(2), "[lb_av]" if flags & _IMPERIAL else "kg",
            timestamp=reader.date_time() if flags & _TIME else None,
            user=reader.unsigned() if flags & _USER else None,
            bmi=reader.unsigned(2) if flags & _BMI else None,
            height=reader.unsigned(2) if flags & _BMI else None,
        )  # fmt: skip
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        flags = (
            _IMPERIAL * (self.unit != "kg") | _TIME * (self.timestamp is not None) | _USER * (self.user is not None)
            | _BMI * (self.bmi is not None)
        )  # fmt: skip
        out = unsigned(flags) + unsigned(self.weight, 2)
        out += bytes(self.timestamp) if self.timestamp is not None else b""
        out += unsigned(self.user) if self.user is not None else b""
        return out + (unsigned(self.bmi, 2) + unsigned(self.height or 0, 2) if self.bmi is not None else b"")

    def kilograms(self) -> float:
        return self.weight / 200 if self.unit == "kg" else self.weight / 100 * POUND

    def metres(self) -> float | None:
        if not self.height:
            return None
        return self.height / 1000 if self.unit == "kg" else self.height / 10 * INCH

    def not_a_reading(self) -> list[str]:
        return ["unsuccessful"] if self.weight == UNSUCCESSFUL else ["zero_filled"] if self.weight == 0 else []

    def as_json(self) -> dict[str, Any]:
        metres = self.metres()
        return {
            "weight": None if self.weight == UNSUCCESSFUL else _scaled(self.weight, 200 if self.unit == "kg" else 100),
            "unit": self.unit,
            "timestamp": time_text(self.timestamp),
            "user_id": None if self.user in (None, USER_UNKNOWN) else self.user,
            "bmi": _scaled(self.bmi, 10),
            "height_m": None if metres is None else round(metres, 6),
        }


# (flag bit, field name) of 2A9C in the order of the bytes; the user is one byte, the time seven, the others two
_BODY_FIELDS = (
    (3, "metabolism"), (4, "muscle_share"), (5, "muscle_mass"), (6, "fat_free_mass"), (7, "soft_lean_mass"), (8, "water_mass"),
    (9, "impedance"), (10, "weight"), (11, "height"),
)  # fmt: skip
_MASSES = ("muscle_mass", "fat_free_mass", "soft_lean_mass", "water_mass", "weight")
_MULTIPLE_PACKET = 1 << 12


@dataclass(frozen=True, slots=True)
class BodyComposition:
    """2A9C (indicate): raw integers in the profile's resolutions; metabolism in kJ. multiple: more packets of it follow."""

    fat: int
    unit: str = "kg"
    timestamp: DeviceTime | None = None
    user: int | None = None
    metabolism: int | None = None
    muscle_share: int | None = None
    muscle_mass: int | None = None
    fat_free_mass: int | None = None
    soft_lean_mass: int | None = None
    water_mass: int | None = None
    impedance: int | None = None
    weight: int | None = None
    height: int | None = None
    multiple: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> BodyComposition:
        reader = Reader(data, "body_composition")
        flags, fat = reader.unsigned(2), reader.unsigned(2)
        timestamp = reader.date_time() if flags & _TIME else None
        user = reader.unsigned() if flags & _USER else None
        values = {name: reader.unsigned(2) for bit, name in _BODY_FIELDS if flags >> bit & 1}
        reader.end()
        unit = "[lb_av]" if flags & _IMPERIAL else "kg"
        return cls(fat, unit, timestamp, user, multiple=bool(flags & _MULTIPLE_PACKET), **values)

    def __bytes__(self) -> bytes:
        values = [(bit, getattr(self, name)) for bit, name in _BODY_FIELDS]
        flags = sum(1 << bit for bit, value in values if value is not None) | _MULTIPLE_PACKET * self.multiple
        flags |= _IMPERIAL * (self.unit != "kg") | _TIME * (self.timestamp is not None) | _USER * (self.user is not None)
        out = unsigned(flags, 2) + unsigned(self.fat, 2)
        out += bytes(self.timestamp) if self.timestamp is not None else b""
        out += unsigned(self.user) if self.user is not None else b""
        return out + b"".join(unsigned(value, 2) for _, value in values if value is not None)

    def kilograms(self, name: str) -> float | None:
        """One of the masses in kg without rounding."""
        raw: int | None = getattr(self, name)
        if raw is None:
            return None
        return raw / 200 if self.unit == "kg" else raw / 100 * POUND

    def metres(self) -> float | None:
        if not self.height:
            return None
        return self.height / 1000 if self.unit == "kg" else self.height / 10 * INCH

    def joined(self, other: BodyComposition) -> BodyComposition:
        """Two packets of one measurement: what the first does not say, the second does."""
        names = [name for _, name in _BODY_FIELDS]
        values = {name: getattr(self, name) if getattr(self, name) is not None else getattr(other, name) for name in names}
        return BodyComposition(
            self.fat, self.unit, self.timestamp or other.timestamp, self.user if self.user is not None else other.user, **values
        )

    def not_a_reading(self) -> list[str]:
        empty = self.fat == 0 and not any(getattr(self, name) for _, name in _BODY_FIELDS)
        return ["unsuccessful"] if self.fat == UNSUCCESSFUL else ["zero_filled"] if empty else []

    def as_json(self) -> dict[str, Any]:
        metres = self.metres()
        masses = {name: self.kilograms(name) for name in _MASSES}
        rounded = {name: None if mass is None else round(mass, 6) for name, mass in masses.items()}
        return {
            "body_fat_pct": None if self.fat == UNSUCCESSFUL else self.fat / 10,
            "unit": self.unit,
            "timestamp": time_text(self.timestamp),
            "user_id": None if self.user in (None, USER_UNKNOWN) else self.user,
            "basal_metabolism_kj": self.metabolism,
            "muscle_pct": _scaled(self.muscle_share, 10),
            "muscle_mass_kg": rounded["muscle_mass"],
            "fat_free_mass_kg": rounded["fat_free_mass"],
            "soft_lean_mass_kg": rounded["soft_lean_mass"],
            "body_water_mass_kg": rounded["water_mass"],
            "impedance_ohm": _scaled(self.impedance, 10),
            "weight_kg": rounded["weight"],
            "height_m": None if metres is None else round(metres, 6),
            "multiple_packet": self.multiple,
        }


REGISTER_USER, CONSENT, DELETE_USER, USER_RESPONSE = 0x01, 0x02, 0x03, 0x20
_USER_OPS = {REGISTER_USER: "register new user", CONSENT: "consent", DELETE_USER: "delete user data", USER_RESPONSE: "response"}
_USER_ANSWERS = {1: "success", 2: "op code not supported", 3: "invalid parameter", 4: "operation failed", 5: "user not authorised"}
USER_SUCCESS, USER_NOT_AUTHORISED = 1, 5


@dataclass(frozen=True, slots=True)
class UserControl:
    """2A9F (write, indicate): register (consent code), consent (user index, code), delete, and the response to each."""

    op: int
    operand: bytes = b""

    @classmethod
    def consent(cls, user: int, code: int) -> UserControl:
        return cls(CONSENT, unsigned(user) + unsigned(code, 2))

    @classmethod
    def response(cls, to: int, answer: int, extra: bytes = b"") -> UserControl:
        return cls(USER_RESPONSE, bytes((to, answer)) + extra)

    @classmethod
    def from_bytes(cls, data: bytes) -> UserControl:
        reader = Reader(data, "user_control")
        op = reader.unsigned()
        if op not in _USER_OPS:
            raise DecodeError("user_control_op", str(op))
        operand = reader.rest()
        fits = {REGISTER_USER: len(operand) == 2, CONSENT: len(operand) == 3, DELETE_USER: not operand, USER_RESPONSE: len(operand) >= 2}
        if not fits[op]:
            raise DecodeError("user_control_length", f"{len(data)} bytes")
        return cls(op, operand)

    def __bytes__(self) -> bytes:
        return bytes((self.op,)) + self.operand

    def not_a_reading(self) -> list[str]:
        return ["control_point"]

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"op": _USER_OPS[self.op]}
        if self.op == USER_RESPONSE:
            found |= {"request_op": _USER_OPS.get(self.operand[0], "reserved"), "response": _USER_ANSWERS.get(self.operand[1], "reserved")}
            if len(self.operand) > 2:
                found["user_id"] = self.operand[2]
        elif self.op == CONSENT:
            found["user_id"] = self.operand[0]  # the code is a secret and is not printed
        return found
