"""The rules' step in the worker's transaction: events → outcomes → state → alert changes.

Everything that decides is in `rules.evaluate` and `rules.engine`; here it is fed and its conclusions are written. State is read for
the people of the batch and written back in the same transaction: memory holds nothing that a rollback or another worker could make
untrue (decision 14).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
from numpy.typing import NDArray

from ingest import lives, lookback, readings
from ingest.batch import Batch, Event, Stored
from rules import alerts, daily, engine, evaluate, facts, in_force, reevaluate, states, windows, wording
from rules.condition import Ranges
from rules.evaluate import Compiled, Source
from rules.pack import Pack
from rules.state import EVENT, Array, Kind, Move, Phase, busy
from rules.stream import Stream, resident_of
from vitals.alert import Change, Severity, State, Why
from vitals.errors import BadInput
from vitals.floor import metrics
from vitals.floor.columns import micros
from vitals.floor.database import Connection
from vitals.metric import METRICS

log = logging.getLogger("rules.service")

_WHY = {
    Move.OPENED: Why.OPENED, Move.CONFIRMED: Why.CONFIRMED, Move.DEADLINE: Why.DEADLINE, Move.UNVERIFIED: Why.UNVERIFIED,
    Move.URGENT: Why.URGENT, Move.LATE: Why.LATE, Move.REPEATED: Why.REPEATED, Move.NOT_CONFIRMED: Why.NOT_CONFIRMED,
    Move.APPENDED: Why.APPENDED, Move.CLEARED: Why.CLEARED, Move.AT_ONCE: Why.AT_ONCE, Move.WORSENED: Why.WORSENED,
    Move.SILENT: Why.SILENT,
}  # fmt: skip


class Turn(NamedTuple):
    """What every rule is told of one transaction."""

    stream: Stream
    rows: list[Stored]
    source: Source
    columns: windows.Columns
    known: facts.People
    days: Mapping[str, daily.Series]
    offline: set[str]
    reached: Ranges
    only_measured: bool
    now: datetime


class Rules:
    """The compiled packs; `step` is what the worker runs."""

    def __init__(self, packs: Sequence[Pack], zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self._known = facts.Known()
        self._shipped, self._packs_seen = packs, 0
        self._scheduled: dict[str, datetime] = {}
        self._use(packs)

    def _use(self, packs: Sequence[Pack]) -> None:
        self._packs = packs
        self._rules = evaluate.compile_packs(packs)
        self._danger_symptoms = {name for pack in packs for name in pack.document.symptoms}
        self._of_days = [one for one in self._rules if one.rule.daily is not None]
        self._trends = {one.rule.daily.of for one in self._of_days if one.rule.daily is not None}

    async def step(self, connection: Connection, batch: Batch, now: datetime) -> datetime | None:
        """Apply the batch and the timers that are due; returns when the next timer is due."""
        batch.undo.append(self.forget)
        for subject, _by in batch.ended:
            batch.changes += await alerts.close_all(connection, subject, now)
        for event in batch.events:
            try:
                await self._hear(connection, event, now)
            except BadInput as error:
                batch.results[event.intake] = f"refused:{error.reason}" + (f":{error.detail}" if event.kind == "pack" else "")
        await self._look(connection)
        timers = await states.due(connection, now, batch.mine)
        batch.ticked = [timer.subject for timer in timers if timer.rule != daily.TIMER]
        batch.over = [timer.subject for timer in timers if timer.rule == daily.TIMER]
        await self.evaluate(connection, batch, now)
        for subject, numbers in sorted(batch.taken.items()):
            people = await self._known.of(connection, [subject])
            past = await reevaluate.past(connection, subject, now, self.reported)
            batch.changes += await reevaluate.look_again(connection, self._rules, people, self._zone, subject, past, numbers, now)
            if self._trends and resident_of(subject) is not None:
                today = now.astimezone(self._zone).date()
                await daily.write(connection, [subject], self._trends, today - timedelta(days=90), today, self._zone)
                await daily.schedule(connection, [subject], now, self._zone)
        return await states.next_due(connection, batch.mine)

    def forget(self) -> None:
        """What was read and written in a transaction that did not commit is not true."""
        self._known.forget()
        self._packs_seen = -1
        self._scheduled.clear()

    async def _hear(self, connection: Connection, event: Event, now: datetime) -> None:
        """What people said that changes what is concluded. Raises BadInput."""
        match event.kind:
            case "facts" if event.subject is not None:
                await facts.record(connection, event.subject, event.body["facts"], event.account, now)
            case "parameter":
                await in_force.set_parameter(connection, self._packs, event.body, event.account, now)
            case "pack":
                await in_force.activate(connection, self._packs, event.body, event.account, now)

    async def _look(self, connection: Connection) -> None:
        """Facts and packs as they are in this transaction."""
        await self._known.look(connection)
        if self._known.packs != self._packs_seen:
            self._use(in_force.together(self._shipped, await in_force.added(connection)))
            self._packs_seen = self._known.packs

    async def evaluate(self, connection: Connection, batch: Batch, now: datetime) -> None:
        """Everybody whom the batch concerns: state moves, and what is concluded is carried out."""
        urgent = [e.subject for e in batch.events if e.kind == "symptoms" and e.subject is not None and self.reported(e.body)]
        stream = Stream.of(batch, urgent)
        if stream.subjects:
            await self._advance(connection, batch, now, stream)

    async def carry_out(self, connection: Connection, batch: Batch, concluded: Sequence[Change]) -> None:
        """Move the alerts."""
        for change in concluded:
            moved = await alerts.move(connection, change)
            if moved is not None:
                batch.changes.append(moved)

    def reported(self, body: dict[str, Any]) -> set[str]:
        """Danger symptoms answered with yes; denied and not asked both count as false for raising."""
        answers = body.get("answers", {})
        return {name for name in self._danger_symptoms if answers.get(name) == "yes"}

    async def _advance(self, connection: Connection, batch: Batch, now: datetime, stream: Stream) -> None:
        rows = batch.measurements
        known = await self._known.of(connection, stream.subjects)
        columns, source = evaluate.make_columns(rows, known, self._zone), evaluate.make_source(rows)
        state = await states.read(connection, stream.subjects, [compiled.rule.id for compiled in self._rules])
        before = {rule: array.copy() for rule, array in state.items()}
        days = await self._days(connection, stream.names(slice(stream.days, None)), now)
        offline = await self._offline(connection, stream)
        measured = {code for row in rows for code in (*row.measurement.values, *row.measurement.codes)}
        reached = evaluate.ranges(columns, sorted(measured & METRICS.keys()))
        turn = Turn(stream, rows, source, columns, known, days, offline, reached, bool((stream.kinds == Kind.MEASUREMENT).all()), now)
        phases: dict[str, NDArray[np.uint8]] = {}  # family → the phase after each event
        found: list[tuple[int, int, Change]] = []
        for rank, compiled in enumerate(self._rules):
            own = state[compiled.rule.id]
            try:
                told, after = await self._one(connection, compiled, turn, own, phases.get(compiled.rule.inhibited_by or ""))
            except psycopg.Error:
                raise
            except Exception:
                log.exception("a rule raised", extra={"rule": compiled.rule.id})
                own[:] = before[compiled.rule.id]
                broken = np.full(len(rows), compiled.rule.daily is None)
                told, after = self._not_judged(compiled, turn, broken), own["phase"][stream.subject]
            same = phases.get(compiled.rule.family)
            phases[compiled.rule.family] = after if same is None else _worse(same, after)
            found += [(at, rank, change) for at, change in told]
        await states.write(connection, stream.subjects, before, state)
        await self.carry_out(connection, batch, [change for _at, _rank, change in sorted(found, key=lambda item: item[:2])])
        await self._settle_missing_facts(connection, batch, known, now)
        await self._schedule_days(connection, batch, now)

    async def _one(
        self, connection: Connection, compiled: Compiled, turn: Turn, own: Array, muting: NDArray[np.uint8] | None
    ) -> tuple[list[tuple[int, Change]], NDArray[np.uint8]]:
        """One rule moves its state (`own`, in place); (event, what it concludes), and the phase after each event.

        muting: the phases of the family that inhibits it. Raises whatever is wrong with the rule; what is wrong with one measurement
        is told as `not_judged`.
        """
        stream, rows, now = turn.stream, turn.rows, turn.now
        still = own["phase"][stream.subject]
        if (compiled.rule.daily is not None or compiled.concerns.isdisjoint(turn.reached)) and (
            turn.only_measured or self._quiet(compiled, stream, own)
        ):
            return [], still
        agreed = evaluate.own_numbers(compiled, [row.resident for row in rows], turn.known)
        plain = turn.columns | agreed
        looked = await self._windows(connection, compiled, rows, plain, turn.source, stream, own)
        columns = plain | looked.columns
        weighed = None
        if turn.only_measured and not looked.failed.any():
            with contextlib.suppress(Exception):  # `judged` finds out on whom it raises
                weighed = evaluate.weigh(compiled, columns, turn.reached, own, stream.subject, agreed)
                if weighed is None:
                    return [], still
        if compiled.rule.daily is None:
            judged, failed = evaluate.judged(compiled, turn.source, columns, now, weighed)
        else:  # it waits for the end of the day
            judged, failed = np.zeros(len(rows), EVENT), np.zeros(len(rows), bool)
        events = self._events(compiled, stream, judged, turn.known, turn.offline, now)
        await self._last_measured(connection, compiled, stream, events)
        made = self._over(compiled, stream, events, turn.known, turn.days, own, now)
        if muting is not None:
            events["inhibited"] |= np.isin(muting, (Phase.PENDING, Phase.FIRING))
        moves, after = engine.run(compiled.timing, own, stream.subject, events)
        told: list[tuple[int, Change]] = []
        for at in np.flatnonzero((moves != Move.NONE) & (moves != Move.CLOSED)).tolist():
            number = at - stream.first
            stored = rows[number] if 0 <= number < len(rows) else None
            shown = {name: float(columns[name][number]) for name in (*compiled.rule.columns, *agreed)} if stored else made.get(at, {})
            inputs = looked.inputs.get(number, []) if stored else []
            if compiled.timing.session:  # what moved is the visit that is over, not the event that ended it
                stored, shown, inputs = await self._visit(connection, compiled, turn.known, own[stream.subject[at]], stream.names([at])[0])
            told.append((at, self._change(compiled, stream, at, Move(moves[at]), Phase(after[at]), stored, shown, inputs, now)))
        unknown = (events["hit"][stream.measured] == 0) & ~failed
        if not failed.any():  # a broken rule asks nobody for facts
            told += self._missing_facts(compiled, turn, columns, unknown)
        return told + self._not_judged(compiled, turn, failed | looked.failed), after

    @staticmethod
    def _quiet(compiled: Compiled, stream: Stream, state: Array) -> bool:
        """Nothing that came beside measurements can move this rule."""
        if compiled.rule.daily is not None and stream.days < len(stream.kinds):
            return False
        if compiled.rule.absence is not None or (compiled.by_symptoms and (stream.kinds == Kind.URGENT).any()):
            return False
        return not busy(state).any()

    async def _windows(
        self, connection: Connection, compiled: Compiled, rows: Sequence[Stored], plain: windows.Columns, source: Source,
        stream: Stream, state: Array,
    ) -> windows.Looked:  # fmt: skip
        """The columns of a rule that looks back."""
        if not compiled.rule.columns or compiled.rule.daily is not None:
            return windows.Looked({}, np.zeros(len(rows), bool), {})
        subject = stream.subject[stream.measured]
        return await windows.look(connection, compiled, rows, plain, source, subject, busy(state, subject))

    def _events(
        self, compiled: Compiled, stream: Stream, judged: Array, known: facts.People, offline: set[str], now: datetime
    ) -> Array:  # fmt: skip
        """The stream as one rule sees it."""
        events = np.zeros(len(stream.kinds), EVENT)
        events["kind"], events["valid"] = stream.kinds, True
        events["at"] = events["now"] = micros(now)
        events[stream.measured] = judged
        if compiled.rule.daily is not None:
            events["kind"][stream.measured] = Kind.PLAN
        if not compiled.by_symptoms:
            events["kind"][events["kind"] == Kind.URGENT] = Kind.PLAN
        if compiled.rule.absence is not None:
            others = np.flatnonzero(stream.kinds != Kind.MEASUREMENT)
            names = stream.names(others)
            about = evaluate.people(known, [resident_of(name) for name in names], [now] * len(names), self._zone)
            events["every"][others] = evaluate.expected(compiled, about)
            events["inhibited"][others] = [name in offline for name in names]
        return events

    @staticmethod
    async def _last_measured(connection: Connection, compiled: Compiled, stream: Stream, events: Array) -> None:
        """Timers of an absence rule bring along when the person was last measured."""
        ticks = np.flatnonzero(stream.kinds == Kind.TICK)
        if compiled.rule.absence is None or not len(ticks):
            return
        names = stream.names(ticks)
        found = await lookback.latest_of(connection, sorted(set(names)), sorted(compiled.concerns))
        events["at"][ticks] = [micros(found[name]) if name in found else 0 for name in names]

    async def _offline(self, connection: Connection, stream: Stream) -> set[str]:
        """People of whom a timer is due and whose devices cannot be heard: their silence says nothing of them."""
        ticked = stream.names(np.flatnonzero(stream.kinds == Kind.TICK))
        silent = any(compiled.rule.absence is not None for compiled in self._rules)
        return await lives.unheard(connection, sorted(set(ticked))) if ticked and silent else set()

    async def _days(self, connection: Connection, subjects: list[str], now: datetime) -> dict[str, daily.Series]:
        """What rules about trends look at, of people whose day is over: yesterday and the day before are written first."""
        if not subjects:
            return {}
        today = now.astimezone(self._zone).date()
        longest = max(compiled.look_back for compiled in self._of_days) if self._of_days else timedelta()
        await daily.write(connection, subjects, self._trends, today - timedelta(days=2), today, self._zone)
        return await daily.read(connection, subjects, today - longest, today)

    def _over(
        self, compiled: Compiled, stream: Stream, events: Array, known: facts.People, days: Mapping[str, daily.Series], state: Array,
        now: datetime,
    ) -> dict[int, dict[str, float]]:  # fmt: skip
        """The days that are over become events of a rule about trends; returns event → its columns."""
        if compiled.rule.daily is None:
            return {}
        made: dict[int, dict[str, float]] = {}
        yesterday = now.astimezone(self._zone).date() - timedelta(days=1)
        for at in range(stream.days, len(stream.kinds)):
            subject = stream.subjects[stream.subject[at]]
            own = state[stream.subject[at]]
            values = daily.days(days.get(subject, {}), compiled.rule.daily, compiled.rule.settings[0])
            if not values or values[-1].day != yesterday:
                continue
            about = evaluate.people(known, [resident_of(subject)], [now], self._zone)
            try:
                columns = evaluate.day_columns(compiled, values, evaluate.frozen_since(own, self._zone))
                one = about | {name: np.array([value]) for name, value in columns.items()}
                own_numbers = evaluate.own_numbers(compiled, [resident_of(subject)], known)
                one |= own_numbers
                event = evaluate.outcomes(compiled, evaluate.one_source(compiled, now), one, now)
            except Exception:  # one person's days are left out, nobody else's
                log.exception("a rule raised on somebody's days", extra={"rule": compiled.rule.id})
                metrics.rule_failed.labels(compiled.rule.id).inc()
                continue
            made[at] = columns | {name: float(values[0]) for name, values in own_numbers.items()}
            events[at : at + 1] = event
            events["late"][at] = False
        return made

    async def _visit(
        self, connection: Connection, compiled: Compiled, known: facts.People, state: Any, subject: str
    ) -> tuple[Stored | None, dict[str, float], list[int]]:  # fmt: skip
        """The last reading of the visit that a state counted last, its columns, and the readings of its session."""
        at = states.moment(int(state["last"]))
        found = await readings.of_subject(connection, subject, at, at + timedelta(microseconds=1), 1) if state["last"] else []
        if not found:
            return None, {}, []
        rows = [readings.stored_of(found[-1])]
        looked = await windows.columns(connection, compiled, rows, evaluate.make_columns(rows, known, self._zone), [0])
        told = looked.columns | evaluate.own_numbers(compiled, [rows[0].resident], known)
        return rows[0], {name: float(values[0]) for name, values in told.items()}, looked.inputs.get(0, [])

    async def _schedule_days(self, connection: Connection, batch: Batch, now: datetime) -> None:
        """Ask for a look at everybody's day when it is over; whom it was asked for is remembered until then."""
        if self._trends:
            told = {
                row.resident
                for row in batch.measurements
                if row.resident is not None
                and self._scheduled.get(row.resident, now) <= now
                and not self._trends.isdisjoint(row.measurement.values)
            }
            if told:
                await daily.schedule(connection, sorted(told), now, self._zone)
                if len(self._scheduled) + len(told) > facts.Known.MOST:
                    self._scheduled.clear()
                self._scheduled |= {subject: daily.due(subject, now, self._zone) for subject in told}

    def _change(
        self, compiled: Compiled, stream: Stream, at: int, move: Move, phase: Phase, stored: Stored | None, shown: dict[str, float],
        inputs: Sequence[int], now: datetime,
    ) -> Change:  # fmt: skip
        rule, why = compiled.rule, _WHY[move]
        deadline = now + timedelta(microseconds=compiled.timing.within) if why is Why.OPENED else None
        return Change(
            stream.subjects[stream.subject[at]], rule.family, rule.id, alerts.STATE_OF[phase], evaluate.severity_of(rule, move), why, now,
            measurement=stored.number if stored else None, deadline=deadline,
            explanation=wording.explain(compiled, why, stored, shown, inputs),
        )  # fmt: skip

    def _missing_facts(
        self, compiled: Compiled, turn: Turn, columns: windows.Columns, unknown: NDArray[np.bool_]
    ) -> list[tuple[int, Change]]:  # fmt: skip
        """The result was unknown, and only because a fact is not recorded: ask for it, one item for each person."""
        if not compiled.needs or compiled.rule.daily is not None or not unknown.any():
            return []
        asked = unknown & turn.source.person & compiled.allowed[turn.source.setting] & (compiled.when(columns) == 0)
        if compiled.applies is not None:
            asked &= compiled.applies(columns) >= (1 if compiled.timing.visits else 0)
        for name in compiled.metrics:
            asked &= ~np.isnan(columns[name])
        found: list[tuple[int, Change]] = []
        for number in np.flatnonzero(asked).tolist():
            missing = sorted(name for name in compiled.needs if np.isnan(columns[name][number]))
            if missing:
                item = ("missing_fact", "missing_fact", State.FIRING, Severity.P4, Why.OPENED, turn.now)
                change = Change(turn.rows[number].subject, *item, explanation=wording.ask(compiled, missing))
                found.append((turn.stream.first + number, change))
        return found

    def _not_judged(self, compiled: Compiled, turn: Turn, failed: NDArray[np.bool_]) -> list[tuple[int, Change]]:
        """The rule broke on these: a person looks at them instead, as urgently as the rule would have asked."""
        found: list[tuple[int, Change]] = []
        for number in np.flatnonzero(failed).tolist():
            row = turn.rows[number]
            if compiled.concerns.isdisjoint({*row.measurement.values, *row.measurement.codes}):
                continue  # it would have had nothing to say of this
            metrics.rule_failed.labels(compiled.rule.id).inc()
            item = ("not_judged", compiled.rule.id, State.FIRING, compiled.rule.severity, Why.OPENED, turn.now)
            told = wording.not_judged(compiled, row)
            found.append((turn.stream.first + number, Change(row.subject, *item, measurement=row.number, explanation=told)))
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


_RANK = np.array([0, 2, 3, 1], np.uint8)  # how much each phase mutes


def _worse(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(_RANK[other] > _RANK[one], other, one)
