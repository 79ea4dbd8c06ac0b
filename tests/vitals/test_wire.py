"""The wire against the bad-input catalogue: every payload is a message or a refusal with a stable reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim import fleet
from vitals import wire
from vitals.errors import BadInput
from vitals.measurement import Measurement, implausible, is_priority, weak_source
from vitals.metric import BY_NUMBER, METRICS

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "v": 1, "boot": "9f2c", "seq": 4711, "sent_at": "2026-11-22T08:00:05Z",
    "measurements": [{
        "device": "cuff-0007", "kind": "blood_pressure", "series": "1", "record": 213, "device_time": "2026-11-22T16:00:01",
        "measured_at": "2026-11-22T08:00:01Z", "time_quality": "synced", "received_at": "2026-11-22T08:00:02Z", "setting": "kiosk",
        "checkin": "c-81f", "values": {"systolic": 186, "diastolic": 112, "mean_arterial": 137, "pulse": 88}, "flags": ["irregular_pulse"],
        "raw": "1eba0070",
    }],
}  # fmt: skip


def payload(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def with_measurement(**changes: Any) -> bytes:
    one = {key: value for key, value in (GOOD["measurements"][0] | changes).items() if value is not ...}
    return json.dumps(GOOD | {"measurements": [one]}).encode()


def reason(data: bytes) -> str:
    with pytest.raises(BadInput) as error:
        wire.decode_message(data, NOW)
    return error.value.reason


def test_the_example_of_the_design_is_read() -> None:
    message = wire.decode_message(payload(), NOW)
    assert (message.boot, message.seq) == ("9f2c", 4711)
    assert message.measurements[0].values["systolic"] == 186
    assert message.measurements[0].measured_at == datetime(2026, 11, 22, 8, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not_json"),
        (b"\0", "not_json"),
        (payload() + b"x", "not_json"),
        (b"\xef\xbb\xbf" + payload(), "not_json"),
        (b'{"v":\xc0\xaf}', "not_json"),
        (payload().replace(b'"cuff-0007"', b'"\\ud800"'), "not_json"),
        (payload().replace(b"186", b"NaN"), "not_json"),
        (payload().replace(b"186", b"1e400"), "bad_schema"),
        (payload().replace(b'"seq": 4711', b'"seq": 4711, "seq": 4712'), "duplicate_key"),
        (payload().replace(b'"systolic": 186', b'"systolic": 120, "systolic": 186'), "duplicate_key"),
        (b"[" * 10_000, "not_json"),
        (payload(seq=2**63), "bad_schema"),
        (payload().replace(b"4711", b"9" * 5000), "not_json"),
        (payload(seq=4711.5), "bad_schema"),
        (payload(seq=-1), "bad_schema"),
        (payload(seq=True), "bad_schema"),
        (payload(seq="4711"), "bad_schema"),
        (payload(seq=None), "bad_schema"),
        (payload(v=999), "unknown_version"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "v"}).encode(), "no_version"),
        (b"\xa1\x61v\x01", "not_json"),
        (json.dumps([GOOD]).encode(), "bad_schema"),
        (payload(measurements=[]), "bad_schema"),
        (payload(measurements=[GOOD["measurements"][0]] * 1001), "oversized"),
        (payload(boot="a\u0000b"), "bad_schema"),
        (with_measurement(flags=["a\u0000b"]), "bad_text"),
        (payload(boot="x" * 4_000_000), "oversized"),
        (with_measurement(values={}), "no_values"),
        (with_measurement(values={"blood_oxygen_of_the_moon": 1}), "unknown_metric"),
        (with_measurement(codes={"nothing": "NaN"}), "unknown_metric"),
        (with_measurement(values={"systolic": "186"}), "not_a_number"),
        (with_measurement(values={"systolic": True}), "bad_schema"),
        (with_measurement(values={"systolic": -1}), "impossible_value"),
        (with_measurement(values={"systolic": 2047}), "impossible_value"),
        (with_measurement(values={"fobt": "perhaps"}), "unknown_answer"),
        (with_measurement(device="a/b"), "bad_schema"),
        (with_measurement(device="#"), "bad_schema"),
        (with_measurement(device=...), "bad_schema"),
        (with_measurement(kind="seance"), "bad_schema"),
        (with_measurement(setting="moon"), "bad_schema"),
        (with_measurement(raw="xyz"), "bad_schema"),
        (with_measurement(measured_at="yesterday"), "bad_time"),
        (with_measurement(measured_at="2026-02-30T08:00:00Z"), "bad_time"),
        (with_measurement(measured_at=1700000000), "bad_schema"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize("cut", [*range(60), 200, 400, -1, -2])
def test_a_payload_cut_anywhere_is_refused(cut: int) -> None:
    assert reason(payload()[:cut]) in ("not_json", "bad_schema", "no_version")


@pytest.mark.parametrize(
    "text",
    ["1970-01-01T00:00:00Z", "2000-01-01T00:00:00Z", "2038-01-19T03:14:08Z", "+58000-01-01T00:00:00Z", "58000-01-01T00:00:00Z",
     "2026-11-22T08:05:00.001Z", "2026-11-22T16:00:01", "2026-11-22T07:59:60Z", "0001-01-01T00:00:00+14:00"],
)  # fmt: skip
def test_a_wrong_clock_is_never_a_reason_to_refuse(text: str) -> None:
    one = wire.decode_message(with_measurement(measured_at=text), NOW).measurements[0]
    assert (one.time_quality, one.measured_at) == ("untrusted", one.received_at)


def test_exactly_at_the_allowed_skew_a_time_is_believed() -> None:
    one = wire.decode_message(with_measurement(measured_at="2026-11-22T08:05:00Z"), NOW).measurements[0]
    assert one.time_quality == "synced"


def test_a_gateway_with_a_wrong_clock_is_received_now() -> None:
    one = wire.decode_message(with_measurement(received_at="1970-01-01T00:00:09Z"), NOW).measurements[0]
    assert (one.received_at, one.measured_at, one.time_quality) == (NOW, NOW, "untrusted")


def test_unknown_fields_of_a_newer_gateway_are_no_reason_to_refuse() -> None:
    assert wire.decode_message(payload(firmware="2.0"), NOW).seq == 4711


@given(st.binary(max_size=300) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)).map(
    lambda document: json.dumps(document).encode()))  # fmt: skip
def test_any_payload_is_a_message_or_a_refusal(data: bytes) -> None:
    try:
        wire.decode_message(data, NOW)
    except BadInput as error:
        assert error.reason.replace("_", "").isalpha()
    wire.receipt_hint(data)


@given(st.integers(0, 2**40), st.floats(0, 300), st.floats(0, 300))
def test_what_a_gateway_encodes_the_backend_reads(seq: int, systolic: float, diastolic: float) -> None:
    measurement = Measurement(
        device="cuff-1", kind="blood_pressure", record="abc", measured_at=NOW - timedelta(minutes=2), received_at=NOW, time_quality="synced",
        setting="home", values={"systolic": systolic, "diastolic": diastolic}, codes={"pulse": "NaN"}, flags=["body_movement"], raw="00ff",
    )  # fmt: skip
    encoded = wire.encode_message("boot", seq, NOW, [wire.encode_measurement(measurement)])
    assert wire.decode_message(encoded, NOW) == wire.Message("boot", seq, NOW, (measurement,))


def _canonical(**changes: Any) -> bytes:
    """The example as a gateway of ours writes it, character for character."""
    measurement = wire.decode_message(with_measurement(**changes), NOW).measurements[0]
    return wire.encode_message("9f2c", 4711, NOW, [wire.encode_measurement(measurement)])


@pytest.mark.parametrize(
    "change",
    [{}, {"values": {"systolic": 186.0, "diastolic": 112.5}}, {"record": "abc", "flags": [], "codes": {"pulse": "NaN"}}, {"measured_at": "2026-11-22T16:00:01+08:00"},
     {"values": {}, "samples": {"heart_rate": {"values": [70, 190.5, 72], "every_ms": 1000}}}, {"time_quality": "estimated", "raw": "", "checkin": ...}],
)  # fmt: skip
def test_both_ways_of_reading_say_the_same(change: dict[str, Any]) -> None:
    ours = _canonical(**change)
    assert type(wire._decode(ours)) is wire._Canonical
    spaced = json.dumps(json.loads(ours)).encode()
    assert type(wire._decode(spaced)) is wire._WireMessage
    assert wire.decode_message(ours, NOW) == wire.decode_message(spaced, NOW)


@pytest.mark.parametrize("twice", [b'"seq":4711', b'"systolic":186.0', b'"device":"cuff-0007"'])
def test_a_key_that_is_there_twice_is_seen_in_canonical_text_too(twice: bytes) -> None:
    ours = _canonical()
    assert ours.count(twice) == 1
    assert reason(ours.replace(twice, twice + b"," + twice)) == "duplicate_key"


def test_the_fleet_writes_as_gateways_do() -> None:
    batches = [next(fleet.batches(5, 20, 10, 1, 20)), next(fleet.dense(5, 20, 1, 20, fleet.START))]
    for batch in batches:
        assert type(wire._decode(wire.encode_message("b", 1, NOW, batch.bodies))) is wire._Canonical


@pytest.mark.parametrize(
    "text",
    ["", "yz/1", "yz/1/s/g/up", "yz/2/s/g/up/readings", "yz/1/s/g/up/other", "yz/1/s/g/down/readings", "yz/1/s/+/up/readings", "yz/1/#/g/up/readings",
     "yz/1//g/up/readings", "yz/1/s/g/up/readings/", "yz/1/s/g\u0000/up/readings", "/" * 200, "yz/1/" + "s" * 65 + "/g/up/readings", "$SYS/1/s/g/up/readings"],
)  # fmt: skip
def test_a_topic_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as error:
        wire.parse_topic(text)
    assert error.value.reason == "bad_topic"


@pytest.mark.parametrize("name", ["", "#", "+", "a/b", "a b", "-a", "x" * 65, "é", "a\n"])
def test_no_topic_is_built_from_a_name_that_means_something_else(name: str) -> None:
    with pytest.raises(BadInput):
        wire.topic("site", name, "up", "readings")


@given(st.lists(st.integers(0, 200)))
def test_receipts_name_exactly_what_was_stored(numbers: list[int]) -> None:
    receipt = wire.decode_receipt(wire.encode_receipt("b", numbers))
    assert {n for first, last in receipt.stored for n in range(first, last + 1)} == set(numbers)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"boot":1}', b'{"boot":"b","stored":[[1]]}', b"\xff"])
def test_a_receipt_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        wire.decode_receipt(data)


def test_metric_numbers_are_never_shared() -> None:
    assert len(BY_NUMBER) == len(METRICS)


def test_implausible_and_weak_are_told_apart_from_impossible() -> None:
    assert implausible({"systolic": 120, "diastolic": 80}) == []
    assert implausible({"systolic": 80, "diastolic": 120}) == ["implausible:diastolic_not_below_systolic"]
    assert implausible({"systolic": 320, "diastolic": 80}) == ["implausible:systolic", "implausible:pulse_pressure"]
    measured = wire.decode_message(with_measurement(setting="manual", flags=["body_movement"]), NOW).measurements[0]
    assert weak_source(measured, bond_protected=False) == ["setting:manual", "flag:body_movement", "bond:unprotected"]
    assert is_priority(measured)
    assert not is_priority(wire.decode_message(with_measurement(values={"systolic": 118, "diastolic": 76}), NOW).measurements[0])
