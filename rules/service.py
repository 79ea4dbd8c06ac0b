"""The rules' step in the worker's transaction: events → outcomes → state → alert changes.

Everything that decides is in `rules.condition` and `rules.engine`; here it is fed and its conclusions are written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ingest import readings
from ingest.batch import Batch, Stored
from rules import alerts, condition, engine, facts, reevaluate, states, windows
from rules.engine import EVENT, Array, Kind, Move, Phase, Timing
from rules.pack import FACTS, Pack, Rule, duration
from vitals.alert import Change, Severity, State, Why
from vitals.errors import BadInput
from vitals.floor.columns import micros
from vitals.floor.database import Connection
from vitals.measurement import SETTINGS
from vitals.metric import METRICS

_WHY = {
    Move.OPENED: Why.OPENED, Move.CONFIRMED: Why.CONFIRMED, Move.DEADLINE: Why.DEADLINE, Move.UNVERIFIED: Why.UNVERIFIED,
    Move.URGENT: Why.URGENT, Move.LATE: Why.LATE, Move.REPEATED: Why.REPEATED, Move.NOT_CONFIRMED: Why.NOT_CONFIRMED,
    Move.APPENDED: Why.APPENDED, Move.CLEARED: Why.CLEARED, Move.AT_ONCE: Why.AT_ONCE, Move.WORSENED: Why.WORSENED,
}  # fmt: skip
_STATE = {Phase.NORMAL: State.CLEARED, Phase.PENDING: State.PENDING, Phase.FIRING: State.FIRING, Phase.UNCONFIRMED: State.UNCONFIRMED}

# What the movement itself adds to the pack's sentence.
_SENTENCES = {
    Why.OPENED: ("请静坐休息后复测", "waiting for a repeat after rest"),
    Why.CONFIRMED: ("复测确认", "confirmed by a repeat"),
    Why.DEADLINE: ("到期未复测,自动告警", "no repeat came in time"),
    Why.UNVERIFIED: ("来源未经验证的危急值:请电话联系并复测", "unverified danger value: call and re-measure"),
    Why.URGENT: ("伴危险症状、妊娠或哺乳,不等复测", "danger symptom, pregnancy or lactation: no wait for a repeat"),
    Why.LATE: ("迟到的危急值", "late danger value"),
    Why.AT_ONCE: ("", ""),
    Why.WORSENED: ("较前加重", "worse than before"),
    Why.REPEATED: ("", ""),
    Why.NOT_CONFIRMED: ("复测未确认,请查看两次读数", "the repeat did not confirm; see both readings"),
}
_PLAIN_SENTENCES = {
    Why.OPENED: ("等待复测", "waiting for a repeat"),
    Why.URGENT: ("极危急,不等复测", "critical, no wait for a repeat"),
}
_FACT_WORDS = {
    "age_years": "出生日期", "pregnant": "是否妊娠", "lactating": "是否哺乳", "hypertension": "是否患高血压", "diabetes": "是否患糖尿病",
    "chronic_lung_disease": "是否患慢性肺病", "heart_failure": "是否患心力衰竭",
}  # fmt: skip
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
    late_after: timedelta
    needs: frozenset[str]
    metrics: frozenset[str]
    look_back: timedelta
    allowed: NDArray[np.bool_]  # by place in SETTINGS

    @property
    def by_symptoms(self) -> bool:
        """Whether a reported symptom alone is danger: in packs that ask for symptoms, rules that have an urgent side."""
        return self.urgent is not None and bool(self.pack.document.symptoms)


def compile_packs(packs: Sequence[Pack]) -> list[Compiled]:
    """Every rule of every pack, in order."""
    return [_compile(pack, rule) for pack in packs for rule in pack.rules]


def _compile(pack: Pack, rule: Rule) -> Compiled:
    def maybe(part: dict[str, Any] | None) -> condition.Predicate | None:
        return condition.compile_condition(part, pack.terms) if part else None

    reads = condition.names(rule.when, pack.terms)
    return Compiled(
        pack, rule, Timing.of(rule), condition.compile_condition(rule.when, pack.terms), maybe(rule.applies), maybe(rule.urgent),
        maybe(rule.clear.when if rule.clear else None), duration(rule.late_after),
        frozenset(reads & set(FACTS)), frozenset(reads & set(METRICS)), duration(rule.look_back),
        np.array([setting in rule.settings for setting in SETTINGS]),
    )  # fmt: skip


def make_columns(rows: Sequence[Stored], known: facts.People, zone: ZoneInfo) -> dict[str, NDArray[np.float64]]:
    """Measurements and what is known of their subjects → columns (n,), NaN where absent."""
    columns = {name: np.full(len(rows), np.nan) for name in METRICS}
    found: dict[str, tuple[list[int], list[float]]] = {code: ([], []) for code in METRICS}
    for number, stored in enumerate(rows):
        for code, value in stored.measurement.values.items():
            if not isinstance(value, str):
                at, values = found[code]
                at.append(number)
                values.append(value)
        for code, said in stored.measurement.codes.items():
            if said in CENSORED and code in found and code not in stored.measurement.values:
                at, values = found[code]
                at.append(number)
                values.append(CENSORED[said])
    for code, (at, values) in found.items():
        if at:
            columns[code][at] = values
    people = np.array([known.at(row.resident, row.measurement.measured_at, zone) for row in rows], np.float64).reshape(-1, len(FACTS))
    return columns | dict(zip(FACTS, people.T, strict=True))


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


def outcomes(compiled: Compiled, source: Source, columns: dict[str, NDArray[np.float64]], now: datetime) -> Array:
    """Events (n,) of one rule for measurements: hit, clear, urgent, valid, late."""
    events = np.zeros(len(source.at), EVENT)
    hit = compiled.when(columns)
    if compiled.applies is not None:
        applies = compiled.applies(columns)
        # an unknown fact never silences a danger rule; any other rule needs to know that it applies
        hit = np.where(applies == 1 if compiled.timing.visits else applies >= 0, hit, 0)
    events["hit"] = np.where(compiled.allowed[source.setting], hit, 0)
    events["clear"] = compiled.clear(columns) if compiled.clear else 0
    events["urgent"] = (compiled.urgent(columns) == 1) if compiled.urgent else False
    events["valid"] = source.valid
    events["at"] = source.at
    events["now"] = micros(now)
    # lateness counts only when the time is certain; estimated and untrusted count as new
    events["late"] = source.synced & (source.at < micros(now - compiled.late_after))
    return events


def severity_of(rule: Rule, move: Move) -> Severity:
    """How severe a movement makes the alert."""
    if move in (Move.URGENT, Move.WORSENED):
        return rule.severity_urgent
    if move is Move.NOT_CONFIRMED:
        return Severity.P3
    return max(rule.severity, Severity.P2) if move in (Move.LATE, Move.UNVERIFIED) else rule.severity


class Rules:
    """The compiled packs; `step` is what the worker runs."""

    def __init__(self, packs: Sequence[Pack], zone: str) -> None:
        self._rules = compile_packs(packs)
        self._zone = ZoneInfo(zone)
        self._known = facts.Known()
        self._danger_symptoms = {name for pack in packs for name in pack.document.symptoms}

    async def step(self, connection: Connection, batch: Batch, now: datetime) -> datetime | None:
        """Apply the batch and the timers that are due; returns when the next timer is due."""
        for subject, _by in batch.ended:
            batch.changes += await alerts.close_all(connection, subject, now)
        for event in batch.events:
            if event.kind == "facts" and event.subject is not None:
                try:
                    await facts.record(connection, event.subject, event.body["facts"], event.account, now)
                except BadInput as error:
                    batch.results[event.intake] = f"refused:{error.reason}"
        batch.ticked = [timer.subject for timer in await states.due(connection, now, batch.mine)]
        await self.evaluate(connection, batch, now)
        for subject, numbers in sorted(batch.taken.items()):
            await self._look_again(connection, batch, subject, numbers, now)
        if any(event.kind == "facts" for event in batch.events):
            self._known.forget()
        return await states.next_due(connection, batch.mine)

    async def evaluate(self, connection: Connection, batch: Batch, now: datetime) -> None:
        """Everybody whom the batch concerns: state moves, and what is concluded is carried out."""
        urgent = [e.subject for e in batch.events if e.kind == "symptoms" and e.subject is not None and self.reported(e.body)]
        subjects = sorted(
            {row.subject for row in batch.measurements}
            | set(batch.ticked)
            | {subject for subject, _ in batch.ended}
            | {e.subject for e in batch.events if e.kind in ("symptoms", "facts") and e.subject is not None}
        )
        if subjects:
            await self._advance(connection, batch, now, subjects, urgent, batch.ticked)

    async def carry_out(self, connection: Connection, batch: Batch, concluded: Sequence[Change]) -> None:
        """Move the alerts."""
        for change in concluded:
            moved = await alerts.move(connection, change)
            if moved is not None:
                batch.changes.append(moved)

    async def _look_again(self, connection: Connection, batch: Batch, subject: str, taken: set[int], now: datetime) -> None:
        """Measurements were taken away from this subject: put its state right, and the alerts that rested on them."""
        before = await reevaluate.past(connection, subject, now, self.reported)
        rows = [readings.stored_of(row) for row in before.rows]
        known = await self._known.of(connection, [subject])
        columns, source = make_columns(rows, known, self._zone), make_source(rows)
        stored_at = np.array([micros(row["stored_at"]) for row in before.rows], np.int64)
        ids = [compiled.rule.id for compiled in self._rules]
        old = await states.read(connection, [subject], ids)
        new: dict[str, Array] = {}
        phases: dict[str, NDArray[np.uint8]] = {}
        for compiled in self._rules:
            columns = columns | await self._windows(connection, compiled, rows, columns, {subject})
            events = outcomes(compiled, source, columns, now)
            events["now"] = stored_at
            events["late"] = source.synced & (source.at < stored_at - compiled.late_after // timedelta(microseconds=1))
            muted = phases.get(compiled.rule.inhibited_by or "")
            inhibited = None if muted is None else np.isin(muted, (Phase.PENDING, Phase.FIRING))
            urgent = before.urgent if compiled.by_symptoms else []
            new[compiled.rule.id], after = reevaluate.replay(compiled.timing, events, urgent, before.ended, inhibited, micros(now))
            phases[compiled.rule.family] = after
        await states.write(connection, [subject], old, new)
        concluded = {compiled.rule.id: compiled for compiled in self._rules}
        for row in await alerts.open_of(connection, [subject]):
            owner = concluded.get(row["rule"])
            if owner is not None and await alerts.rests_on(connection, row["alert"], taken):
                await self._put_right(connection, batch, row, owner, new[owner.rule.id], taken, now)

    async def _put_right(
        self, connection: Connection, batch: Batch, row: dict[str, Any], compiled: Compiled, state: Array, taken: set[int], now: datetime
    ) -> None:
        """Move an open alert to what is left of it: nothing (retracted), or what the remaining measurements say."""
        phase = Phase(int(state["phase"][0]))
        gone = {"taken": sorted(taken), "zh": "所依据的读数已归属他人", "en": "what it was concluded from is somebody else's"}
        told = {"retraction": gone}
        severity = Severity(row["severity"])
        if phase is Phase.NORMAL:
            change = Change(row["subject"], row["family"], row["rule"], State.CLEARED, severity, Why.RETRACTED, now, explanation=told)
        else:
            # a person may have been paged: a firing alert stays firing while anything of it is left
            left = State.FIRING if row["state"] == State.FIRING else _STATE[phase]
            deadline = reevaluate.deadline_of(state)
            change = Change(
                row["subject"], row["family"], compiled.rule.id, left, severity, Why.REEVALUATED, now, deadline=deadline, explanation=told
            )
        moved = await alerts.move(connection, change)
        if moved is not None:
            batch.changes.append(moved)

    def reported(self, body: dict[str, Any]) -> set[str]:
        """Danger symptoms answered with yes; denied and not asked both count as false for raising."""
        answers = body.get("answers", {})
        return {name for name in self._danger_symptoms if answers.get(name) == "yes"}

    async def _advance(
        self, connection: Connection, batch: Batch, now: datetime, subjects: list[str], urgent: list[str], ticked: list[str]
    ) -> None:
        position = {subject: number for number, subject in enumerate(subjects)}
        rows = batch.measurements
        known = await self._known.of(connection, subjects)
        columns, source = make_columns(rows, known, self._zone), make_source(rows)
        state = await states.read(connection, subjects, [compiled.rule.id for compiled in self._rules])
        before = {rule: array.copy() for rule, array in state.items()}
        ends = [subject for subject, _ in batch.ended]
        order = np.array([position[s] for s in (*ends, *urgent, *(r.subject for r in rows), *ticked)], np.int64)
        first = len(ends) + len(urgent)  # where measurements begin
        family_phases: dict[str, NDArray[np.uint8]] = {}
        found: list[tuple[int, int, Change]] = []
        for rank, compiled in enumerate(self._rules):
            busy = np.flatnonzero(state[compiled.rule.id]["phase"]) if compiled.rule.wakes else ()
            columns = columns | await self._windows(connection, compiled, rows, columns, {subjects[at] for at in busy})
            events = self._events(compiled, source, columns, now, len(ends), len(urgent), len(ticked))
            if compiled.rule.inhibited_by in family_phases:
                events["inhibited"] = np.isin(family_phases[compiled.rule.inhibited_by], (Phase.PENDING, Phase.FIRING))
            moves, phases = engine.run(compiled.timing, state[compiled.rule.id], order, events)
            family_phases[compiled.rule.family] = phases
            for at in np.flatnonzero((moves != Move.NONE) & (moves != Move.CLOSED)):
                stored = rows[at - first] if first <= at < first + len(rows) else None
                found.append((int(at), rank, self._change(compiled, subjects[order[at]], Move(moves[at]), Phase(phases[at]), stored, now)))
            unknown = events["hit"][first : first + len(rows)] == 0
            found += self._missing_facts(compiled, rank, rows, source, columns, unknown, first, now)
        await states.write(connection, subjects, before, state)
        await self.carry_out(connection, batch, [change for _at, _rank, change in sorted(found, key=lambda item: item[:2])])
        await self._settle_missing_facts(connection, batch, known, now)

    async def _windows(
        self, connection: Connection, compiled: Compiled, rows: Sequence[Stored], columns: dict[str, NDArray[np.float64]], busy: set[str]
    ) -> dict[str, NDArray[np.float64]]:
        """The columns of a rule that looks back. busy: people in a state of it already."""
        made = compiled.rule.columns
        if not made:
            return {}
        possible = compiled.applies(columns) >= 0 if compiled.applies is not None else np.ones(len(rows), bool)
        asked = await windows.awake(connection, rows, possible, compiled.rule.wakes, compiled.look_back, busy)
        return await windows.columns(connection, rows, asked, made, compiled.look_back, compiled.rule.settings)

    def _events(
        self,
        compiled: Compiled,
        source: Source,
        columns: dict[str, NDArray[np.float64]],
        now: datetime,
        ends: int,
        urgent: int,
        ticks: int,
    ) -> Array:
        """Stream order: episodes that people ended, reported symptoms, measurements, ticks."""
        parts = [np.zeros(ends, EVENT), np.zeros(urgent, EVENT), outcomes(compiled, source, columns, now), np.zeros(ticks, EVENT)]
        kinds = (Kind.END, Kind.URGENT, Kind.MEASUREMENT, Kind.TICK)
        for part, kind in zip(parts, kinds, strict=True):
            part["kind"] = kind
            if kind != Kind.MEASUREMENT:
                part["at"] = part["now"] = micros(now)
                part["valid"] = True
        if not compiled.by_symptoms:
            parts[1]["kind"] = Kind.TICK
        return np.concatenate(parts)

    def _change(self, compiled: Compiled, subject: str, move: Move, phase: Phase, stored: Stored | None, now: datetime) -> Change:
        rule, why = compiled.rule, _WHY[move]
        severity = severity_of(rule, move)
        deadline = now + timedelta(microseconds=compiled.timing.within) if why is Why.OPENED else None
        return Change(
            subject, rule.family, rule.id, _STATE[phase], severity, why, now,
            measurement=stored.number if stored else None, deadline=deadline,
            explanation=explain(compiled, why, stored),
        )  # fmt: skip

    def _missing_facts(
        self,
        compiled: Compiled,
        rank: int,
        rows: list[Stored],
        source: Source,
        columns: dict[str, NDArray[np.float64]],
        unknown: NDArray[np.bool_],
        first: int,
        now: datetime,
    ) -> list[tuple[int, int, Change]]:
        """The result was unknown, and only because a fact is not recorded: ask for it, one item for each person."""
        found: list[tuple[int, int, Change]] = []
        if not compiled.needs:
            return found
        asked = unknown & source.person & compiled.allowed[source.setting] & (compiled.when(columns) == 0)
        if compiled.applies is not None:
            asked &= compiled.applies(columns) >= (1 if compiled.timing.visits else 0)
        for name in compiled.metrics:
            asked &= ~np.isnan(columns[name])
        for number in np.flatnonzero(asked):
            stored = rows[number]
            missing = sorted(name for name in compiled.needs if np.isnan(columns[name][number]))
            if not missing:
                continue
            words = "、".join(_FACT_WORDS[name] for name in missing)
            explanation = {"zh": f"请询问并记录:{words}", "en": f"ask and record: {', '.join(missing)}", "facts": missing}
            explanation |= {"pack": compiled.pack.name, "pack_digest": compiled.pack.digest}
            change = Change(
                stored.subject, "missing_fact", compiled.rule.id, State.FIRING, Severity.P4, Why.OPENED, now, explanation=explanation
            )
            found.append((first + int(number), rank + 1000, change))
        return found

    async def _settle_missing_facts(self, connection: Connection, batch: Batch, known: facts.People, now: datetime) -> None:
        told = {e.subject for e in batch.events if e.kind == "facts" and e.subject}
        for row in await alerts.open_of(connection, sorted(told), "missing_fact") if told else []:
            person = facts.columns(known.facts.get(row["subject"], {}), now, self._zone)
            if all(person[name] == person[name] for name in row["explanation"].get("facts", [])):
                change = Change(row["subject"], "missing_fact", row["rule"], State.CLEARED, Severity.P4, Why.CLEARED, now)
                moved = await alerts.move(connection, change)
                if moved is not None:
                    batch.changes.append(moved)


def explain(compiled: Compiled, why: Why, stored: Stored | None) -> dict[str, Any]:
    """The sentence for the doctor in both languages, the clause behind it, and which pack said so."""
    rule, document = compiled.rule, compiled.pack.document
    source = document.sources[rule.source]
    told: dict[str, Any] = {
        "title_zh": rule.zh, "title_en": rule.en, "pack": compiled.pack.name, "pack_digest": compiled.pack.digest,
        "clause": {"cite": source.cite, "loc": source.loc, "quote": source.quote},
        "action": {"code": rule.action.code, "zh": rule.action.zh, "en": rule.action.en, "follow_up_days": rule.action.follow_up_days},
        "thresholds": thresholds(compiled.pack),
    }  # fmt: skip
    more_zh, more_en = _SENTENCES.get(why, ("", ""))
    if not compiled.by_symptoms:  # what is said of symptoms, pregnancy and rest is said of blood pressure
        more_zh, more_en = _PLAIN_SENTENCES.get(why, (more_zh, more_en))
    if stored is not None:
        # as the device showed it: half-up to the pack's grid
        grids = document.round
        numbers = {
            code: f"{math.floor(value / grids[code] + 0.5) * grids[code]:.{_digits(grids[code])}f}" if code in grids else f"{value:g}"
            for code, value in stored.measurement.values.items()
            if not isinstance(value, str)
        } | {code: said for code, said in stored.measurement.codes.items() if said in CENSORED}
        words = {**dict.fromkeys(METRICS, "—"), **{name: f"{value:g}" for name, value in compiled.pack.numbers.items()}, **numbers}
        told["zh"] = rule.explain.zh.format_map(words) + (f"。{more_zh}" if more_zh else "")
        told["en"] = rule.explain.en.format_map(words) + (f"; {more_en}" if more_en else "")
        if stored.weak:
            told["weak"] = list(stored.weak)
        told["measured_at"] = stored.measurement.measured_at.isoformat()
        told["time_quality"] = stored.measurement.time_quality
    elif more_zh:
        told["because_zh"], told["because_en"] = more_zh, more_en
    return told


def _digits(grid: float) -> int:
    return max(0, -math.floor(math.log10(grid)))


def thresholds(pack: Pack) -> dict[str, float]:
    """Lines for a chart: metric → danger threshold."""
    return {name: pack.numbers[f"danger_{name}"] for name in ("systolic", "diastolic") if f"danger_{name}" in pack.numbers}
