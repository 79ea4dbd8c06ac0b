"""A history played through packs, in memory: what would have been raised, when, and how severe. Pure.

Deadlines fall due before the next measurement of the same person, at midnight (UTC), or in `wait`; that is the moment told of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from datetime import time as dt_time
from itertools import groupby, islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from rules import engine, facts, tables, windows
from rules.engine import EVENT, STATE, Kind, Move, Phase
from rules.history import Reading
from rules.pack import FACTS, Pack
from rules.service import CENSORED, Compiled, Source, compile_packs, outcomes, severity_of
from vitals.floor.columns import micros
from vitals.measurement import SETTINGS
from vitals.metric import METRICS

CHUNK = 20_000  # measurements


class Row(NamedTuple):
    """One measurement. subject: a number below the count of people. weak: from a source that never refers by itself."""

    subject: int
    at: datetime
    values: Mapping[str, float]
    setting: str = "home"
    flags: Sequence[str] = ()
    weak: bool = False
    codes: Mapping[str, str] = {}


class Raised(NamedTuple):
    """A movement of an alert: fired (any way), unconfirmed, cleared. row: number of the measurement, -1 for a deadline."""

    subject: int
    rule: str
    family: str
    at: int  # µs
    move: Move
    severity: str
    row: int


class Replay:
    """Packs with the state of so many people. people: number → facts, as `subject_fact` names them."""

    def __init__(self, packs: Sequence[Pack], people: Sequence[Mapping[str, Any]], zone: str = "Asia/Shanghai") -> None:
        self._rules = compile_packs(packs)
        self._zone = ZoneInfo(zone)
        self._known = facts.People()
        self._known.facts = {str(number): dict(one) for number, one in enumerate(people)}
        self._state = {compiled.rule.id: np.zeros(len(people), STATE) for compiled in self._rules}
        self._past: dict[str, dict[int, deque[Reading]]] = {compiled.rule.id: {} for compiled in self._rules}
        self._seen = 0

    def feed(self, rows: Iterable[Row]) -> list[Raised]:
        """Play rows, in order of time; returns what moved, in that order too."""
        found: list[Raised] = []
        for day, of_day in groupby(rows, key=lambda row: row.at.astimezone(UTC).date()):
            while chunk := list(islice(of_day, CHUNK)):
                found += self._play(chunk)
                self._seen += len(chunk)
            found += self.wait(datetime.combine(day + timedelta(days=1), dt_time(), UTC))
        return found

    def wait(self, until: datetime) -> list[Raised]:
        """Let time pass without a measurement."""
        found: list[Raised] = []
        for compiled in self._rules:
            state = self._state[compiled.rule.id]
            subjects = np.flatnonzero(state["deadline"] > 0)
            ticks = np.zeros(len(subjects), EVENT)
            ticks["kind"], ticks["valid"] = Kind.TICK, True
            ticks["at"] = ticks["now"] = micros(until)
            moves, _ = engine.run(compiled.timing, state, subjects, ticks)
            found += [self._raised(compiled, int(subjects[at]), micros(until), Move(moves[at]), -1) for at in np.flatnonzero(moves)]
        return found

    def _play(self, rows: list[Row]) -> list[Raised]:
        columns = self._columns(rows)
        source = Source(
            np.array([micros(row.at) for row in rows], np.int64), np.array([not row.weak for row in rows], bool), np.ones(len(rows), bool),
            np.array([SETTINGS.index(row.setting) for row in rows], np.uint8), np.ones(len(rows), bool),
        )  # fmt: skip
        subjects = np.array([row.subject for row in rows], np.int64)
        found: list[Raised] = []
        phases: dict[str, NDArray[np.uint8]] = {}
        for compiled in self._rules:
            state = self._state[compiled.rule.id]
            columns |= self._windows(compiled, rows)
            events = outcomes(compiled, source, columns, rows[-1].at)
            events["now"], events["late"] = source.at, False
            muted = phases.get(compiled.rule.inhibited_by or "")
            if muted is not None:
                events["inhibited"] = np.isin(muted, (Phase.PENDING, Phase.FIRING))
            both = np.zeros(2 * len(rows), EVENT)
            both[1::2] = events
            both["kind"][0::2], both["valid"][0::2] = Kind.TICK, True
            both["at"][0::2] = both["now"][0::2] = source.at
            moves, after = engine.run(compiled.timing, state, np.repeat(subjects, 2), both)
            phases[compiled.rule.family] = after[1::2]
            for at in np.flatnonzero(moves):
                number, row = divmod(int(at), 2)
                subject, moment = rows[number].subject, int(both["at"][at])
                found.append(self._raised(compiled, subject, moment, Move(moves[at]), self._seen + number if row else -1))
        return sorted(found, key=lambda one: one.at)

    def _columns(self, rows: list[Row]) -> dict[str, NDArray[np.float64]]:
        columns = {name: np.full(len(rows), np.nan) for name in METRICS}
        for number, row in enumerate(rows):
            for code, value in row.values.items():
                columns[code][number] = value
            for code, said in row.codes.items():
                if said in CENSORED and code in columns:
                    columns[code][number] = CENSORED[said]
        known = np.array([self._known.at(str(row.subject), row.at, self._zone) for row in rows], np.float64).reshape(-1, len(FACTS))
        return columns | dict(zip(FACTS, known.T, strict=True))

    def _windows(self, compiled: Compiled, rows: list[Row]) -> dict[str, NDArray[np.float64]]:
        made = compiled.rule.columns
        found = {name: np.full(len(rows), np.nan) for name in made}
        metrics = set().union(*(tables.metrics_read(one) for one in made.values()))
        past = self._past[compiled.rule.id]
        for number, row in enumerate(rows):
            if row.setting not in compiled.rule.settings or row.values.keys().isdisjoint(metrics):
                continue
            mine = past.setdefault(row.subject, deque())
            if not row.weak:
                mine.append(windows.reading(row.at, row.values, row.setting, row.flags))
            while mine and mine[0].at < row.at - compiled.look_back:
                mine.popleft()
            for name, how in made.items():
                found[name][number] = windows.feature(how, list(mine))
        return found

    def _raised(self, compiled: Compiled, subject: int, at: int, move: Move, row: int) -> Raised:
        return Raised(subject, compiled.rule.id, compiled.rule.family, at, move, severity_of(compiled.rule, move).value, row)


FIRES = frozenset({Move.CONFIRMED, Move.DEADLINE, Move.UNVERIFIED, Move.URGENT, Move.LATE, Move.REPEATED, Move.AT_ONCE, Move.WORSENED})
ITEMS = FIRES | {Move.NOT_CONFIRMED}  # what somebody must look at


def per_hundred_a_week(found: Iterable[Raised], people: int, span: timedelta) -> dict[str, float]:
    """Severity → items per 100 people and week."""
    counts: dict[str, int] = {}
    for one in found:
        if one.move in ITEMS:
            counts[one.severity] = counts.get(one.severity, 0) + 1
    scale = 100 / people / (span / timedelta(weeks=1))
    return {severity: round(counts[severity] * scale, 3) for severity in sorted(counts)}
