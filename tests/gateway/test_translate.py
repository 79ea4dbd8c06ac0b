"""Unit and clock are put right once, and honestly."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway import devices
from gateway.clock import ClockReading, measured_at
from gateway.station import Station
from gateway.translate import Frame, translate
from vitals.errors import BadInput, ConfigError, DecodeError
from vitals.gatt import BloodPressureMeasurement, DeviceTime
from vitals.gatt.cgm import CRC_SIG, GlucoseRecord, GlucoseRecords
from vitals.measurement import Measurement
from vitals.sfloat import Special

ZONE = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)  # 16:00 in Shanghai
CUFF = devices.device({"device": "cuff-1", "address": "F0:00:00:00:00:01", "kind": "blood_pressure", "setting": "home"})


def local(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("device_time", "shown", "expected", "quality"),
    [
        ("2026-11-22T15:58:00", "2026-11-22T16:00:00", NOW - timedelta(minutes=2), "synced"),
        ("2026-11-22T15:48:00", "2026-11-22T15:50:00", NOW - timedelta(minutes=2), "synced"),  # ten minutes slow
        ("2010-01-01T00:03:00", "2010-01-01T00:05:00", NOW - timedelta(minutes=2), "estimated"),  # factory date, running
        ("2026-11-22T15:58:00", None, NOW - timedelta(minutes=2), "estimated"),  # no clock to read
        ("2026-11-23T16:00:00", None, NOW, "untrusted"),  # tomorrow
        ("2010-01-01T00:03:00", None, NOW, "untrusted"),
        ("2026-11-22T16:01:00", "2026-11-22T16:00:00", NOW, "synced"),  # a minute ahead: no measurement before it was received
        (None, "2026-11-22T16:00:00", NOW, "untrusted"),
    ],
)
def test_when_it_was_measured(device_time: str | None, shown: str | None, expected: datetime, quality: str) -> None:
    told = DeviceTime.of(local(device_time)) if device_time else None
    clock = ClockReading(local(shown), NOW) if shown else None
    assert measured_at(told, clock, ZONE, NOW) == (expected, quality)


def test_an_unknown_or_impossible_date_is_untrusted() -> None:
    for raw in (DeviceTime(0, 0, 0, 8, 0, 0), DeviceTime(2026, 2, 30, 8, 0, 0)):
        assert measured_at(raw, None, ZONE, NOW) == (NOW, "untrusted")


def cuff_frame(data: bytes, clock: ClockReading | None = None, at: datetime = NOW, own: str = "boot-1") -> Measurement:
    found, reasons = translate(Frame("2A35", data, at, clock), CUFF, zone=ZONE, own_record=own, checkin=None)
    assert reasons == []
    return found[0]


def cuff_says(report: BloodPressureMeasurement) -> Measurement:
    return cuff_frame(bytes(report))


def test_kilopascal_become_millimetres_without_rounding() -> None:
    found = cuff_says(BloodPressureMeasurement(24.0, 14.7, Special.NAN, unit="kPa"))
    assert found.values == {"systolic": 24.0 * 7.50062, "diastolic": 14.7 * 7.50062}
    assert found.codes == {}


def test_a_failed_measurement_is_a_code_never_2047() -> None:
    found = cuff_says(BloodPressureMeasurement(Special.NAN, Special.NAN, Special.NAN, pulse=Special.NRES))
    assert found.values == {}
    assert found.codes == {"systolic": "NaN", "diastolic": "NaN", "pulse": "NRes"}


def test_a_mean_of_zero_is_no_mean() -> None:
    assert "mean_arterial" not in cuff_says(BloodPressureMeasurement(120.0, 80.0, 0.0)).values


def test_two_equal_results_of_a_clockless_cuff_stay_two() -> None:
    report = bytes(BloodPressureMeasurement(120.0, 80.0, 93.0))
    first, second = (cuff_frame(report, own=own) for own in ("b-1", "b-2"))
    assert (first.record, second.record, first.identity) == ("b-1", "b-2", "gateway")


def test_the_same_stored_record_has_one_identity_whenever_it_is_fetched() -> None:
    report = bytes(BloodPressureMeasurement(120.0, 80.0, 93.0, timestamp=DeviceTime(2026, 11, 22, 15, 0, 0)))
    first, second = (
        cuff_frame(report, clock, at, "unused")
        for clock, at in ((None, NOW), (ClockReading(local("2026-11-22T16:30:00"), NOW + timedelta(hours=1)), NOW + timedelta(hours=1)))
    )
    assert first.record == second.record
    assert first.measured_at != second.measured_at


@pytest.mark.parametrize("frame", [b"", b"\x1e", bytes(40)])
def test_bytes_that_are_no_measurement_are_refused(frame: bytes) -> None:
    with pytest.raises(DecodeError):
        cuff_frame(frame)


def test_a_checkin_ends_by_command_and_by_time() -> None:
    station = Station()
    assert station.checkin(NOW) is None
    station.obey({"command": "checkin", "checkin": "c-1", "until": "2026-11-22T08:15:00Z"})
    assert station.checkin(NOW) == "c-1"
    assert station.checkin(NOW + timedelta(minutes=15)) is None
    station.obey({"command": "checkout", "checkin": "c-other"})
    assert station.checkin(NOW) == "c-1"
    station.obey({"command": "checkout", "checkin": "c-1"})
    assert station.checkin(NOW) is None
    for nonsense in (
        {},
        {"command": "checkin"},
        {"command": "checkin", "checkin": "c", "until": "soon"},
        {"command": "reboot", "checkin": "c"},
    ):
        with pytest.raises(BadInput):
            station.obey(nonsense)


def test_every_fault_of_the_device_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    row = {"device": "cuff-1", "address": "F0:00:00:00:00:01", "kind": "blood_pressure", "setting": "home"}
    path.write_text(json.dumps([row]))
    assert list(devices.read(path)) == ["F0:00:00:00:00:01"]
    path.write_text(json.dumps([row, row, row | {"address": "nowhere"}, row | {"kind": "x", "setting": "y", "colour": "z"}, 7]))
    with pytest.raises(ConfigError) as error:
        devices.read(path)
    assert len(error.value.problems) == 7
    path.write_text("{")
    with pytest.raises(ConfigError):
        devices.read(path)


def test_a_sensors_record_is_the_same_alone_and_in_company() -> None:
    """The raw bytes decide what a copy is, so each record carries its own, not those of its notification."""
    sensor = devices.device({"device": "cgm-1", "address": "F0:00:00:00:00:02", "kind": "cgm", "setting": "wearable"})
    records = [GlucoseRecord(100.0 + n, 5 * n, crc_variant=CRC_SIG) for n in range(3)]

    def translated(data: bytes) -> list[Measurement]:
        return translate(Frame("2AA7", data, NOW), sensor, zone=ZONE, own_record="x", checkin=None)[0]

    together = translated(bytes(GlucoseRecords(tuple(records))))
    alone = [translated(bytes(record))[0] for record in records]
    assert [(one.series, one.record, one.raw) for one in together] == [(one.series, one.record, one.raw) for one in alone]


def test_a_devices_row_survives_the_file_and_is_its_owners(tmp_path: Path) -> None:
    row = {
        "device": "scale-1", "address": "F0:00:00:00:00:03", "kind": "weight", "setting": "home", "model": "Beurer BF720", "user": 1,
        "consent": 4711, "users": {"1": "scale-1-anna"}, "bond": "unauthenticated",
    }  # fmt: skip
    one = devices.device(row)
    devices.write(tmp_path / "devices.json", [one])
    assert devices.read(tmp_path / "devices.json") == {one.address: one}
    assert (tmp_path / "devices.json").stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError) as error:
        devices.device({**row, "users": {"300": "x"}, "passkey": 1_000_000, "bind_key": "zz", "bond": "firm", "model": "no such"})
    assert len(error.value.problems) == 5


def test_a_clock_that_was_moved_makes_a_time_an_estimate() -> None:
    told = DeviceTime.of(local("2026-11-22T15:58:00"))
    assert measured_at(told, ClockReading(local("2026-11-22T16:00:00"), NOW, moved=True), ZONE, NOW)[1] == "estimated"


def test_a_time_written_by_us_counts_from_then_on() -> None:
    """The cuff was ten minutes fast; what it stored before we set it keeps the old offset, what it measures after has none."""
    found, written = ClockReading(local("2026-11-22T16:10:00"), NOW), ClockReading(local("2026-11-22T16:00:00"), NOW)

    def at(told: str, received: datetime) -> datetime:
        frame = Frame(
            "2A35",
            bytes(BloodPressureMeasurement(120.0, 80.0, 93.0, timestamp=DeviceTime.of(local(told)))),
            received,
            found,
            written=written,
        )
        return translate(frame, CUFF, zone=ZONE, own_record="x", checkin=None)[0][0].measured_at

    assert at("2026-11-22T15:40:00", NOW) == NOW - timedelta(minutes=30)
    assert at("2026-11-22T16:05:00", NOW + timedelta(minutes=6)) == NOW + timedelta(minutes=5)
