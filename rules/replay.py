"""A history played through packs, in memory: what would have been raised, when, and how severe. Pure.

Deadlines fall due before the next measurement of the same person, at midnight, or in `wait`; that is the moment told of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from datetime import time as dt_time
from itertools import groupby, islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from rules import daily, engine, evaluate, facts, windows
from rules.daily import Day
from rules.evaluate import CENSORED, Compiled, Source
from rules.form import FLAGS
from rules.history import Reading
from rules.pack import Pack
from rules.state import EVENT, STATE, Array, Kind, Move, Phase, busy
from vitals.floor.columns import micros
from vitals.measurement import SETTINGS

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
    """Packs with the state of so many people. people: number → facts, as `subject_fact` names them; plans hold from the first row."""

    def __init__(self, packs: Sequence[Pack], people: Sequence[Mapping[str, Any]], zone: str = "Asia/Shanghai") -> None:
        self._rules = evaluate.compile_packs(packs)
        self._zone = ZoneInfo(zone)
        self._known = facts.People()
        self._known.facts = {str(number): dict(one) for number, one in enumerate(people)}
        self._state = {compiled.rule.id: np.zeros(len(people), STATE) for compiled in self._rules}
        self._past: dict[str, dict[int, deque[Reading]]] = {compiled.rule.id: {} for compiled in self._rules}
        self._today: dict[tuple[str, str], dict[int, list[tuple[datetime, float]]]] = {}  # (metric, setting) → person → values
        self._days: dict[str, dict[int, deque[Day]]] = {compiled.rule.id: {} for compiled in self._rules}
        self._wanted = {(one.rule.daily.of, one.rule.settings[0]) for one in self._rules if one.rule.daily is not None}
        self._last = {one.rule.id: np.zeros(len(people), np.int64) for one in self._rules if one.rule.absence is not None}
        self._seen = 0
        self._planned = False

    def feed(self, rows: Iterable[Row]) -> list[Raised]:
        """Play rows, in order of time; returns what moved, in that order too."""
        found: list[Raised] = []
        for day, of_day in groupby(rows, key=lambda row: row.at.astimezone(self._zone).date()):
            midnight = datetime.combine(day, dt_time(), self._zone)
            if not self._planned:
                self._planned = True
                found += self._all(Kind.PLAN, midnight)
            while chunk := list(islice(of_day, CHUNK)):
                found += self._play(chunk)
                self._seen += len(chunk)
            found += self.wait(midnight + timedelta(days=1))
            found += self._over(day, midnight + timedelta(days=1, hours=4))
        return found

    def wait(self, until: datetime) -> list[Raised]:
        """Let time pass without a measurement."""
        return self._all(Kind.TICK, until)

    def _all(self, kind: Kind, at: datetime) -> list[Raised]:
        """One event of this kind for everybody whom it may concern."""
        found: list[Raised] = []
        for compiled in self._rules:
            state = self._state[compiled.rule.id]
            subjects = np.flatnonzero(state["deadline"] > 0) if kind is Kind.TICK else np.arange(len(state))
            events = np.zeros(len(subjects), EVENT)
            events["kind"], events["valid"] = kind, True
            events["at"] = events["now"] = micros(at)
            if compiled.rule.absence is not None:
                about = evaluate.people(self._known, [str(one) for one in subjects], [at] * len(subjects), self._zone)
                events["every"] = evaluate.expected(compiled, about)
                if kind is Kind.TICK:
                    events["at"] = self._last[compiled.rule.id][subjects]
            moves, _ = engine.run(compiled.timing, state, subjects, events)
            found += [self._raised(compiled, int(subjects[n]), micros(at), Move(moves[n]), -1) for n in np.flatnonzero(moves)]
        return found

    def _play(self, rows: list[Row]) -> list[Raised]:
        columns = self._columns(rows)
        source = Source(
            np.array([micros(row.at) for row in rows], np.int64), np.array([not row.weak for row in rows], bool), np.ones(len(rows), bool),
            np.array([SETTINGS.index(row.setting) for row in rows], np.uint8), np.ones(len(rows), bool),
        )  # fmt: skip
        self._note(rows)
        subjects = np.array([row.subject for row in rows], np.int64)
        found: list[Raised] = []
        phases: dict[str, NDArray[np.uint8]] = {}
        for compiled in self._rules:
            if compiled.rule.daily is not None:
                continue
            state = self._state[compiled.rule.id]
            events = evaluate.outcomes(compiled, source, columns | self._windows(compiled, rows, columns, source, state), rows[-1].at)
            events["now"], events["late"] = source.at, False
            muted = phases.get(compiled.rule.inhibited_by or "")
            if muted is not None:
                events["inhibited"] = np.isin(muted, (Phase.PENDING, Phase.FIRING))
            both = np.zeros(2 * len(rows), EVENT)
            both[1::2] = events
            both["kind"][0::2], both["valid"][0::2] = Kind.TICK, True
            both["at"][0::2] = both["now"][0::2] = source.at
            if compiled.rule.absence is not None:
                known = evaluate.people(self._known, [str(row.subject) for row in rows], [row.at for row in rows], self._zone)
                both["every"][0::2] = evaluate.expected(compiled, known)
                both["at"][0::2] = self._last_before(compiled, subjects, events)
            moves, after = engine.run(compiled.timing, state, np.repeat(subjects, 2), both)
            phases[compiled.rule.family] = after[1::2]
            for at in np.flatnonzero(moves):
                number, row = divmod(int(at), 2)
                subject, moment = rows[number].subject, int(both["at"][at])
                found.append(self._raised(compiled, subject, moment, Move(moves[at]), self._seen + number if row else -1))
        return sorted(found, key=lambda one: one.at)

    def _last_before(self, compiled: Compiled, subjects: NDArray[np.int64], events: Array) -> list[int]:
        """When each row's person was last measured as expected, before that row."""
        last, before = self._last[compiled.rule.id], []
        for subject, hit, at in zip(subjects.tolist(), (events["hit"] == 1).tolist(), events["at"].tolist(), strict=True):
            before.append(int(last[subject]))
            if hit:
                last[subject] = at
        return before

    def _note(self, rows: list[Row]) -> None:
        """Keep what the rules about trends will look at when this day is over."""
        if not self._wanted:
            return
        for row in rows:
            for code, value in row.values.items():
                if (code, row.setting) in self._wanted and not row.weak:
                    self._today.setdefault((code, row.setting), {}).setdefault(row.subject, []).append((row.at, value))

    def _over(self, day: date, now: datetime) -> list[Raised]:
        """A day is over: what rules about trends say of those who measured something in it."""
        found: list[Raised] = []
        for compiled in self._rules:
            wanted = compiled.rule.daily
            if wanted is None:
                continue
            state, past = self._state[compiled.rule.id], self._days[compiled.rule.id]
            measured = self._today.get((wanted.of, compiled.rule.settings[0]), {})
            subjects = np.array(sorted(measured), np.int64)
            about = evaluate.people(self._known, [str(one) for one in subjects], [now] * len(subjects), self._zone)
            if compiled.applies is not None:
                subjects = subjects[compiled.applies(about) >= 0]
            for subject in subjects.tolist():
                value = daily.statistics_of(measured[subject], self._zone)[wanted.give]
                if value is None:
                    continue
                mine = past.setdefault(subject, deque())
                mine.append(Day(day, value))
                while mine[0].day < day - compiled.look_back:
                    mine.popleft()
                own = state[subject : subject + 1]
                made = evaluate.day_columns(compiled, list(mine), evaluate.frozen_since(own[0], self._zone))
                one = evaluate.people(self._known, [str(subject)], [now], self._zone) | {n: np.array([v]) for n, v in made.items()}
                event = evaluate.outcomes(compiled, evaluate.one_source(compiled, now), one, now)
                moves, _ = engine.run(compiled.timing, own, np.zeros(1, np.int64), event)
                if moves[0]:
                    found.append(self._raised(compiled, subject, micros(now), Move(moves[0]), -1))
        self._today = {}
        return found

    def _columns(self, rows: list[Row]) -> dict[str, NDArray[np.float64]]:
        columns = evaluate.people(self._known, [str(row.subject) for row in rows], [row.at for row in rows], self._zone)
        for number, row in enumerate(rows):
            for code, value in row.values.items():
                columns[code][number] = value
            for flag in row.flags:
                if flag in FLAGS:
                    columns[f"flags.{flag}"][number] = 1.0
            for code, said in row.codes.items():
                if said in CENSORED and code in columns:
                    columns[code][number] = CENSORED[said]
        return columns

    def _windows(
        self, compiled: Compiled, rows: list[Row], columns: windows.Columns, source: Source, state: Array
    ) -> windows.Columns:  # fmt: skip
        made = compiled.rule.columns
        if not made:
            return {}
        found = {name: columns.get(name, np.full(len(rows), np.nan)).copy() for name in made}
        subject = np.array([row.subject for row in rows], np.int64)
        first = windows.asked(compiled, columns, source, subject, busy(state, subject))
        seen = self._seen_by(compiled, rows, windows.worth(compiled, columns, source.setting))
        if compiled.rule.wakes is not None:
            flagged = [any(compiled.rule.wakes in one.about for one in seen.get(number, ())) for number in range(len(rows))]
            first &= busy(state, subject) | np.array(flagged, bool)
        windows.fill(compiled, found, columns, {number: seen[number] for number in np.flatnonzero(first).tolist()})
        more = windows.followers(compiled, columns | found, source, subject, first)
        windows.fill(compiled, found, columns, {number: seen[number] for number in np.flatnonzero(more).tolist()})
        return found

    def _seen_by(self, compiled: Compiled, rows: list[Row], may: NDArray[np.bool_]) -> dict[int, list[Reading]]:
        """Row → what its person measured within the window, of the rows worth looking back from."""
        past = self._past[compiled.rule.id]
        seen: dict[int, list[Reading]] = {}
        for number in np.flatnonzero(may).tolist():
            row = rows[number]
            mine = past.setdefault(row.subject, deque())
            if not row.weak:
                mine.append(windows.reading(row.at, row.values, row.setting, row.flags))
            while mine and mine[0].at < row.at - compiled.look_back:
                mine.popleft()
            seen[number] = list(mine)
        return seen

    def _raised(self, compiled: Compiled, subject: int, at: int, move: Move, row: int) -> Raised:
        return Raised(subject, compiled.rule.id, compiled.rule.family, at, move, evaluate.severity_of(compiled.rule, move).value, row)


FIRES = frozenset(
    {Move.CONFIRMED, Move.DEADLINE, Move.UNVERIFIED, Move.URGENT, Move.LATE, Move.REPEATED, Move.AT_ONCE, Move.WORSENED, Move.SILENT}
)
ITEMS = FIRES | {Move.NOT_CONFIRMED}  # what somebody must look at


def per_hundred_a_week(found: Iterable[Raised], people: int, span: timedelta) -> dict[str, float]:
    """Severity → items per 100 people and week."""
    counts: dict[str, int] = {}
    for one in found:
        if one.move in ITEMS:
            counts[one.severity] = counts.get(one.severity, 0) + 1
    scale = 100 / people / (span / timedelta(weeks=1))
    return {severity: round(counts[severity] * scale, 3) for severity in sorted(counts)}


def difference(before: Iterable[Raised], after: Iterable[Raised], doctors: Sequence[str], span: timedelta) -> dict[str, Any]:
    """Items gained and lost for 100 people and week, by severity, for all and for each doctor. doctors: of each person, by number."""
    was, now = ({one for one in raised if one.move in ITEMS} for raised in (before, after))
    gained, lost = sorted(now - was), sorted(was - now)
    told: dict[str, Any] = {"residents": len(doctors), "days": span.days, "unchanged": len(was & now)}
    told |= {"gained": per_hundred_a_week(gained, len(doctors), span), "lost": per_hundred_a_week(lost, len(doctors), span)}
    by_doctor = {}
    for doctor in sorted({doctors[one.subject] for one in (*gained, *lost)}):
        theirs = doctors.count(doctor)
        by_doctor[doctor] = {
            "residents": theirs,
            "gained": per_hundred_a_week([one for one in gained if doctors[one.subject] == doctor], theirs, span),
            "lost": per_hundred_a_week([one for one in lost if doctors[one.subject] == doctor], theirs, span),
        }
    return told | {"by_doctor": by_doctor}
