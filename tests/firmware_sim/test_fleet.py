"""The fleet: the same for the same seed, believable, and fast enough; the people behind it."""

from __future__ import annotations

import itertools
import json
import statistics
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from firmware_sim import fleet
from firmware_sim.physiology import Episode, Person
from tests.conftest import missing
from tests.vitals.test_link import Broker
from vitals import wire
from vitals.measurement import implausible
from yizhan.broker import mosquitto_program

DAY = datetime(2026, 1, 5, tzinfo=UTC)


def test_the_same_seed_measures_the_same_and_another_something_else() -> None:
    one, two, other = (fleet.run(None, 50, 500, 0, seed, 5000, 20)["digest"] for seed in (7, 7, 8))
    assert one == two
    assert one != other


def test_its_messages_are_admitted_and_nothing_in_them_is_implausible() -> None:
    for batch in itertools.islice(fleet.batches(20, 300, 1000, 3), 300):
        payload = wire.encode_message("000001-aa", 1, DAY, batch.bodies)
        message = wire.decode_message(payload, DAY + timedelta(days=1))
        assert sum(len(one.values) for one in message.measurements) == batch.readings
        assert not [reason for one in message.measurements for reason in implausible(one.values)]
        assert {one.time_quality for one in message.measurements} == {"synced"}


def test_every_device_it_measures_with_is_listed() -> None:
    listed = {device: gateway for device, _, gateway in fleet.devices(20, 300, 3)}
    for batch in itertools.islice(fleet.batches(20, 300, 1000, 3), 200):
        assert {listed[json.loads(body)["device"]] for body in batch.bodies} == {batch.gateway}


@pytest.mark.services
def test_it_reaches_a_broker_and_counts_what_was_acknowledged(tmp_path: Path) -> None:
    if not mosquitto_program():
        missing("mosquitto", "not installed")
    broker = Broker(tmp_path)
    broker.start()
    broker.wait()
    try:
        made = fleet.Fleet("127.0.0.1", broker.port, 200)
        made.connect()
        told = fleet.run(made, 200, 2000, 0, 1, 20_000, 20)
        made.close()
    finally:
        broker.kill()
    assert told["acknowledged"] == told["messages"]
    assert told["readings_per_second"] > 5000, "the floor of a noisy machine; the figure is in the docs"


def test_nights_are_low_mornings_high_and_a_crisis_is_one() -> None:
    hypertensive = Person(1, 1, hypertensive=True)

    def mean(hour: float, person: Person = hypertensive) -> float:
        local = [DAY + timedelta(days=day, hours=hour - 8) for day in range(60)]
        return statistics.mean(person.blood_pressure(at).systolic for at in local)

    assert mean(8) > mean(3) + 8
    crisis = Person(1, 1, hypertensive=True, crises=(Episode(DAY, 6),))
    assert crisis.blood_pressure(DAY + timedelta(hours=3)).systolic >= 180
    assert crisis.blood_pressure(DAY + timedelta(hours=3)).diastolic >= 100
    assert crisis.blood_pressure(DAY + timedelta(hours=9)) == hypertensive.blood_pressure(DAY + timedelta(hours=9))


def test_meals_raise_glucose_more_in_diabetes() -> None:
    before, after = DAY + timedelta(hours=11 - 8), DAY + timedelta(hours=13 - 8)
    healthy, diabetic = Person(2, 1), Person(2, 1, diabetic=True)
    assert healthy.glucose(after) > healthy.glucose(before)
    assert diabetic.glucose(after) - diabetic.glucose(before) > healthy.glucose(after) - healthy.glucose(before)


def test_an_illness_shows_and_a_failing_heart_gathers_water() -> None:
    ill = Person(3, 1, illnesses=(Episode(DAY, 48),))
    worst = DAY + timedelta(hours=24)
    assert ill.temperature(worst) > 38.3
    assert ill.spo2(worst) < 92
    failing = Person(3, 1, decompensates=DAY)
    assert failing.weight(DAY + timedelta(days=6)) - Person(3, 1).weight(DAY + timedelta(days=6)) == pytest.approx(2.4, abs=0.06)


def test_rr_intervals_fit_their_heart_rate() -> None:
    person = Person(4, 1)
    rr = person.rr(DAY, 60)
    assert 60 * 1024 / statistics.mean(rr) == pytest.approx(person.heart_rate(DAY), rel=0.03)
    assert len(set(rr)) > 20
