"""Bytes of a device → a measurement: unit and clock are put right once, here, and never again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast
from zoneinfo import ZoneInfo

from gateway.devices import Device
from vitals.gatt import BloodPressureMeasurement, DeviceTime
from vitals.measurement import Measurement, Setting, TimeQuality, record_digest
from vitals.sfloat import Special
from vitals.wire import EARLIEST, SKEW

# a device clock further off than this was never set: its differences still hold, its date does not
NEVER_SET = timedelta(days=1)


class ClockReading(NamedTuple):
    """Coincident times: what the device's clock showed (naive local) when ours said `at` (aware)."""

    shown: datetime
    at: datetime


def measured_at(
    device_time: DeviceTime | None, clock: ClockReading | None, zone: ZoneInfo, received_at: datetime
) -> tuple[datetime, TimeQuality]:
    """When it was measured, and how well that is known.

    synced: the device's clock was read at this connection and is about right. estimated: it was read but had
    never been set (its offset is applied), or it was not read and its time was taken as local. untrusted: no
    usable time; measured_at is received_at.
    """
    told = device_time.calendar() if device_time is not None else None
    if told is None:
        return received_at, "untrusted"
    if clock is not None:
        moment = clock.at - (clock.shown - told)
        drift = abs(clock.shown - clock.at.astimezone(zone).replace(tzinfo=None))
        quality: TimeQuality = "synced" if drift < NEVER_SET else "estimated"
    else:
        moment = told.replace(tzinfo=zone).astimezone(UTC)
        quality = "estimated"
    if not EARLIEST <= moment <= received_at + SKEW:
        return received_at, "untrusted"
    return min(moment, received_at), quality


def blood_pressure(
    frame: bytes, device: Device, *, clock: ClockReading | None, zone: ZoneInfo, received_at: datetime, own_record: str, checkin: str | None
) -> Measurement:
    """A 2A35 frame as a measurement in mm[Hg]; raises DecodeError for bytes that are none.

    own_record: the identity to use when the frame has no time of its own, so that two equal results of a
    clockless cuff stay two.
    """
    report = BloodPressureMeasurement.from_bytes(frame)
    systolic, diastolic, mean = report.pressures_mmhg()
    found = {"systolic": systolic, "diastolic": diastolic, "pulse": report.pulse}
    if not isinstance(mean, Special) and mean > 0:  # NaN and 0 both mean that the cuff does not compute it
        found["mean_arterial"] = mean
    moment, quality = measured_at(report.timestamp, clock, zone, received_at)
    device_time = str(report.timestamp) if report.timestamp is not None else None
    return Measurement(
        device=device.device,
        kind="blood_pressure",
        record=record_digest(device_time, frame) if device_time is not None else own_record,
        identity="device" if device_time is not None else "gateway",
        measured_at=moment,
        received_at=received_at,
        device_time=device_time,
        time_quality=quality,
        setting=cast(Setting, device.setting),
        checkin=checkin,
        values={code: value for code, value in found.items() if value is not None and not isinstance(value, Special)},
        codes={code: value.value for code, value in found.items() if isinstance(value, Special)},
        flags=report.flag_names(),
        raw=frame.hex(),
    )
