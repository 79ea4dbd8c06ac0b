"""A synthetic town: who lives there, what happens to them, and what they measure. The same for the same seed.

Every third is hypertensive and every seventh diabetic (firmware_sim.physiology); two in a hundred have heart failure, three a chronic lung
disease. In a year every twentieth hypertensive has a hypertensive crisis of 6 to 30 hours, every tenth diabetic an episode of
low glucose, every fifth person a feverish illness of three days, every other failing heart gathers water once; every tenth of those
with a plan stops measuring for four to eight weeks. Every fifth person wears a band at night. These are the events that alerts must
find; everything else that is raised is a false alert. Frequencies are assumptions of ours, not epidemiology.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from firmware_sim.physiology import Episode, Person, uniform
from rules.replay import Row

START = datetime(2026, 1, 4, 16, tzinfo=UTC)  # midnight in the town
DAY = timedelta(days=1)
REPEATS = 0.8  # of those whom the kiosk or the cuff asks for a repeat
ARTEFACT = 0.01  # readings with an arm that moved, up to 50 mmHg too high


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. families: which alerts find it, any of them."""

    subject: int
    what: str
    families: tuple[str, ...]
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Resident:
    person: Person
    age: int
    heart_failure: bool
    lungs: bool
    lows: tuple[Episode, ...]
    lapses: tuple[Episode, ...] = ()
    band: bool = False

    def facts(self) -> dict[str, Any]:
        born = START.date().replace(year=START.year - self.age, month=1, day=1)
        return {
            "birth_date": born.isoformat(), "sex": "female" if self.person.number % 2 else "male", "pregnant": False, "lactating": False,
            "hypertension": self.person.hypertensive, "diabetes": self.person.diabetic, "chronic_lung_disease": self.lungs,
            "heart_failure": self.heart_failure,
            **({"pressure_every_days": 7} if self.person.hypertensive else {}), **({"weight_every_days": 2} if self.heart_failure else {}),
            **({"glucose_every_days": 7} if self.person.diabetic else {}),
        }  # fmt: skip

    def lapsed(self, at: datetime) -> bool:
        return any(one.start <= at <= one.start + timedelta(hours=one.hours) for one in self.lapses)


def resident(seed: int, number: int, days: int) -> Resident:
    """One of the town, with what happens to them in so many days."""

    def draw(what: int) -> float:
        return uniform(seed, number, 900 + what)

    def some(what: int, yearly: float, hours: tuple[float, float]) -> tuple[Episode, ...]:
        if draw(what) >= yearly * days / 365:
            return ()
        length = hours[0] + (hours[1] - hours[0]) * draw(what + 1)
        return (Episode(START + timedelta(days=draw(what + 2) * max(0.0, days - length / 24)), length),)

    person = Person.drawn(seed, number)
    failing = draw(0) < 0.02
    waters = START + timedelta(days=draw(1) * days) if failing and draw(2) < 0.5 * days / 365 else None
    crises = some(10, 0.05, (6, 30)) if person.hypertensive else ()
    lows = some(20, 0.1, (1, 3)) if person.diabetic else ()
    person = replace(person, crises=crises, illnesses=some(30, 0.2, (48, 96)), decompensates=waters)
    lapses = some(40, 0.1, (28 * 24, 56 * 24)) if person.hypertensive or person.diabetic or failing else ()
    return Resident(person, 35 + int(draw(3) * 55), failing, draw(4) < 0.03, lows, lapses, draw(50) < 0.2)


def events(number: int, one: Resident) -> list[Event]:
    """What alerts should find about this person."""
    person = one.person
    found = [Event(number, "crisis", ("bp_danger",), e.start, e.start + timedelta(hours=e.hours)) for e in person.crises]
    found += [Event(number, "low glucose", ("glucose_low",), e.start, e.start + timedelta(hours=e.hours)) for e in one.lows]
    found += [Event(number, "silence", ("silence",), e.start, e.start + timedelta(hours=e.hours)) for e in one.lapses]
    found += [
        Event(number, "illness", ("hypoxia", "fever", "trend"), e.start, e.start + timedelta(hours=e.hours)) for e in person.illnesses
    ]
    if person.decompensates is not None:
        found.append(Event(number, "heart failure", ("weight", "trend"), person.decompensates, person.decompensates + 15 * DAY))
    return found


def measured(seed: int, number: int, one: Resident, days: int) -> Iterator[Row]:
    """What this person measures, in order of time."""
    person = one.person

    def draw(day: int, what: int) -> float:
        return uniform(seed, number, 5000 + day, what)

    def pressure(at: datetime, day: int, what: int, setting: str) -> Iterator[Row]:
        """A session: two readings a minute apart, and a repeat if the first pair was dangerous."""
        worst = 0.0
        for turn in range(2):
            when = at + timedelta(minutes=turn, seconds=turn)
            value = person.blood_pressure(when)
            moved = draw(day, what + 40 + turn) < ARTEFACT
            systolic = value.systolic + (50 * draw(day, what + 50 + turn) if moved else 0)
            worst = max(worst, systolic)
            numbers = {"systolic": float(round(systolic)), "diastolic": float(value.diastolic), "pulse": float(value.pulse)}
            yield Row(number, when, numbers, setting, ("body_movement",) if moved else (), moved)
        if worst >= 180 and draw(day, what + 60) < REPEATS:
            when = at + timedelta(minutes=6)
            value = person.blood_pressure(when)
            yield Row(number, when, {"systolic": float(value.systolic), "diastolic": float(value.diastolic)}, setting)

    def glucose(at: datetime, day: int, what: int) -> Iterator[Row]:
        low = max((e.strength(at) for e in one.lows), default=0.0)
        value = max(1.8, person.glucose(at) - 4.5 * low)
        yield Row(number, at, {"glucose": round(value, 1)})
        if value >= 16.7 and draw(day, what) < REPEATS:
            yield Row(number, at + timedelta(minutes=4), {"glucose": person.glucose(at + timedelta(minutes=4))})

    for day in range(days):
        midnight = START + day * DAY
        rows: list[Row] = []
        jitter = timedelta(minutes=int(draw(day, 0) * 50))
        if person.hypertensive and day % 7 in (0, 3):
            rows += pressure(midnight + timedelta(hours=7, minutes=20) + jitter, day, 100, "home")
            rows += pressure(midnight + timedelta(hours=20) + jitter, day, 200, "home")
        if (day + number) % 30 == 0:
            rows += pressure(midnight + timedelta(hours=9) + jitter, day, 300, "kiosk")
        if person.diabetic and day % 7 in (1, 3, 5):
            rows += glucose(midnight + timedelta(hours=7, minutes=10) + jitter, day, 1)
        if person.diabetic and day % 7 == 5:
            rows += glucose(midnight + timedelta(hours=14) + jitter, day, 2)
        if one.heart_failure:
            at = midnight + timedelta(hours=7) + jitter
            rows.append(Row(number, at, {"weight": person.weight(at)}))
        if one.lungs and day % 2 == 0:
            at = midnight + timedelta(hours=8) + jitter
            rows.append(Row(number, at, {"spo2": float(person.spo2(at) - 5)}))  # their usual is 92
        for episode in person.crises:  # somebody who feels ill measures
            peak = episode.start + timedelta(hours=episode.hours / 2)
            if midnight <= peak < midnight + DAY and draw(day, 3) < 0.7:
                rows += pressure(peak, day, 400, "home")
        for episode in one.lows:
            peak = episode.start + timedelta(hours=episode.hours / 2)
            if midnight <= peak < midnight + DAY and draw(day, 4) < 0.7:
                rows += glucose(peak, day, 5)
        for episode in person.illnesses:
            at = midnight + timedelta(hours=11) + jitter
            if episode.start <= at <= episode.start + timedelta(hours=episode.hours) and draw(day, 6) < 0.7:
                for turn in range(2):
                    when = at + timedelta(minutes=4 * turn)
                    spo2 = {"spo2": float(person.spo2(when))} if draw(day, 7) < 0.3 else {}
                    rows.append(Row(number, when, {"temperature": person.temperature(when), **spo2}))
        if one.band:
            for hour in (2, 3, 4):
                at = midnight + timedelta(hours=hour)
                rows.append(Row(number, at, {"heart_rate": float(person.heart_rate(at))}, "wearable"))
        yield from sorted((row for row in rows if not one.lapsed(row.at)), key=lambda row: row.at)


def rows_of(seed: int, people: list[Resident], days: int) -> Iterator[Row]:
    """Everything the town measures, in order of time."""
    return heapq.merge(*(measured(seed, number, one, days) for number, one in enumerate(people)), key=lambda row: row.at)
