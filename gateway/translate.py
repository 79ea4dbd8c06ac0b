"""Bytes of a device → measurements: unit and clock are put right once, here, and never again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

from gateway.clock import ClockReading, measured_at
from gateway.devices import Device
from vitals import gatt
from vitals.gatt import BloodPressureMeasurement, DeviceTime
from vitals.gatt.activity import SleepSummary, StepSummary
from vitals.gatt.advertised import BTHome, PolarAdvertisement, XiaomiScale
from vitals.gatt.blood_pressure import EnhancedBloodPressure
from vitals.gatt.cgm import GlucoseRecords, SessionStart
from vitals.gatt.glucose import KETONE_MEAL, MEALS, GlucoseContext, GlucoseMeasurement
from vitals.gatt.heart_rate import HeartRateMeasurement
from vitals.gatt.omron import OmronRecord
from vitals.gatt.oximeter import Continuous, SpotCheck
from vitals.gatt.scale import UNSUCCESSFUL, USER_UNKNOWN, BodyComposition, WeightMeasurement
from vitals.gatt.thermometer import TemperatureMeasurement
from vitals.measurement import Kind, Measurement, Samples, Setting, record_digest
from vitals.metric import MMOL_TO_MGDL
from vitals.sfloat import Special

Number = float | Special | None
GRACE = timedelta(seconds=2)  # device clocks show whole seconds
LIVE = timedelta(minutes=10)  # a broadcast whose own clock is further off than this has a wrong clock


@dataclass(frozen=True, slots=True)
class Frame:
    """One value as it was heard: `name` is its characteristic ("2A35") or vendor profile; the rest is what the session said beside it.

    newest_offset: minutes of the meter's newest record, which its clock has now. clock: as found; written: as we set it.
    user: where the session knows it and the bytes do not say.
    """

    name: str
    data: bytes
    received_at: datetime
    clock: ClockReading | None = None
    context: GlucoseContext | None = None
    newest_offset: int | None = None
    session: SessionStart | None = None
    weight: WeightMeasurement | None = None
    written: ClockReading | None = None
    user: int | None = None

    def with_context(self, context: GlucoseContext) -> Frame:
        return replace(self, context=context)

    def clock_for(self, told: DeviceTime | None, zone: ZoneInfo) -> ClockReading | None:
        """The clock that wrote this time: ours if we set it before the measurement, else the one we found."""
        moment = told.calendar() if told is not None else None
        if self.written is not None and moment is not None:
            now = self.received_at.astimezone(zone).replace(tzinfo=None)
            if self.written.shown - GRACE <= moment <= now + GRACE:
                return self.written
        return self.clock


@dataclass(frozen=True, slots=True)
class _Part:
    """What one value says about one moment, before its time and identity are settled."""

    kind: Kind
    values: dict[str, Number]
    time: DeviceTime | None = None
    record: int | None = None
    series: str = "1"
    flags: tuple[str, ...] = ()
    codes: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    live: bool = False  # without a clock it was measured when it was heard
    raw: bytes | None = None  # its own bytes, where the value holds several
    samples: dict[str, Samples] = field(default_factory=dict)
    told: DeviceTime | None = None  # what to correct, where it is not `time` itself


def translate(frame: Frame, device: Device, *, zone: ZoneInfo, own_record: str, checkin: str | None) -> tuple[list[Measurement], list[str]]:
    """(measurements, why there are none): a value that is no person's reading gives reasons in place of measurements.

    Raises DecodeError for bytes that are none. own_record: the identity to use when the value has neither number nor
    time of its own, so that two equal results of a clockless device stay two.
    """
    value = gatt.decode(frame.name, frame.data, device.model.quirks, device.key, device.address)
    reasons = value.not_a_reading()
    if reasons:
        return [], reasons
    parts = _parts(value, frame, device)
    found = [_measurement(part, frame, device, zone, own_record, checkin) for part in parts]
    return [one for one in found if one.values or one.codes], [] if parts else ["not_this_kind"]


def _measurement(part: _Part, frame: Frame, device: Device, zone: ZoneInfo, own_record: str, checkin: str | None) -> Measurement:
    clockless = "clock_never_set" in device.model.quirks or "clock_not_set" in part.flags
    told = None if clockless else part.told or part.time
    moment, quality = measured_at(told, frame.clock_for(told, zone), zone, frame.received_at)
    if part.live and (part.time is None or quality == "untrusted"):
        moment, quality = frame.received_at, "synced" if part.time is None else "untrusted"
    elif part.live and frame.received_at - moment > LIVE:
        moment, quality = frame.received_at, "untrusted"
    device_time = str(part.time) if part.time is not None else None
    name, user_flags = _whose(device, part.user)
    record: int | str = part.record if part.record is not None else own_record
    if part.record is None and device_time is not None:
        record = record_digest(device_time, frame.data)
    return Measurement(
        device=name,
        kind=part.kind,
        series=part.series,
        record=record,
        identity="device" if part.record is not None or device_time is not None else "gateway",
        measured_at=moment,
        received_at=frame.received_at,
        device_time=device_time,
        time_quality=quality,
        setting=cast(Setting, device.setting),
        checkin=checkin,
        values={code: value for code, value in part.values.items() if value is not None and not isinstance(value, Special)},
        codes={**{code: value.value for code, value in part.values.items() if isinstance(value, Special)}, **part.codes},
        flags=[*part.flags, *user_flags],
        samples=part.samples,
        raw=(part.raw or frame.data).hex(),
    )


def _whose(device: Device, user: int | None) -> tuple[str, list[str]]:
    """The name to publish under: a shared device's user has a name of their own, an unlisted user never another's."""
    if not device.users:
        return device.device, [] if user in (None, USER_UNKNOWN) else [f"user_{user}"]
    if user in device.users:
        return device.users[user], []
    return device.device, ["user_unknown" if user in (None, USER_UNKNOWN) else f"user_{user}"]


def _beats(intervals: tuple[int, ...]) -> dict[str, Samples]:
    """RR intervals (1/1024 s, oldest first) as a dense series: each at the moment its beat ended, the last one at the frame's."""
    if not intervals:
        return {}
    ends, later = [], 0
    for interval in reversed(intervals):
        ends.append(-round(later * 1000 / 1024))
        later += interval
    return {"rr_interval": Samples(tuple(round(one * 1000 / 1024, 1) for one in intervals), offsets_ms=tuple(reversed(ends)))}


def _parts(value: gatt.Value, frame: Frame, device: Device) -> list[_Part]:
    match value:
        case BloodPressureMeasurement():
            return [_blood_pressure(value)]
        case EnhancedBloodPressure():
            return [_blood_pressure(value.plain())]
        case OmronRecord():
            return [replace(_blood_pressure(value.plain()), user=frame.user)]
        case GlucoseMeasurement():
            return [_glucose(value, frame, device)]
        case GlucoseRecords():
            return _interstitial(value, frame)
        case HeartRateMeasurement():
            return [_Part("heart_rate", {"heart_rate": float(value.rate)}, live=True, samples=_beats(value.rr))]
        case PolarAdvertisement():
            return [_Part("heart_rate", {"heart_rate": float(value.rate)}, live=True)]
        case SpotCheck():
            values: dict[str, Number] = {"spo2": value.spo2, "pulse": value.pulse, "perfusion_index": value.amplitude_index}
            return [_Part("pulse_oximetry", values, value.timestamp, flags=tuple(value.flag_names()), live=value.timestamp is None)]
        case Continuous():
            values = {"spo2": value.spo2, "pulse": value.pulse, "perfusion_index": value.amplitude_index}
            return [_Part("pulse_oximetry", values, flags=tuple(value.flag_names()), live=True)]
        case TemperatureMeasurement():
            return [_Part("temperature", {"temperature": value.celsius()}, value.timestamp, live=value.timestamp is None)]
        case WeightMeasurement():
            return [_weight(value)]
        case BodyComposition():
            return [_body(value, frame.weight)]
        case XiaomiScale():
            weight: dict[str, Number] = {"weight": value.kilograms(), "impedance": value.ohms()}
            return [_Part("weight", weight, value.time, live=True)]
        case BTHome():
            return _sensor(value, device)
        case StepSummary():
            steps, distance = value.steps(), value.distance
            counts: dict[str, Number] = {"steps": steps, "distance": distance}
            return [_Part("activity", counts, record=value.header.sequence, series=f"steps-{value.header.session}")]
        case SleepSummary():
            minutes: Number = None if value.total_sleep is None else value.total_sleep / 60
            return [_Part("activity", {"sleep_minutes": minutes}, record=value.header.sequence, series=f"sleep-{value.header.session}")]
    return []


def _blood_pressure(report: BloodPressureMeasurement) -> _Part:
    systolic, diastolic, mean = report.pressures_mmhg()
    values: dict[str, Number] = {"systolic": systolic, "diastolic": diastolic, "pulse": report.pulse}
    if not isinstance(mean, Special) and mean > 0:  # NaN and 0 both mean that the cuff does not compute it
        values["mean_arterial"] = mean
    return _Part("blood_pressure", values, report.timestamp, flags=tuple(report.flag_names()), user=report.user)


def _glucose(value: GlucoseMeasurement, frame: Frame, device: Device) -> _Part:
    """One result. The clock shows base time plus today's offset, so that is what the clock reading corrects."""
    base, told = value.base_time.calendar(), value.user_time()
    if base is not None and frame.clock is not None and frame.newest_offset is not None:
        told = DeviceTime.of(base + timedelta(minutes=frame.newest_offset))
    # a meter whose record 0 is always the newest has numbers that identify nothing
    record = None if device.model.history == "racp_reversed" else value.sequence
    time = value.user_time() or value.base_time
    context, flags = frame.context, value.flag_names()
    if context is not None and context.meal is not None and context.meal == KETONE_MEAL and "ketone_by_meal_6" in device.model.quirks:
        milligrams = value.mg_dl()
        return _Part("glucose", {"ketone": None if milligrams is None else milligrams / 10}, time, record, flags=tuple(flags), told=told)
    if context is not None and context.meal is not None and 0 < context.meal < len(MEALS):
        flags.append(str(MEALS[context.meal]))
    limit = value.out_of_range()
    values: dict[str, Number] = {"hba1c": context.hba1c if context is not None else None}
    if limit is None:
        values["glucose"] = value.mmol_l()
    return _Part("glucose", values, time, record, flags=tuple(flags), codes={"glucose": limit} if limit else {}, told=told)


def _interstitial(value: GlucoseRecords, frame: Frame) -> list[_Part]:
    """Each record's time is the session's start plus its minutes; the session is the series."""
    start = frame.session.time.calendar() if frame.session is not None else None
    series = str(frame.session.time) if frame.session is not None else "unknown-session"
    parts = []
    for record, raw in zip(value.records, GlucoseRecords.slices(frame.data), strict=True):
        if record.not_a_reading():
            continue
        limit = record.out_of_range()
        glucose = record.glucose if isinstance(record.glucose, Special) else record.glucose / MMOL_TO_MGDL
        parts.append(
            _Part(
                "cgm",
                {} if limit else {"glucose_interstitial": glucose},
                None if start is None else DeviceTime.of(start + timedelta(minutes=record.minutes)),
                record.minutes,
                series,
                tuple(record.flag_names()),
                {"glucose_interstitial": limit} if limit else {},
                raw=raw,
            )
        )
    return parts


def _weight(value: WeightMeasurement) -> _Part:
    metres = value.metres()
    bmi = None if value.bmi is None else value.bmi / 10
    values: dict[str, Number] = {"weight": value.kilograms(), "bmi": bmi, "height": None if metres is None else metres * 100}
    return _Part("weight", values, value.timestamp, user=value.user)


def _body(value: BodyComposition, weight: WeightMeasurement | None) -> _Part:
    """A body composition often leaves time and user to the weight that came just before it."""
    time = value.timestamp or (weight.timestamp if weight is not None else None)
    user = value.user if value.user is not None or weight is None else weight.user
    values: dict[str, Number] = {
        "body_fat": None if value.fat == UNSUCCESSFUL else value.fat / 10,
        "basal_metabolism": value.metabolism,
        "muscle_share": None if value.muscle_share is None else value.muscle_share / 10,
        "muscle_mass": value.kilograms("muscle_mass"),
        "fat_free_mass": value.kilograms("fat_free_mass"),
        "soft_lean_mass": value.kilograms("soft_lean_mass"),
        "body_water": value.kilograms("water_mass"),
        "impedance": None if value.impedance is None else value.impedance / 10,
        "weight": value.kilograms("weight"),
    }
    return _Part("body_composition", values, time, user=user)


def _sensor(value: BTHome, device: Device) -> list[_Part]:
    """Only what this device is there for: a room's temperature is nobody's fever."""
    found = value.values()
    if device.kind == "temperature" and "temperature" in found:
        return [_Part("temperature", {"temperature": found["temperature"]}, record=value.counter, live=True)]
    if device.kind == "weight" and value.kilograms() is not None:
        return [_Part("weight", {"weight": value.kilograms()}, record=value.counter, live=True)]
    return []
