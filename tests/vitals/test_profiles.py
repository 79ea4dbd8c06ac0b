"""Every profile: captured frames decode to what they mean, every value survives the wire, any bytes are a value or a DecodeError."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vitals import device_model, gatt, sfloat
from vitals.errors import BadInput, ConfigError, DecodeError
from vitals.gatt import advertised, cgm, glucose, records, scale
from vitals.gatt.fields import DeviceTime, crc_ccitt_false, crc_mcrf4xx
from vitals.sfloat import Special

# (characteristic or profile, model, frame, fields). Captured from real devices unless the comment says otherwise.
CAPTURED: list[tuple[str, str, str, dict[str, Any]]] = [
    ("2A35", "", "167c0056006100e807060f11111b33000000", {"systolic": 124.0, "diastolic": 86.0, "mean": 97.0, "pulse_rate": 51.0,
        "timestamp": "2024-06-15T17:17:27", "user_id": None, "status_raw": 0, "pulse_range": "in_range", "must_not_publish": False}),
    ("2A35", "Beurer BM85", "566a0047000000ea07080b121f00003f000000", {"systolic": 106.0, "diastolic": 71.0, "mean": None,
        "pulse_rate": 63.0, "user_id": 0, "timestamp": "2026-08-11T18:31:00", "irregular_pulse": False}),
    ("2A18", "", "0b0400e407050e0c311d4e0168b0f80000", {"sequence": 4, "base_time": "2020-05-14T12:49:29", "time_offset_min": 334,
        "user_time": "2020-05-14T18:23:29", "concentration": 0.00104, "concentration_unit": "kg/L", "glucose_mg_dl": 104.0,
        "sample_type": "undetermined plasma", "sample_location": "not available", "status_raw": 0, "context_follows": False}),
    ("2A18", "CareSens", "030100e407030e1717000000ffff11", {"sequence": 1, "glucose_mg_dl": None, "must_not_publish": True,
        "sample_type": "capillary whole blood", "sample_location": "finger"}),
    ("2A52", "", "06000101", {"op": "response", "operator": "null", "request_op": "report stored records", "response": "success"}),
    ("2AA7", "Medtronic 780G", "0ec3f900f40b000074e00a00e0f1", {"size": 14, "glucose_mg_dl": 249.0, "time_offset_min": 3060,
        "trend_mg_dl_min": 1.16, "quality_pct": 10.0, "crc_variant": "CRC-16/CCITT-FALSE"}),
    ("2A37", "Polar H10", "103b5304", {"heart_rate": 59, "contact": "not_supported", "energy_kj": None, "rr_1024": [1107], "rr_ms": [1081.055]}),
    ("2A5F", "", "0c62004e002000000000", {"spo2": 98.0, "pulse_rate": 78.0, "measurement_status_raw": 32, "measurement_ongoing": True}),
    ("2A1C", "", "06680100ffe207030a15340002", {"temperature": 36.0, "unit": "Cel", "timestamp": "2018-03-10T21:52:00", "site_code": 2}),
    ("2A9D", "", "0e783eea07050c12353601ee002607", {"weight": 79.96, "unit": "kg", "user_id": 1, "bmi": 23.8, "height_m": 1.83,
        "timestamp": "2026-05-12T18:53:54"}),
    ("2A9C", "", "9803c200df1a9701cc2fca21a811", {"body_fat_pct": 19.4, "basal_metabolism_kj": 6879, "muscle_pct": 40.7,
        "soft_lean_mass_kg": 61.18, "body_water_mass_kg": 43.25, "impedance_ohm": 452.0, "timestamp": None, "user_id": None}),
    ("xiaomi_scale_v1_adv", "", "229e43e507040b101301", {"weight": 86.55, "unit": "kg", "stabilised": True, "removed": False,
        "timestamp": "2021-04-11T16:19:01"}),
    # synthetic, from the profiles' descriptions
    ("2A35", "", "019df065f0ff07", {"systolic": 15.7, "diastolic": 10.1, "mean": None, "unit": "kPa", "codes": {"mean": "NaN"}}),
    ("2A36", "", "00a000ff07ff07", {"systolic": 160.0, "diastolic": None, "must_not_publish": True, "reasons": ["intermediate"]}),
    ("2B34", "", "5e76004c005a0080510100400001" + "0400", {"systolic": 118.0, "timestamp": "2000-01-02T00:00:00", "pulse_rate": 64.0, "irregular_pulse": True}),
    ("2A18", "", "1b0c00e9070309072d1ea6ff61b0120000", {"sequence": 12, "glucose_mg_dl": 97.0, "sample_type": "capillary plasma",
        "sample_location": "finger", "user_time": "2025-03-09T06:15:30", "context_follows": True}),
    ("2A18", "", "060d00e9070309072d1e36c011", {"sequence": 13, "concentration_unit": "mol/L", "glucose_mmol_l": 5.4}),
    ("2A18", "", "030e00e9070309072d1e000061b04a", {"control_solution": True, "must_not_publish": True, "reasons": ["control_solution"]}),
    ("2A18", "", "080f00e9070309072d1e2000", {"out_of_range": "HI", "glucose_mg_dl": None, "must_not_publish": False}),
    ("2A18", "", "0b0f00e9070309072d1e000061b0120400", {"must_not_publish": True, "reasons": ["unsuccessful"]}),
    ("2A34", "", "430c000314d00238f0", {"sequence": 12, "carbohydrate": "dinner", "carbohydrate_g": 20.0, "meal": "postprandial", "hba1c_pct": 5.6}),
    ("2A34", "", "020c0006", {"meal_code": 6, "ketone": True}),
    ("2A37", "", "1648" + "55036603", {"heart_rate": 72, "contact": "detected", "rr_ms": [833.008, 849.609]}),
    ("2A37", "", "0400", {"contact": "not_detected", "must_not_publish": True}),
    ("2A5E", "", "0061003a00", {"spo2": 97.0, "pulse_rate": 58.0, "must_not_publish": False}),
    ("2A5E", "", "0661003a00000c000800", {"must_not_publish": True, "reasons": ["demonstration", "testing", "no_finger"]}),
    ("2A1C", "", "06650e00fee9070309072d1e02", {"temperature": 36.85, "site": "body"}),
    ("2A1C", "", "00ffff7f00", {"temperature": None, "codes": {"temperature": "NaN"}}),
    ("2A9D", "", "00ffff", {"weight": None, "must_not_publish": True, "reasons": ["unsuccessful"]}),
    ("2A9D", "", "01803e", {"weight": 160.0, "unit": "[lb_av]"}),
    ("xiaomi_scale_v2_adv", "", "0226e507040b1013018c01f43d", {"weight": 79.3, "unit": "kg", "impedance_ohm": 396, "stabilised": True, "removed": False}),
    ("2A9C", "Mi Body Composition Scale", "0226e507040b1013018c01f43d", {"weight": 79.3, "impedance_ohm": 396}),
    ("xiaomi_scale_v2_adv", "", "0200e507040b101301fdfff43d", {"stabilised": False, "impedance_ohm": None, "must_not_publish": True}),
    ("polar_adv", "", "6b003f004f50", {"heart_rate": 80, "heart_rate_fast": 79}),
    ("bthome_v2_adv", "", "4002c40903bf13", {"temperature": 25.0, "temperature_unit": "Cel", "humidity": 50.55, "encrypted": False}),
    ("bthome_v2_adv", "", "d2fc44005b06581b", {"packet_id": 91, "mass": 70.0, "mass_unit": "kg", "trigger_based": True}),
    ("omron_proprietary_record", "", bytes(gatt.omron.OmronRecord(142, 91, 66, DeviceTime(2024, 3, 5, 8, 30, 15), irregular=True)).hex(),
        {"systolic": 142.0, "diastolic": 91.0, "pulse_rate": 66.0, "timestamp": "2024-03-05T08:30:15", "irregular_pulse": True, "body_movement": False}),
    ("2A19", "", "64", {"battery_level": 100}),
    ("2A49", "", "3f00", {"body_movement_supported": True, "multiple_bonds_supported": True, "must_not_publish": True}),
    ("2A51", "", "0004", {"multiple_bonds_supported": True, "low_battery_supported": False}),
    ("2A25", "", "30303030000000", {"text": "0000"}),
    ("2BF2", "", "222a000000000001200000", {"timestamp": "2000-01-01T00:00:42", "utc": True, "sync_source": "ntp"}),
]  # fmt: skip

BROKEN: list[tuple[str, str, str, str]] = [
    ("2A35", "", "566a0047000000ea07080b121f00003f000000", "blood_pressure_length"),  # the quirky frame without its quirk
    ("2A35", "Beurer BM85", "167c0056006100e807060f11111b33000000", "blood_pressure_length"),  # a conforming one with it
    ("2A18", "", "0b0400e407050e0c311d4e0168b0f800", "glucose_length"),
    ("2AA7", "", "0ec3f900f40b000074e00a00e0f2", "cgm_crc"),
    ("2AA7", "Accu-Chek SmartGuide", "0ec3f900f40b000074e00a00e0f1", "cgm_crc"),  # the pump's checksum on a sensor of another maker
    ("2AA7", "", "05c3f900f4", "cgm_length"),
    ("2AA7", "", "", "cgm_length"),
    ("2A37", "", "103b53", "heart_rate_length"),
    ("2A52", "", "0900", "record_access_op"),
    ("2A9F", "", "0201", "user_control_length"),
    ("2A2B", "", "e9070309072d1e09ff00", "current_time_weekday"),
    ("bthome_v2_adv", "", "41aabbccddeeff00112233", "encrypted"),
    ("bthome_v2_adv", "", "20aabb", "bthome_version"),
    ("bthome_v2_adv", "", "40ef01", "bthome_object"),
    ("omron_proprietary_record", "", "ff" * 14, "omron_empty"),
    ("2B40", "", "010f" + "00" * 30, "segmented"),
    ("2A99", "", "00", "unknown_characteristic"),
]


@pytest.mark.parametrize(("name", "model", "frame", "expected"), CAPTURED)
def test_frames_mean_what_they_mean(name: str, model: str, frame: str, expected: dict[str, Any]) -> None:
    row = device_model.named(model) if model else None
    found = gatt.decode_json(name, bytes.fromhex(frame), row.quirks if row else frozenset())
    assert {key: found.get(key, "missing") for key in expected} == expected
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("name", "model", "frame", "reason"), BROKEN)
def test_broken_frames_are_refused_with_their_reason(name: str, model: str, frame: str, reason: str) -> None:
    row = device_model.named(model) if model else None
    with pytest.raises(DecodeError) as refused:
        gatt.decode_json(name, bytes.fromhex(frame), row.quirks if row else frozenset())
    assert refused.value.reason == reason


@pytest.mark.parametrize("name", gatt.NAMES)
@given(data=st.binary(max_size=70))
@example(data=b"")
@example(data=b"\xff" * 20)
def test_any_bytes_are_a_value_that_survives_the_wire_or_a_decode_error(name: str, data: bytes) -> None:
    """Every prefix is tried: one of them has the length that its flags ask for."""
    for size in range(len(data) + 1):
        try:
            value = gatt.decode(name, data[:size])
        except DecodeError as error:
            assert error.reason
            continue
        json.dumps(gatt.decode_json(name, data[:size]), allow_nan=False)
        again = bytes(value)  # type: ignore[call-overload]
        if len(again) <= 512:
            assert gatt.decode(name, again) == value


@given(st.integers(0, 0xFFFFFFFF))
@example(0x007FFFFF)
@example(0x017FFFFE)
@example(0x01800000)
@example(0xFF800000)
@example(0xC0000001)
@example(0x40000001)
def test_every_float_word_survives_a_round_trip_by_value(word: int) -> None:
    value = sfloat.decode32(word)
    assert sfloat.decode32(sfloat.encode32(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e80])
def test_what_no_float_word_can_say_is_refused(value: float) -> None:
    with pytest.raises(BadInput):
        sfloat.encode32(value)


def test_checksums_by_their_published_check_values() -> None:
    assert crc_mcrf4xx(b"123456789") == 0x6F91
    assert crc_ccitt_false(b"123456789") == 0x29B1


def test_several_records_in_one_notification_each_with_its_checksum() -> None:
    many = cgm.GlucoseRecords(tuple(cgm.GlucoseRecord(100.0 + n, 5 * n, trend=0.5, crc_variant=cgm.CRC_SIG) for n in range(3)))
    found = gatt.decode_json("2AA7", bytes(many))
    assert [(record["glucose_mg_dl"], record["time_offset_min"]) for record in found["records"]] == [(100.0, 0), (101.0, 5), (102.0, 10)]
    broken = bytearray(bytes(many))
    broken[20] ^= 1
    with pytest.raises(DecodeError):
        gatt.decode("2AA7", bytes(broken))


def test_glucose_units_meet_at_the_boundary_of_a_rule() -> None:
    molar = glucose.GlucoseMeasurement(
        1, DeviceTime(2026, 1, 1, 0, 0, 0), concentration=0.0070, unit="mol/L", sample_type=1, sample_location=1
    )
    mass = glucose.GlucoseMeasurement(
        1, DeviceTime(2026, 1, 1, 0, 0, 0), concentration=0.00126, unit="kg/L", sample_type=1, sample_location=1
    )
    assert molar.mmol_l() == pytest.approx(7.0, abs=1e-12)
    assert mass.mmol_l() == pytest.approx(126 / 18.0156, abs=1e-12)
    assert glucose.GlucoseMeasurement(1, DeviceTime(2026, 1, 1, 0, 0, 0), concentration=Special.NRES).mmol_l() is Special.NRES


def test_an_encrypted_advertisement_needs_its_key_and_its_sender() -> None:
    key, sender = bytes(range(16)), "54:48:E6:8F:80:A5"
    plain = advertised.BTHome(((0x02, 2506), (0x03, 5055)))
    sealed = plain.encrypted(key, sender, 41)
    opened = advertised.BTHome.from_bytes(sealed, key, sender)
    assert (opened.values(), opened.counter) == ({"temperature": 25.06, "humidity": 50.55}, 41)
    for wrong_key, wrong_sender in ((bytes(16), sender), (key, "54:48:E6:8F:80:A6"), (b"short", sender), (key, "nobody")):
        with pytest.raises(DecodeError) as refused:
            advertised.BTHome.from_bytes(sealed, wrong_key, wrong_sender)
        assert refused.value.reason == "bthome_key"
    with pytest.raises(DecodeError):
        advertised.BTHome.from_bytes(sealed)


def test_the_published_encrypted_example_of_the_format() -> None:
    """bthome.io gives this advertisement, key and address as its example."""
    key = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
    data = bytes.fromhex("41a47266c95f730011223378237214")
    found = gatt.decode_json("bthome_v2_adv", data, key=key, address="54:48:E6:8F:80:A5")
    assert (found["temperature"], found["humidity"]) == (25.06, 50.55)


def test_two_packets_of_one_body_composition_are_one_measurement() -> None:
    first = scale.BodyComposition(194, timestamp=DeviceTime(2026, 5, 12, 18, 53, 54), user=1, metabolism=6879, multiple=True)
    second = scale.BodyComposition(194, user=1, impedance=4520, weight=15992, multiple=True)
    whole = first.joined(second)
    assert (whole.metabolism, whole.impedance, whole.kilograms("weight"), whole.timestamp) == (6879, 4520, 79.96, first.timestamp)


def test_requests_for_records_are_what_meters_expect() -> None:
    assert bytes(records.RecordAccess.report_all()).hex() == "0101"
    assert bytes(records.RecordAccess.report_from(13)).hex() == "0103010d00"
    assert bytes(records.RecordAccess.abort()).hex() == "0300"


def test_consent_is_never_printed() -> None:
    found = gatt.decode_json("2A9F", bytes(scale.UserControl.consent(1, 4711)))
    assert found["user_id"] == 1
    assert "4711" not in json.dumps(found)


def test_every_model_has_one_name_and_known_words() -> None:
    assert device_model.named("beurer bm85") is device_model.named("BM85")
    assert device_model.recognise("BM85_1234") is device_model.named("Beurer BM85")
    assert device_model.recognise("whatever", [0x006B]) is device_model.named("Polar H10")
    assert device_model.recognise("whatever") is None
    for kind in ("blood_pressure", "glucose", "cgm", "heart_rate", "pulse_oximetry", "temperature", "weight", "activity"):
        row = device_model.generic(kind)
        assert row is not None
        assert row.kind == kind
    assert device_model.generic("spirometry") is None
    row = '[[model]]\nname = "x"\nmaker = "m"\nkind = "weight"\nbond = "none"\ntime = "none"\nhang_up = "host"\nhistory = "none"\nevidence = "simulated"\n'
    for text in (row + row, row + 'quirks = ["magic"]\n', row + 'advertises = "("\n', row + "colour = 1\n", "not toml"):
        with pytest.raises(ConfigError):
            device_model.read(text)


def test_the_command_takes_a_model_and_a_vendors_profile() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "yizhan", "gatt", "decode", *arguments], capture_output=True, text=True, check=False)

    quirky = "566a0047000000ea07080b121f00003f000000"
    assert run("2A35", quirky).returncode == 2
    assert json.loads(run("2A35", quirky, "--model", "Beurer BM85").stdout)["pulse_rate"] == 63.0
    assert json.loads(run("xiaomi_scale_v1_adv", "229e43e507040b101301").stdout)["weight"] == 86.55
    unknown = run("2A19", "64", "--model", "No Such Thing")
    assert (unknown.returncode, "No Such Thing" in unknown.stderr) == (0, True)
