"""Rules made ready to run, and what they say of measurements: columns → events. Decides by values alone; a rule that raises is logged.

A measurement or a rule that cannot be judged (the rule raises) takes nobody else with it: it is named in `failed`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ingest.batch import Stored
from rules import condition, daily, facts, features, states, tables
from rules.form import FLAG_COLUMNS, FLAGS
from rules.history import History
from rules.pack import FACTS, Pack, Rule, duration
from rules.state import EVENT, Array, Move, Phase, Timing, busy
from vitals.alert import Severity
from vitals.floor.columns import micros
from vitals.measurement import SETTINGS
from vitals.metric import METRICS

log = logging.getLogger("rules.evaluate")

DAY = 86_400_000_000  # µs
_SETTING = {setting: place for place, setting in enumerate(SETTINGS)}
CENSORED = {"HI": np.inf, "+INF": np.inf, "LO": -np.inf, "-INF": -np.inf}  # beyond what the device can show: danger, never a number


@dataclass(frozen=True)
class Compiled:
    """One rule ready to run: its conditions as functions of columns."""

    pack: Pack
    rule: Rule
    timing: Timing
    when: condition.Predicate
    applies: condition.Predicate | None
    urgent: condition.Predicate | None
    clear: condition.Predicate | None
    stirs: condition.Predicate | None
    late_after: timedelta
    needs: frozenset[str]
    metrics: frozenset[str]
    looks_at: frozenset[str]  # metrics of its features
    look_back: timedelta
    allowed: NDArray[np.bool_]  # by place in SETTINGS

    @cached_property
    def concerns(self) -> frozenset[str]:
        """Metrics without any of which a measurement says nothing to this rule."""
        return self.metrics | self.looks_at

    @cached_property
    def by_symptoms(self) -> bool:
        """Whether a reported symptom alone is danger: in packs that ask for symptoms, rules that have an urgent side."""
        return self.urgent is not None and bool(self.pack.document.symptoms)


def compile_packs(packs: Sequence[Pack]) -> list[Compiled]:
    """Every rule of every pack, in order."""
    return [compile_rule(pack, rule) for pack in packs for rule in pack.rules]


def people(known: facts.People, residents: Sequence[str | None], at: Sequence[datetime], zone: ZoneInfo) -> dict[str, NDArray[np.float64]]:
    """What is known of people at a moment → columns (n,), every metric unknown."""
    found = np.array([known.at(one, moment, zone) for one, moment in zip(residents, at, strict=True)], np.float64).reshape(-1, len(FACTS))
    nothing = {name: np.full(len(found), np.nan) for name in METRICS} | {name: np.zeros(len(found)) for name in FLAG_COLUMNS}
    return nothing | dict(zip(FACTS, found.T, strict=True))


def own_numbers(compiled: Compiled, residents: Sequence[str | None], known: facts.People) -> dict[str, NDArray[np.float64]]:
    """`$name` → the number of each (n,), where a centre or a person has one of their own; inside the pack's clamp whatever was set."""
    if not known.own:
        return {}
    document = compiled.pack.document
    own = [known.numbers(resident, document.pack) for resident in residents]
    return {
        f"${name}": np.array([min(max(one.get(name, compiled.pack.numbers[name]), low), high) for one in own])
        for name, (low, high) in ((name, document.params[name].clamp) for name in sorted(set().union(*own)) if name in document.params)
    }


def compile_rule(pack: Pack, rule: Rule) -> Compiled:
    """One rule of a pack, ready to run."""

    def maybe(part: dict[str, Any] | None) -> condition.Predicate | None:
        return condition.compile_condition(part, pack.terms) if part else None

    reads = condition.names(rule.when, pack.terms)
    return Compiled(
        pack, rule, Timing.of(rule), condition.compile_condition(rule.when, pack.terms), maybe(rule.applies), maybe(rule.urgent),
        maybe(rule.clear.when if rule.clear else None), maybe(rule.stirs), duration(rule.late_after),
        frozenset(reads & set(FACTS)), frozenset(reads & set(METRICS)), _looks_at(pack, rule), duration(rule.look_back),
        np.array([setting in rule.settings for setting in SETTINGS]),
    )  # fmt: skip


def _looks_at(pack: Pack, rule: Rule) -> frozenset[str]:
    """The metrics that the features of a rule look at."""
    found = {rule.daily.of} if rule.daily is not None else set()
    for made in rule.columns.values():
        name, arguments = tables.only(made)
        if name != "table":
            found |= tables.metrics_read(made)
            continue
        table = pack.document.classifications[arguments["of"]]
        read = tables.columns_of(table, pack.terms).union(*(tables.metrics_read(one) for one in table.columns.values()))
        found |= read & METRICS.keys() | ({"pulse"} if "heart_rate" in read else set())
    return frozenset(found)


def make_columns(rows: Sequence[Stored], known: facts.People, zone: ZoneInfo) -> dict[str, NDArray[np.float64]]:
    """Measurements and what is known of their subjects → columns (n,), NaN where absent."""
    columns = people(known, [row.resident for row in rows], [row.measurement.measured_at for row in rows], zone)
    found: dict[str, tuple[list[int], list[float]]] = {code: ([], []) for code in METRICS}
    for number, stored in enumerate(rows):
        for code, value in stored.measurement.values.items():
            if not isinstance(value, str):
                at, values = found[code]
                at.append(number)
                values.append(value)
        for flag in stored.measurement.flags:
            if flag in FLAGS:
                columns[f"flags.{flag}"][number] = 1.0
        for code, said in stored.measurement.codes.items():
            if said in CENSORED and code in found and code not in stored.measurement.values:
                at, values = found[code]
                at.append(number)
                values.append(CENSORED[said])
    for code, (at, values) in found.items():
        if at:
            columns[code][at] = values
    return columns


class Source(NamedTuple):
    """What every rule asks of where a measurement comes from: columns (n,)."""

    at: NDArray[np.int64]  # measured_at, µs
    valid: NDArray[np.bool_]  # not a weak source
    synced: NDArray[np.bool_]  # its time is certain
    setting: NDArray[np.uint8]  # place in SETTINGS
    person: NDArray[np.bool_]  # belongs to a resident


def make_source(rows: Sequence[Stored]) -> Source:
    return Source(
        np.array([micros(row.measurement.measured_at) for row in rows], np.int64),
        np.array([not row.weak for row in rows], bool),
        np.array([row.measurement.time_quality == "synced" for row in rows], bool),
        np.array([_SETTING[row.measurement.setting] for row in rows], np.uint8),
        np.array([row.resident is not None for row in rows], bool),
    )


def one_source(compiled: Compiled, at: datetime) -> Source:
    """The source of what is no measurement but a day of them, in the setting of its rule."""
    yes = np.ones(1, bool)
    return Source(np.array([micros(at)], np.int64), yes, yes, np.array([compiled.allowed.argmax()], np.uint8), yes)


class Cut(dict[str, NDArray[np.float64]]):
    """Some rows of columns; each column is cut when it is asked for."""

    def __init__(self, columns: dict[str, NDArray[np.float64]], rows: NDArray[np.int64]) -> None:
        self._whole, self._rows = columns, rows

    def __missing__(self, name: str) -> NDArray[np.float64]:
        found = self[name] = self._whole[name][self._rows]
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._whole


def concerned(compiled: Compiled, columns: dict[str, NDArray[np.float64]]) -> NDArray[np.int64]:
    """Rows that hold one of the rule's metrics: a glucose neither confirms nor refutes a pressure."""
    found: NDArray[np.bool_] | None = None
    for code in compiled.concerns:
        there = columns[code] == columns[code]
        found = there if found is None else found | there
    return np.flatnonzero(found) if found is not None else np.zeros(0, np.int64)


def hits(compiled: Compiled, columns: dict[str, NDArray[np.float64]]) -> NDArray[np.int8]:
    """What the rule says of rows: 1, 0 or -1, where it applies."""
    hit = compiled.when(columns)
    if compiled.applies is not None and hit.any():
        applies = compiled.applies(columns)
        # an unknown fact never silences a danger rule; any other rule needs to know that it applies
        hit = np.where(applies == 1 if compiled.timing.visits else applies >= 0, hit, 0).astype(np.int8)
    if compiled.stirs is not None and (hit == 1).any():
        hit = np.where(compiled.stirs(columns) == 1, hit, np.minimum(hit, 0)).astype(np.int8)
    return hit


class Weighed(NamedTuple):
    """Rows that concern a rule, and what it says of them: 1, 0 or -1."""

    rows: NDArray[np.int64]
    hit: NDArray[np.int8]


def outcomes(
    compiled: Compiled, source: Source, columns: dict[str, NDArray[np.float64]], now: datetime, weighed: Weighed | None = None
) -> Array:  # fmt: skip
    """Events (n,) of one rule for measurements: hit, clear, urgent, valid, late. weighed: what `weigh` found, if it was asked."""
    events = np.zeros(len(source.at), EVENT)
    rows = concerned(compiled, columns) if weighed is None else weighed.rows
    cut = Cut(columns, rows)
    hit = hits(compiled, cut) if weighed is None else weighed.hit
    events["hit"][rows] = np.where(compiled.allowed[source.setting[rows]], hit, 0)
    if compiled.clear is not None:
        events["clear"][rows] = compiled.clear(cut)
    if compiled.urgent is not None:
        events["urgent"][rows] = compiled.urgent(cut) == 1
    if compiled.rule.absence is not None:
        events["every"][rows] = expected(compiled, cut)
    events["valid"] = source.valid
    events["at"] = source.at
    events["now"] = micros(now)
    # lateness counts only when the time is certain; estimated and untrusted count as new
    events["late"] = source.synced & (source.at < micros(now - compiled.late_after))
    return events


def ranges(columns: dict[str, NDArray[np.float64]], metrics: Iterable[str]) -> condition.Ranges:
    """The least and the greatest value of each of these metrics that was measured at all."""
    found = {code: (float(np.fmin.reduce(columns[code])), float(np.fmax.reduce(columns[code]))) for code in metrics}
    return {code: bounds for code, bounds in found.items() if bounds[0] == bounds[0]}


def weigh(
    compiled: Compiled, columns: dict[str, NDArray[np.float64]], reached: condition.Ranges, state: Array, subject: NDArray[np.int64],
    own: Collection[str] = (),
) -> Weighed | None:  # fmt: skip
    """What measurements say of a rule, or None if they can move nothing: none hits, and nobody is in a state of it.

    Most of what is measured is of this kind, so it is worth the question; the extremes of a batch often answer it. subject (n,): places
    in state. own: parameters that people have of their own.
    """
    if compiled.concerns.isdisjoint(reached):
        return None
    rows = concerned(compiled, columns)
    awake = busy(state, subject[rows]).any()
    if compiled.rule.absence is not None and not awake:
        return None
    if not awake and not compiled.rule.columns and not condition.reachable(compiled.rule.when, compiled.pack.terms, reached, own):
        return None
    hit = hits(compiled, Cut(columns, rows))
    if awake or (hit == 1).any() or (compiled.needs and (hit == 0).any()):
        return Weighed(rows, hit)
    return None


def judged(
    compiled: Compiled, source: Source, columns: dict[str, NDArray[np.float64]], now: datetime, weighed: Weighed | None = None
) -> tuple[Array, NDArray[np.bool_]]:  # fmt: skip
    """`outcomes`, and for which measurements there are none because the rule raised on them; all others are judged as ever."""
    size = len(source.at)
    try:
        return outcomes(compiled, source, columns, now, weighed), np.zeros(size, bool)
    except Exception:
        log.exception("a rule raised", extra={"rule": compiled.rule.id, "measurements": size})
    events, failed = np.zeros(size, EVENT), np.zeros(size, bool)
    for at in range(size):
        one = slice(at, at + 1)
        alone = Source(source.at[one], source.valid[one], source.synced[one], source.setting[one], source.person[one])
        try:
            events[one] = outcomes(compiled, alone, {name: c[one] for name, c in columns.items()}, now)
        except Exception:  # noqa: BLE001  whatever it is: logged above; a person is told
            failed[at] = True
    return events, failed


def expected(compiled: Compiled, columns: dict[str, NDArray[np.float64]]) -> NDArray[np.int64] | int:
    """µs within which each is to measure, of an absence rule; 0 where nothing is expected."""
    absence = compiled.rule.absence
    if absence is None:
        return 0
    days = np.nan_to_num(columns[absence.every])
    if compiled.applies is not None:
        days = np.where(compiled.applies(columns) == 1, days, 0)
    return (days * DAY).astype(np.int64)


def frozen_since(state: Any, zone: tzinfo) -> date | None:
    """The day for which the alert of one state was raised, in the night after it: from it on nothing is taken into a baseline."""
    if state["phase"] != Phase.FIRING:
        return None
    return states.moment(int(state["first"])).astimezone(zone).date() - timedelta(days=1)


def day_columns(compiled: Compiled, values: Sequence[daily.Day], frozen_since: date | None) -> dict[str, float]:
    """The columns of a rule about trends, of the last of these days: its features, and the day's value under its metric."""
    assert compiled.rule.daily is not None
    of = compiled.rule.daily.of
    past = History({}, daily.as_readings(values, of, frozen_since))
    return {of: values[-1].value} | {name: features.evaluate(made, past) for name, made in compiled.rule.columns.items()}


def severity_of(rule: Rule, move: Move) -> Severity:
    """How severe a movement makes the alert."""
    if move in (Move.URGENT, Move.WORSENED):
        return rule.severity_urgent
    if move is Move.NOT_CONFIRMED:
        return Severity.P3
    return max(rule.severity, Severity.P2) if move in (Move.LATE, Move.UNVERIFIED) else rule.severity
