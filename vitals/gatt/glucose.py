"""Glucose (0x1808): measurement 2A18, context 2A34, feature 2A51.

User time = base time + offset: the base is the meter's clock as it was never adjusted, setting the clock moves the
offset. kg/L × 1e5 = mg/dL, mol/L × 1e3 = mmol/L, 18.0156 mg/dL per mmol/L. A control-solution result is never a
person's; without a concentration the status may still say HI (above the sensor's range) or LO, which are danger.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import IntFlag
from typing import Any

from vitals.gatt.fields import DeviceTime, Reader, codes, number, sfloat16, signed, time_text, unsigned
from vitals.metric import MMOL_TO_MGDL
from vitals.sfloat import Special

_OFFSET, _CONCENTRATION, _MOLAR, _STATUS, _CONTEXT = 0x01, 0x02, 0x04, 0x08, 0x10

SAMPLE_TYPES = (
    "reserved", "capillary whole blood", "capillary plasma", "venous whole blood", "venous plasma", "arterial whole blood",
    "arterial plasma", "undetermined whole blood", "undetermined plasma", "interstitial fluid", "control solution",
)  # fmt: skip
CONTROL_SOLUTION = 10
SAMPLE_LOCATIONS = {1: "finger", 2: "alternate site test", 3: "earlobe", 4: "control solution", 15: "not available"}
CONTROL_LOCATION = 4


class GlucoseStatus(IntFlag):
    """Sensor Status Annunciation of 2A18 and 2AA7's relatives."""

    BATTERY_LOW = 0x001
    SENSOR_MALFUNCTION = 0x002
    SAMPLE_TOO_SMALL = 0x004
    STRIP_INSERTION = 0x008
    STRIP_TYPE = 0x010
    ABOVE_RANGE = 0x020
    BELOW_RANGE = 0x040
    TOO_HOT = 0x080
    TOO_COLD = 0x100
    STRIP_PULLED_EARLY = 0x200
    GENERAL_FAULT = 0x400
    CLOCK_FAULT = 0x800


# with one of these the strip or the sensor failed: whatever number is there was not measured
FAULTS = (
    GlucoseStatus.SENSOR_MALFUNCTION | GlucoseStatus.SAMPLE_TOO_SMALL | GlucoseStatus.STRIP_INSERTION | GlucoseStatus.STRIP_TYPE
    | GlucoseStatus.TOO_HOT | GlucoseStatus.TOO_COLD | GlucoseStatus.STRIP_PULLED_EARLY | GlucoseStatus.GENERAL_FAULT
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GlucoseMeasurement:
    """2A18 (notify). concentration in `unit` ("kg/L" or "mol/L") as sent; offset in minutes; absent fields are None."""

    sequence: int
    base_time: DeviceTime
    offset: int | None = None
    concentration: float | Special | None = None
    unit: str = "kg/L"
    sample_type: int | None = None
    sample_location: int | None = None
    status: GlucoseStatus | None = None
    context_follows: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> GlucoseMeasurement:
        reader = Reader(data, "glucose")
        flags = reader.unsigned()
        sequence, base = reader.unsigned(2), reader.date_time()
        offset = reader.signed(2) if flags & _OFFSET else None
        concentration = reader.sfloat() if flags & _CONCENTRATION else None
        nibbles = reader.unsigned() if flags & _CONCENTRATION else None
        status = GlucoseStatus(reader.unsigned(2)) if flags & _STATUS else None
        reader.end()
        return cls(
            sequence, base, offset, concentration, "mol/L" if flags & _MOLAR else "kg/L",
            None if nibbles is None else nibbles & 0x0F, None if nibbles is None else nibbles >> 4, status, bool(flags & _CONTEXT),
        )  # fmt: skip

    def __bytes__(self) -> bytes:
        flags = (
            _OFFSET * (self.offset is not None) | _CONCENTRATION * (self.concentration is not None) | _MOLAR * (self.unit == "mol/L")
            | _STATUS * (self.status is not None) | _CONTEXT * self.context_follows
        )  # fmt: skip
        out = unsigned(flags) + unsigned(self.sequence, 2) + bytes(self.base_time)
        out += signed(self.offset, 2) if self.offset is not None else b""
        if self.concentration is not None:
            out += sfloat16(self.concentration) + unsigned((self.sample_location or 0) << 4 | (self.sample_type or 0))
        return out + (unsigned(int(self.status), 2) if self.status is not None else b"")

    def user_time(self) -> DeviceTime | None:
        """What the meter showed its user; None when the base is no date or the sum leaves the calendar."""
        base = self.base_time.calendar()
        if base is None:
            return None
        try:
            return DeviceTime.of(base + timedelta(minutes=self.offset or 0))
        except OverflowError:
            return None

    def mmol_l(self) -> float | Special | None:
        """The concentration in mmol/L without rounding; negative ones are a meter's way to say "no value" (None)."""
        value = self.concentration
        if value is None or isinstance(value, Special):
            return value
        if value < 0:
            return None
        return value * 1e3 if self.unit == "mol/L" else value * 1e5 / MMOL_TO_MGDL

    def mg_dl(self) -> float | None:
        value = number(self.concentration)
        if value is None or value < 0:
            return None
        # the SFLOAT has at most four digits; rounding to nine takes away what binary floats add
        return round(value * 1e5 if self.unit == "kg/L" else value * 1e3 * MMOL_TO_MGDL, 9)

    def out_of_range(self) -> str | None:
        """ "HI" or "LO" when the status says so."""
        if self.status is None:
            return None
        high, low = GlucoseStatus.ABOVE_RANGE in self.status, GlucoseStatus.BELOW_RANGE in self.status
        return None if high == low else "HI" if high else "LO"

    def flag_names(self) -> list[str]:
        return [] if self.status is None else [bit.name.lower() for bit in GlucoseStatus if bit in self.status and bit.name]

    def not_a_reading(self) -> list[str]:
        reasons = []
        if self.sample_type == CONTROL_SOLUTION or self.sample_location == CONTROL_LOCATION:
            reasons.append("control_solution")
        if self.status is not None and self.status & FAULTS:
            reasons.append("unsuccessful")
        value = self.concentration
        if not isinstance(value, Special) and (value is None or value <= 0) and self.out_of_range() is None:
            reasons.append("no_value")
        return reasons

    def as_json(self) -> dict[str, Any]:
        value = number(self.concentration)
        milligrams, millimoles = self.mg_dl(), number(self.mmol_l())
        status = self.status if self.status is not None else GlucoseStatus(0)
        return {
            "sequence": self.sequence,
            "base_time": time_text(self.base_time),
            "time_offset_min": self.offset,
            "user_time": time_text(self.user_time()),
            "concentration": value,
            "concentration_unit": None if self.concentration is None else self.unit,
            "glucose_mg_dl": milligrams,
            "glucose_mmol_l": None if millimoles is None else round(millimoles, 6),
            "sample_type": _named(SAMPLE_TYPES, self.sample_type),
            "sample_location": _named(SAMPLE_LOCATIONS, self.sample_location),
            "control_solution": "control_solution" in self.not_a_reading(),
            "status_raw": None if self.status is None else int(self.status),
            "status": [bit.name.lower() for bit in GlucoseStatus if bit in status and bit.name],
            "out_of_range": self.out_of_range(),
            "context_follows": self.context_follows,
            "codes": codes(glucose=self.concentration),
        }  # fmt: skip


CARBOHYDRATES = (None, "breakfast", "lunch", "dinner", "snack", "drink", "supper", "brunch")
MEALS = (None, "preprandial", "postprandial", "fasting", "casual", "bedtime")
KETONE_MEAL = 6
TESTERS = {1: "self", 2: "health care professional", 3: "lab test", 15: "not available"}
HEALTH = {
    1: "minor health issues",
    2: "major health issues",
    3: "during menses",
    4: "under stress",
    5: "no health issues",
    15: "not available",
}
MEDICATIONS = (
    None,
    "rapid acting insulin",
    "short acting insulin",
    "intermediate acting insulin",
    "long acting insulin",
    "pre-mixed insulin",
)
EXERCISE_OVERRUN = 0xFFFF


def _named(names: tuple[str | None, ...] | dict[int, str], value: int | None) -> str | None:
    if value is None:
        return None
    found = names.get(value) if isinstance(names, dict) else names[value] if value < len(names) else None
    return found or "reserved"


@dataclass(frozen=True, slots=True)
class GlucoseContext:
    """2A34 (notify), tied to its measurement by `sequence`, which comes first.

    carbohydrate: (id, kg). meal, tester, health: numbers of the profile. exercise: (seconds, percent).
    medication: (id, amount) in `medication_unit` ("kg" or "L"). hba1c: percent. extended: the reserved flags byte.
    """

    sequence: int
    carbohydrate: tuple[int, float | Special] | None = None
    meal: int | None = None
    tester: int | None = None
    health: int | None = None
    exercise: tuple[int, int] | None = None
    medication: tuple[int, float | Special] | None = None
    medication_unit: str = "kg"
    hba1c: float | Special | None = None
    extended: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> GlucoseContext:
        reader = Reader(data, "glucose_context")
        flags = reader.unsigned()
        sequence = reader.unsigned(2)
        extended = reader.unsigned() if flags & 0x80 else None
        carbohydrate = (reader.unsigned(), reader.sfloat()) if flags & 0x01 else None
        meal = reader.unsigned() if flags & 0x02 else None
        nibbles = reader.unsigned() if flags & 0x04 else None
        exercise = (reader.unsigned(2), reader.unsigned()) if flags & 0x08 else None
        medication = (reader.unsigned(), reader.sfloat()) if flags & 0x10 else None
        hba1c = reader.sfloat() if flags & 0x40 else None
        reader.end()
        tester, health = (None, None) if nibbles is None else (nibbles & 0x0F, nibbles >> 4)
        return cls(sequence, carbohydrate, meal, tester, health, exercise, medication, "L" if flags & 0x20 else "kg", hba1c, extended)

    def __bytes__(self) -> bytes:
        present = (self.carbohydrate, self.meal, self.tester, self.exercise, self.medication)
        flags = sum(1 << bit for bit, value in enumerate(present) if value is not None)
        flags |= 0x20 * (self.medication_unit == "L") | 0x40 * (self.hba1c is not None) | 0x80 * (self.extended is not None)
        out = unsigned(flags) + unsigned(self.sequence, 2)
        out += unsigned(self.extended) if self.extended is not None else b""
        out += unsigned(self.carbohydrate[0]) + sfloat16(self.carbohydrate[1]) if self.carbohydrate is not None else b""
        out += unsigned(self.meal) if self.meal is not None else b""
        out += unsigned((self.health or 0) << 4 | self.tester) if self.tester is not None else b""
        out += unsigned(self.exercise[0], 2) + unsigned(self.exercise[1]) if self.exercise is not None else b""
        out += unsigned(self.medication[0]) + sfloat16(self.medication[1]) if self.medication is not None else b""
        return out + (sfloat16(self.hba1c) if self.hba1c is not None else b"")

    def not_a_reading(self) -> list[str]:
        return ["context"]

    def as_json(self) -> dict[str, Any]:
        carbohydrate, medication, exercise = self.carbohydrate or (None, None), self.medication or (None, None), self.exercise
        overrun = exercise is not None and exercise[0] == EXERCISE_OVERRUN
        kilograms, amount = number(carbohydrate[1]), number(medication[1])
        return {
            "sequence": self.sequence,
            "carbohydrate": _named(CARBOHYDRATES, carbohydrate[0]),
            "carbohydrate_kg": kilograms,
            "carbohydrate_g": None if kilograms is None else round(kilograms * 1000, 9),
            "meal_code": self.meal,
            "meal": _named(MEALS, self.meal),
            "tester": _named(TESTERS, self.tester),
            "health": _named(HEALTH, self.health),
            "exercise_duration_s": None if exercise is None or overrun else exercise[0],
            "exercise_intensity_pct": None if exercise is None else exercise[1],
            "medication": _named(MEDICATIONS, medication[0]),
            "medication_amount": amount,
            "medication_unit": None if self.medication is None else self.medication_unit,
            "hba1c_pct": number(self.hba1c),
            "ketone": self.meal == KETONE_MEAL,
        }


# bits of 2A51, in the order of `GlucoseStatus`, then multiple bonds
FEATURES = (
    "low_battery", "sensor_malfunction", "sample_size", "strip_insertion", "strip_type", "result_high_low", "temperature_high_low",
    "read_interrupt", "general_fault", "time_fault", "multiple_bonds",
)  # fmt: skip
