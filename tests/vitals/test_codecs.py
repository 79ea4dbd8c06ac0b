"""SFLOAT and the Blood Pressure Measurement: encode∘decode is the identity; any bytes are a value or a DecodeError."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vitals import gatt, sfloat
from vitals.errors import BadInput, DecodeError
from vitals.gatt import BloodPressureMeasurement, BloodPressureStatus, CurrentTime, DeviceTime
from vitals.sfloat import Special


@given(st.integers(0, 0xFFFF))
def test_every_sfloat_word_survives_a_round_trip_by_value(word: int) -> None:
    value = sfloat.decode(word)
    assert sfloat.decode(sfloat.encode(value)) == value
    if isinstance(value, Special):
        assert sfloat.encode(value) == word


@pytest.mark.parametrize(
    ("word", "value"),
    [(0x07FF, Special.NAN), (0x0800, Special.NRES), (0x07FE, Special.PLUS_INFINITY), (0x0802, Special.MINUS_INFINITY),
     (0x0801, Special.RESERVED), (0x17FF, 20470.0), (0x0076, 118.0), (0xF09D, 15.7), (0x8801, -2047e-8), (0x7801, -2047e7), (0xFFFF, -0.1)],
)  # fmt: skip
def test_sfloat_words(word: int, value: float | Special) -> None:
    assert sfloat.decode(word) == value


@given(st.floats(-2045e7, 2045e7))
def test_numbers_are_encoded_to_the_nearest_four_digits(value: float) -> None:
    decoded = sfloat.decode(sfloat.encode(value))
    assert isinstance(decoded, float)
    assert math.isclose(decoded, value, rel_tol=0.003, abs_tol=1e-8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.1e10, -2.1e10])
def test_what_no_word_can_say_is_refused(value: float) -> None:
    with pytest.raises(BadInput):
        sfloat.encode(value)


WORDS = st.integers(0, 0xFFFF).map(sfloat.decode)
TIMES = st.builds(DeviceTime, st.integers(0, 65535), *[st.integers(0, 255)] * 5)
MEASUREMENTS = st.builds(
    BloodPressureMeasurement,
    WORDS, WORDS, WORDS,
    unit=st.sampled_from(["mm[Hg]", "kPa"]),
    timestamp=st.none() | TIMES,
    pulse=st.none() | WORDS,
    user=st.none() | st.integers(0, 255),
    status=st.none() | st.integers(0, 0xFFFF).map(BloodPressureStatus),
    reserved=st.sampled_from([0, 0x20, 0x40, 0xE0]),
)  # fmt: skip


@given(MEASUREMENTS)
def test_a_blood_pressure_survives_the_wire(measurement: BloodPressureMeasurement) -> None:
    assert BloodPressureMeasurement.from_bytes(bytes(measurement)) == measurement


@given(st.binary(max_size=40))
@example(b"")
@example(bytes(6))
@example(bytes.fromhex("1e" + "ff" * 18))
def test_any_bytes_are_a_value_or_a_decode_error(data: bytes) -> None:
    for uuid in ("2A35", "2A36", "2A08", "2A2B", "2A19"):
        try:
            json.dumps(gatt.decode_json(uuid, data), allow_nan=False)
        except DecodeError as error:
            assert error.reason


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("1e76004c005a00e9070309072d1e4000010400", {"systolic": 118.0, "diastolic": 76.0, "mean": 90.0, "pulse_rate": 64.0, "user_id": 1,
                                                      "irregular_pulse": True, "timestamp": "2025-03-09T07:45:30", "unit": "mm[Hg]"}),
        ("019df065f0ff07", {"systolic": 15.7, "diastolic": 10.1, "mean": None, "unit": "kPa", "timestamp": None, "status_raw": None}),
        ("167c0056006100e807060f11111b33000000", {"systolic": 124.0, "diastolic": 86.0, "pulse_rate": 51.0, "status_raw": 0, "user_id": None}),
        ("00ff07ff07ff07", {"systolic": None, "diastolic": None, "mean": None}),
    ],
)  # fmt: skip
def test_known_frames(frame: str, expected: dict[str, object]) -> None:
    found = gatt.decode_json("2A35", bytes.fromhex(frame))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("cut", range(19))
def test_a_frame_cut_anywhere_is_refused(cut: int) -> None:
    whole = bytes.fromhex("1e76004c005a00e9070309072d1e4000010400")
    with pytest.raises(DecodeError):
        BloodPressureMeasurement.from_bytes(whole[:cut])
    with pytest.raises(DecodeError):
        BloodPressureMeasurement.from_bytes(whole + b"\0")


def test_a_devices_impossible_date_is_kept_and_is_no_date() -> None:
    assert DeviceTime(2026, 2, 30, 8, 0, 0).calendar() is None
    assert DeviceTime(0, 0, 0, 8, 0, 0).calendar() is None
    assert str(DeviceTime(2026, 13, 32, 25, 61, 61)) == "2026-13-32T25:61:61"
    assert DeviceTime(2026, 11, 22, 16, 0, 1).calendar() == datetime(2026, 11, 22, 16, 0, 1)  # noqa: DTZ001


def test_current_time_survives_the_wire() -> None:
    now = CurrentTime(DeviceTime(2026, 11, 22, 16, 0, 1), 7, 128, 1)
    assert CurrentTime.from_bytes(bytes(now)) == now


def test_the_command_prints_json_or_exits_with_two_and_a_reason() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "yizhan", "gatt", "decode", *arguments], capture_output=True, text=True, check=False)

    good = run("2A35", "167c0056006100e807060f11111b33000000")
    assert (good.returncode, json.loads(good.stdout)["systolic"]) == (0, 124.0)
    for arguments in (("2A35", "16"), ("2A35", "zz"), ("FFFF", "00")):
        bad = run(*arguments)
        assert (bad.returncode, bad.stdout) == (2, "")
        assert bad.stderr.strip()
