"""Elapsed Time (0x183F, 2BF2) and Generic Health Sensor (0x1840): live observation 2B8B, stored observation 2BDD.

Experimental: the observation layout was learnt from pre-adoption sources, no retail device speaks it, and it has met
no captured frame. It is here so that such a device can be tried; do not claim conformance from it.
An unsegmented observation of class numeric, discrete or compound decodes; every other form is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import Reader, codes, float32, number, signed, unsigned
from vitals.sfloat import Special

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_RESOLUTION = (1.0, 0.1, 0.001, 0.0001)  # seconds, flag bits 2-3
_TICKS, _UTC, _ZONE, _CURRENT = 0x01, 0x02, 0x10, 0x20
SOURCES = ("unknown", "ntp", "gps", "radio", "manual", "atomic", "cellular", "not synchronised")


@dataclass(frozen=True, slots=True)
class ElapsedTime:
    """9 bytes: flags, 48-bit count (ticks, or since 2000-01-01), source, zone in quarters of an hour (-128 unknown).

    status: two further bytes of a read of 2BF2 (clock status bits, capabilities), None inside an observation.
    """

    flags: int
    count: int
    source: int
    zone: int
    status: tuple[int, int] | None = None

    @classmethod
    def take(cls, reader: Reader) -> ElapsedTime:
        return cls(reader.unsigned(), reader.unsigned(6), reader.unsigned(), reader.signed())

    @classmethod
    def from_bytes(cls, data: bytes) -> ElapsedTime:
        reader = Reader(data, "elapsed_time")
        found = cls.take(reader)
        if reader.left():
            found = cls(found.flags, found.count, found.source, found.zone, (reader.unsigned(), reader.unsigned()))
        reader.end()
        return found

    def __bytes__(self) -> bytes:
        out = unsigned(self.flags) + unsigned(self.count, 6) + unsigned(self.source) + signed(self.zone)
        return out + (bytes(self.status) if self.status is not None else b"")

    def seconds(self) -> float:
        return self.count * _RESOLUTION[self.flags >> 2 & 3]

    def moment(self) -> datetime | None:
        """Wall-clock time (aware if it is UTC, or if its zone is known); None for a tick counter or beyond the calendar."""
        if self.flags & _TICKS:
            return None
        try:
            moment = EPOCH + timedelta(seconds=self.seconds())
            if self.flags & _UTC:
                return moment
            known = self.flags & _ZONE and self.zone != -128
            return moment - timedelta(minutes=15 * self.zone) if known else moment.replace(tzinfo=None)
        except OverflowError:
            return None

    def not_a_reading(self) -> list[str]:
        return ["device"]

    def as_json(self) -> dict[str, Any]:
        moment = self.moment()
        return {
            "tick_counter": bool(self.flags & _TICKS),
            "seconds": self.seconds(),
            "timestamp": None if moment is None else moment.replace(tzinfo=None).isoformat(),
            "utc": moment is not None and moment.tzinfo is not None,
            "sync_source": SOURCES[self.source] if self.source < len(SOURCES) else "reserved",
            "time_zone_min": None if self.zone == -128 else self.zone * 15,
            "on_current_timeline": bool(self.flags & _CURRENT),
            "needs_set": None if self.status is None else bool(self.status[0] & 1),
        }


NUMERIC, DISCRETE, COMPOUND = 1, 2, 7
_CLASSES = {NUMERIC: "numeric", DISCRETE: "discrete", COMPOUND: "compound"}
_TYPE, _TIME, _DURATION, _STATUS, _ID, _PATIENT, _SUPPLEMENTAL, _DERIVED, _MEMBERS, _TLV = (
    0x001, 0x002, 0x004, 0x008, 0x010, 0x020, 0x040, 0x080, 0x100, 0x200,
)  # fmt: skip
SINGLE_SEGMENT = 0x03


@dataclass(frozen=True, slots=True)
class Component:
    """One value: its MDC type (None for the observation's own), MDC unit, and the number or, for a discrete one, the MDC code."""

    unit: int | None
    value: float | Special | int
    kind: int | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation. kind: MDC code of what was observed; values: one, or several for a compound."""

    values: tuple[Component, ...]
    kind: int | None = None
    time: ElapsedTime | None = None
    duration: float | Special | None = None
    status: int | None = None
    object_id: int | None = None
    patient: int | None = None
    supplemental: tuple[int, ...] = ()
    derived: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    form: int = NUMERIC

    @classmethod
    def from_bytes(cls, data: bytes) -> Observation:
        outer = Reader(data, "observation")
        if outer.unsigned() & 0x03 != SINGLE_SEGMENT:
            raise DecodeError("segmented", "an observation in several segments")
        form, length = outer.unsigned(), outer.unsigned(2)
        if form not in _CLASSES:
            raise DecodeError("observation_class", str(form))
        body = outer.take(length)
        outer.end()
        reader = Reader(body, "observation")
        flags = reader.unsigned(2)
        if flags & ~0x1FF:
            raise DecodeError("observation_flags", f"{flags:04x}")
        head: dict[str, Any] = {
            "kind": reader.unsigned(4) if flags & _TYPE else None,
            "time": ElapsedTime.take(reader) if flags & _TIME else None,
            "duration": reader.float32() if flags & _DURATION else None,
            "status": reader.unsigned(2) if flags & _STATUS else None,
            "object_id": reader.unsigned(4) if flags & _ID else None,
            "patient": reader.unsigned() if flags & _PATIENT else None,
        }
        for name, bit in (("supplemental", _SUPPLEMENTAL), ("derived", _DERIVED), ("members", _MEMBERS)):
            head[name] = tuple(reader.unsigned(4) for _ in range(reader.unsigned())) if flags & bit else ()
        values: tuple[Component, ...]
        if form == NUMERIC:
            values = (Component(reader.unsigned(2), reader.float32()),)
        elif form == DISCRETE:
            values = (Component(None, reader.unsigned(4)),)
        else:
            values = tuple(_component(reader) for _ in range(reader.unsigned()))
        reader.end()
        return cls(values, form=form, **head)

    def __bytes__(self) -> bytes:
        present = (self.kind, self.time, self.duration, self.status, self.object_id, self.patient)
        flags = sum(1 << bit for bit, value in enumerate(present) if value is not None)
        lists = ((self.supplemental, _SUPPLEMENTAL), (self.derived, _DERIVED), (self.members, _MEMBERS))
        flags |= sum(bit for numbers, bit in lists if numbers)
        out = unsigned(flags, 2)
        out += unsigned(self.kind, 4) if self.kind is not None else b""
        out += bytes(self.time) if self.time is not None else b""
        out += float32(self.duration) if self.duration is not None else b""
        out += unsigned(self.status, 2) if self.status is not None else b""
        out += unsigned(self.object_id, 4) if self.object_id is not None else b""
        out += unsigned(self.patient) if self.patient is not None else b""
        for numbers, _ in lists:
            out += unsigned(len(numbers)) + b"".join(unsigned(code, 4) for code in numbers) if numbers else b""
        if self.form == COMPOUND:
            out += unsigned(len(self.values)) + b"".join(
                unsigned(one.kind or 0, 4) + unsigned(NUMERIC) + _numeric(one) for one in self.values
            )
        elif self.form == NUMERIC:
            out += _numeric(self.values[0])
        else:
            out += unsigned(int(self.values[0].value), 4)
        return bytes((SINGLE_SEGMENT, self.form)) + unsigned(len(out), 2) + out

    def not_a_reading(self) -> list[str]:
        return ["experimental"]

    def as_json(self) -> dict[str, Any]:
        def one(component: Component) -> dict[str, Any]:
            if self.form == DISCRETE:
                return {"mdc_code": component.value}
            words = {} if component.kind is None else {"mdc_type": component.kind}
            return {**words, "mdc_unit": component.unit, "value": number(component.value), "codes": codes(value=component.value)}

        return {
            "class": _CLASSES[self.form],
            "mdc_type": self.kind,
            "time": None if self.time is None else self.time.as_json(),
            "duration_s": number(self.duration),
            "status_raw": self.status,
            "object_id": self.object_id,
            "patient": self.patient,
            "values": [one(component) for component in self.values],
        }


def _numeric(component: Component) -> bytes:
    return unsigned(component.unit or 0, 2) + float32(component.value)


def _component(reader: Reader) -> Component:
    kind, form = reader.unsigned(4), reader.unsigned()
    if form != NUMERIC:
        raise DecodeError("observation_class", f"component of class {form}")
    return Component(reader.unsigned(2), reader.float32(), kind)
