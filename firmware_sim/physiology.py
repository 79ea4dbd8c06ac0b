"""People, not random numbers: what a body shows at a moment, as a pure function of (seed, person, time).

Blood pressure dips at night and rises in the morning; glucose follows meals; the heart follows activity, with RR
intervals that breathe; an illness brings a fever and lowers the oxygen; an episode brings a hypertensive crisis; a
failing heart gathers water. The shapes are plausible for tests and demonstrations, not clinical models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_MASK = (1 << 64) - 1
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
MEALS = ((7.5, 1.0), (12.0, 1.2), (18.5, 1.1))  # local hour, size


def mix(*numbers: int) -> int:
    """64 bits out of numbers, the same on every machine (splitmix64 over each in turn)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def uniform(*numbers: int) -> float:
    """[0, 1) out of numbers."""
    return mix(*numbers) / 2.0**64


def normal(*numbers: int) -> float:
    """A bell with mean 0 and deviation 1 out of numbers: four uniforms in one word, good to ±3.4."""
    word = mix(*numbers)
    parts = (word & 0xFFFF) + (word >> 16 & 0xFFFF) + (word >> 32 & 0xFFFF) + (word >> 48)
    return (parts / 65536 - 2) * 1.7320508


class BloodPressure(NamedTuple):
    """mm[Hg] and beats a minute, whole numbers as a cuff shows them."""

    systolic: int
    diastolic: int
    pulse: int


class Episode(NamedTuple):
    """A stretch of time in which something is wrong: strength 0 to 1, rising and falling within it."""

    start: datetime
    hours: float

    def strength(self, at: datetime) -> float:
        passed = (at - self.start).total_seconds() / 3600 / self.hours
        return math.sin(math.pi * passed) if 0 <= passed <= 1 else 0.0


@dataclass(frozen=True, slots=True)
class Person:
    """One person. crises, illnesses: episodes; decompensates: since when a failing heart gathers water. zone_hours: local time from UTC."""

    seed: int
    number: int
    hypertensive: bool = False
    diabetic: bool = False
    crises: tuple[Episode, ...] = ()
    illnesses: tuple[Episode, ...] = ()
    decompensates: datetime | None = None
    zone_hours: float = 8.0

    @classmethod
    def drawn(cls, seed: int, number: int) -> Person:
        """One of a population: every third hypertensive, every seventh diabetic."""
        return cls(seed, number, uniform(seed, number, 1) < 1 / 3, uniform(seed, number, 2) < 1 / 7)

    def _trait(self, what: int) -> float:
        return normal(self.seed, self.number, what)

    def _noise(self, what: int, at: datetime, minutes: int = 1) -> float:
        return normal(self.seed, self.number, what, int((at - _EPOCH).total_seconds() // (60 * minutes)))

    def _hour(self, at: datetime) -> float:
        seconds = (at - _EPOCH).total_seconds() + self.zone_hours * 3600
        return seconds % 86400 / 3600

    def _worst(self, episodes: tuple[Episode, ...], at: datetime) -> float:
        return max((episode.strength(at) for episode in episodes), default=0.0)

    def activity(self, at: datetime) -> float:
        """0 asleep, about 0.2 at rest, to 1 in exercise."""
        hour = self._hour(at)
        if hour < 6.5 or hour > 22.5:
            return 0.0
        walk = max(0.0, math.sin((hour - 6.5) / 16 * math.pi * 5 + self._trait(10)))
        return 0.2 + 0.6 * walk**4 * (0.7 + 0.3 * uniform(self.seed, self.number, 11, int((at - _EPOCH).total_seconds() // 600)))

    def blood_pressure(self, at: datetime) -> BloodPressure:
        """What an upper-arm cuff shows."""
        hour = self._hour(at)
        circadian = 6 * math.cos((hour - 10) / 24 * 2 * math.pi) + 4 * math.exp(-((hour - 7) ** 2) / 2)
        base = 118 + 7 * self._trait(3) + (26 if self.hypertensive else 0)
        crisis = self._worst(self.crises, at)
        systolic = base + circadian + 12 * (self.activity(at) - 0.2) + 4.5 * self._noise(4, at) + 55 * crisis
        diastolic = 0.5 * systolic + 17 + 3 * self._trait(5) + 2.5 * self._noise(6, at) + 8 * crisis
        pulse = self.heart_rate(at)
        return BloodPressure(round(systolic), round(min(diastolic, systolic - 20)), pulse)

    def heart_rate(self, at: datetime) -> int:
        """Beats a minute."""
        rest = 64 + 6 * self._trait(7) - (6 if self.activity(at) == 0 else 0)
        return round(rest + 75 * max(0.0, self.activity(at) - 0.2) + 18 * self._worst(self.illnesses, at) + 2.5 * self._noise(8, at))

    def rr(self, at: datetime, count: int) -> list[int]:
        """`count` RR intervals from this moment on, in 1/1024 s, breathing with them."""
        mean = 60 * 1024 / self.heart_rate(at)
        first = int((at - _EPOCH).total_seconds() * 4)
        return [
            round(mean * (1 + 0.03 * math.sin((first + 4 * n) / 16 * 2 * math.pi) + 0.012 * normal(self.seed, self.number, 9, first + n)))
            for n in range(count)
        ]

    def glucose(self, at: datetime) -> float:
        """Capillary glucose in mmol/L, with one decimal as a meter shows it."""
        hour = self._hour(at)
        rise = 0.0
        for eaten, size in MEALS:
            since = (hour - eaten) % 24
            rise += size * (4.6 if self.diabetic else 2.2) * since * math.exp(-since / 0.9) if since < 6 else 0.0
        base = 5.0 + 0.3 * self._trait(12) + (2.4 if self.diabetic else 0) + 1.5 * self._worst(self.illnesses, at)
        return round(max(2.0, base + rise + 0.25 * self._noise(13, at, 5)), 1)

    def spo2(self, at: datetime) -> int:
        """Percent."""
        return max(60, min(100, round(97.4 + 0.5 * self._trait(14) - 9 * self._worst(self.illnesses, at) + 0.5 * self._noise(15, at))))

    def temperature(self, at: datetime) -> float:
        """Degrees Celsius in the ear."""
        hour = self._hour(at)
        daily = 0.3 * math.sin((hour - 10) / 24 * 2 * math.pi)
        return round(36.6 + 0.15 * self._trait(16) + daily + 2.6 * self._worst(self.illnesses, at) + 0.08 * self._noise(17, at), 1)

    def weight(self, at: datetime) -> float:
        """Kilograms, to 0.05; a decompensating heart gathers about 0.4 kg of water a day, up to 6."""
        days = 0.0 if self.decompensates is None else max(0.0, (at - self.decompensates) / timedelta(days=1))
        kilograms = 66 + 9 * self._trait(18) + 0.25 * self._noise(19, at, 24 * 60) + min(6.0, 0.4 * days)
        return round(kilograms * 20) / 20

    def steps(self, day: datetime) -> int:
        """Steps of the day in which this moment lies."""
        number = int((day - _EPOCH) / timedelta(days=1))
        return max(0, round(6200 + 1800 * self._trait(20) + 1500 * normal(self.seed, self.number, 21, number)))

    def sleep_minutes(self, day: datetime) -> int:
        """Minutes slept in the night before."""
        number = int((day - _EPOCH) / timedelta(days=1))
        return max(60, round(415 + 25 * self._trait(22) + 35 * normal(self.seed, self.number, 23, number)))
