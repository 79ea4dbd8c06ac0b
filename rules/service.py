"""The rules' step in the worker's transaction: events → outcomes → state → alert changes.

Everything that decides is in `rules.evaluate` and `rules.engine`; here it is fed and its conclusions are written. State is read for
the people of the batch and written back in the same transaction: memory holds nothing that a rollback or another worker could make
untrue (decision 14).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ingest import lives, readings
from ingest.batch import Batch, Event, Stored
from rules import alerts, daily, engine, evaluate, facts, in_force, reevaluate, states, windows, wording
from rules.condition import Ranges
from rules.evaluate import Compiled, Source, Weighed
from rules.pack import Pack
from rules.state import EVENT, Array, Kind, Move, Phase, busy
from vitals.alert import Change, Severity, State, Why
from vitals.errors import BadInput
from vitals.floor import metrics
from vitals.floor.columns import micros
from vitals.floor.database import Connection
from vitals.metric import METRICS

_WHY = {
    Move.OPENED: Why.OPENED, Move.CONFIRMED: Why.CONFIRMED, Move.DEADLINE: Why.DEADLINE, Move.UNVERIFIED: Why.UNVERIFIED,
    Move.URGENT: Why.URGENT, Move.LATE: Why.LATE, Move.REPEATED: Why.REPEATED, Move.NOT_CONFIRMED: Why.NOT_CONFIRMED,
    Move.APPENDED: Why.APPENDED, Move.CLEARED: Why.CLEARED, Move.AT_ONCE: Why.AT_ONCE, Move.WORSENED: Why.WORSENED,
    Move.SILENT: Why.SILENT,
}  # fmt: skip
HEARD = ("facts", "parameter", "pack")  # intake kinds that change what is concluded
_STATE = {Phase.NORMAL: State.CLEARED, Phase.PENDING: State.PENDING, Phase.FIRING: State.FIRING, Phase.UNCONFIRMED: State.UNCONFIRMED}


@dataclass(frozen=True)
class Stream:
    """The events of one transaction, in order: endings, reported symptoms, plans, measurements, due timers, days that are over.

    kinds, subject (n,): what each event is and whose (place in `subjects`). first: where measurements begin. days: where days begin.
    """

    subjects: list[str]
    kinds: NDArray[np.uint8]
    subject: NDArray[np.int64]
    first: int
    rows: int
    days: int

    @classmethod
    def of(cls, batch: Batch, urgent: Sequence[str], over: Sequence[str]) -> Stream:
        planned = [e.subject for e in batch.events if e.kind == "facts" and e.subject is not None]
        asked = [e.subject for e in batch.events if e.kind == "symptoms" and e.subject is not None]
        parts = (
            (Kind.END, [subject for subject, _ in batch.ended]), (Kind.URGENT, list(urgent)), (Kind.PLAN, planned),
            (Kind.MEASUREMENT, [row.subject for row in batch.measurements]), (Kind.TICK, batch.ticked), (Kind.PLAN, list(over)),
        )  # fmt: skip
        names = sorted({name for _, part in parts for name in part} | set(asked))
        place = {name: number for number, name in enumerate(names)}
        kinds = np.concatenate([np.full(len(part), kind, np.uint8) for kind, part in parts])
        first = sum(len(part) for _, part in parts[:3])
        rows = len(batch.measurements)
        subject = np.array([place[name] for _, part in parts for name in part], np.int64)
        return cls(names, kinds, subject, first, rows, first + rows + len(batch.ticked))

    @property
    def measured(self) -> slice:
        return slice(self.first, self.first + self.rows)

    def names(self, at: NDArray[np.int64] | list[int] | slice) -> list[str]:
        return [self.subjects[number] for number in self.subject[at]]


def resident_of(subject: str) -> str | None:
    return None if subject.startswith("device:") else subject


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
            await self._look_again(connection, batch, subject, numbers, now)
        if any(event.kind in HEARD for event in batch.events):
            self._known.forget()
            self._packs_seen = -1  # what was read here may be rolled back
        return await states.next_due(connection, batch.mine)

    async def _hear(self, connection: Connection, event: Event, now: datetime) -> None:
        """What people said that changes what is concluded. Raises BadInput."""
        match event.kind:
            case "facts" if event.subject is not None:
                await facts.record(connection, event.subject, event.body["facts"], event.account, now)
            case "parameter":
                await in_force.set_parameter(connection, self._packs, event.body, event.account, now)
            case "pack":
                await in_force.activate(connection, event.body, event.account, now)

    async def _look(self, connection: Connection) -> None:
        """Facts and packs as they are in this transaction."""
        await self._known.look(connection)
        if self._known.packs != self._packs_seen:
            self._use(in_force.together(self._shipped, await in_force.added(connection)))
            self._packs_seen = self._known.packs

    async def evaluate(self, connection: Connection, batch: Batch, now: datetime) -> None:
        """Everybody whom the batch concerns: state moves, and what is concluded is carried out."""
        urgent = [e.subject for e in batch.events if e.kind == "symptoms" and e.subject is not None and self.reported(e.body)]
        stream = Stream.of(batch, urgent, batch.over)
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
        family_phases: dict[str, NDArray[np.uint8]] = {}
        found: list[tuple[int, int, Change]] = []
        measured = {code for row in rows for code in (*row.measurement.values, *row.measurement.codes)}
        reached = evaluate.ranges(columns, sorted(measured & METRICS.keys()))
        only_measured = bool((stream.kinds == Kind.MEASUREMENT).all())
        for rank, compiled in enumerate(self._rules):
            own = state[compiled.rule.id]
            if (compiled.rule.daily is not None or compiled.concerns.isdisjoint(measured)) and (
                only_measured or self._quiet(compiled, stream, own)
            ):
                family_phases.setdefault(compiled.rule.family, own["phase"][stream.subject])
                continue
            agreed = evaluate.own_numbers(compiled, [row.resident for row in rows], known)
            plain = columns | agreed
            looked = await self._windows(connection, compiled, rows, plain, source, stream, own)
            columns_of = plain | looked.columns
            weighed = None
            if only_measured:
                quiet, weighed = self._weigh(compiled, columns_of, reached, own, stream.subject, agreed)
                if quiet:
                    family_phases.setdefault(compiled.rule.family, own["phase"][stream.subject])
                    continue
            if compiled.rule.daily is None:
                judged, failed = evaluate.judged(compiled, source, columns_of, now, weighed)
            else:  # it waits for the end of the day
                judged, failed = np.zeros(len(rows), EVENT), np.zeros(len(rows), bool)
            events = self._events(compiled, stream, judged, known, offline, now)
            await self._last_measured(connection, compiled, stream, events)
            made = self._over(compiled, stream, events, known, days, own, now)
            if compiled.rule.inhibited_by in family_phases:
                events["inhibited"] |= np.isin(family_phases[compiled.rule.inhibited_by], (Phase.PENDING, Phase.FIRING))
            moves, phases = engine.run(compiled.timing, own, stream.subject, events)
            before_now = family_phases.get(compiled.rule.family)
            family_phases[compiled.rule.family] = phases if before_now is None else _worse(before_now, phases)
            for at in np.flatnonzero((moves != Move.NONE) & (moves != Move.CLOSED)).tolist():
                number = at - stream.first
                stored = rows[number] if 0 <= number < len(rows) else None
                wanted = [*compiled.rule.columns, *agreed]
                shown = {name: float(columns_of[name][number]) for name in wanted} if stored else made.get(at, {})
                inputs = looked.inputs.get(number, []) if stored else []
                if compiled.timing.session:  # what moved is the visit that is over, not the event that ended it
                    stored, shown, inputs = await self._visit(connection, compiled, known, own[stream.subject[at]], stream.names([at])[0])
                told = self._change(compiled, stream, at, Move(moves[at]), Phase(phases[at]), stored, shown, inputs, now)
                found.append((at, rank, told))
            unknown = events["hit"][stream.measured] == 0
            found += self._missing_facts(compiled, rank, rows, source, columns_of, unknown & ~failed, stream.first, now)
            found += self._not_judged(compiled, rank, rows, failed | looked.failed, stream.first, now)
        await states.write(connection, stream.subjects, before, state)
        await self.carry_out(connection, batch, [change for _at, _rank, change in sorted(found, key=lambda item: item[:2])])
        await self._settle_missing_facts(connection, batch, known, now)
        await self._schedule_days(connection, batch, now)

    @staticmethod
    def _weigh(
        compiled: Compiled, columns: windows.Columns, reached: Ranges, state: Array, subject: NDArray[np.int64], agreed: Collection[str]
    ) -> tuple[bool, Weighed | None]:
        """Whether measurements alone can move nothing, and else what they say."""
        try:
            found = evaluate.weigh(compiled, columns, reached, state, subject, agreed)
        except Exception:  # noqa: BLE001  `judged` finds out on whom
            return False, None
        return found is None, found

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
        found = await readings.latest_of(connection, sorted(set(names)), sorted(compiled.concerns))
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
            made[at] = columns = evaluate.day_columns(compiled, values, evaluate.frozen_since(own, self._zone))
            one = about | {name: np.array([value]) for name, value in columns.items()}
            one |= evaluate.own_numbers(compiled, [resident_of(subject)], known)
            source = evaluate.one_source(compiled, now)
            judged, failed = evaluate.judged(compiled, source, one, now)
            if failed.any():
                metrics.rule_failed.labels(compiled.rule.id).inc()
            events[at : at + 1] = judged
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
        return rows[0], {name: float(values[0]) for name, values in looked.columns.items()}, looked.inputs.get(0, [])

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
                batch.undo.append(self._scheduled.clear)
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
            stream.subjects[stream.subject[at]], rule.family, rule.id, _STATE[phase], evaluate.severity_of(rule, move), why, now,
            measurement=stored.number if stored else None, deadline=deadline,
            explanation=wording.explain(compiled, why, stored, shown, inputs),
        )  # fmt: skip

    def _missing_facts(
        self, compiled: Compiled, rank: int, rows: list[Stored], source: Source, columns: windows.Columns, unknown: NDArray[np.bool_],
        first: int, now: datetime,
    ) -> list[tuple[int, int, Change]]:  # fmt: skip
        """The result was unknown, and only because a fact is not recorded: ask for it, one item for each person."""
        if not compiled.needs or compiled.rule.daily is not None or not unknown.any():
            return []
        asked = unknown & source.person & compiled.allowed[source.setting] & (compiled.when(columns) == 0)
        if compiled.applies is not None:
            asked &= compiled.applies(columns) >= (1 if compiled.timing.visits else 0)
        for name in compiled.metrics:
            asked &= ~np.isnan(columns[name])
        found: list[tuple[int, int, Change]] = []
        for number in np.flatnonzero(asked).tolist():
            missing = sorted(name for name in compiled.needs if np.isnan(columns[name][number]))
            if missing:
                told = wording.ask(compiled, missing)
                item = ("missing_fact", "missing_fact", State.FIRING, Severity.P4, Why.OPENED, now)
                found.append((first + number, rank + 1000, Change(rows[number].subject, *item, explanation=told)))
        return found

    def _not_judged(
        self, compiled: Compiled, rank: int, rows: list[Stored], failed: NDArray[np.bool_], first: int, now: datetime
    ) -> list[tuple[int, int, Change]]:  # fmt: skip
        """The rule broke on these: a person looks at them instead, as urgently as the rule would have asked."""
        found: list[tuple[int, int, Change]] = []
        for number in np.flatnonzero(failed).tolist():
            measurement = rows[number].measurement
            if compiled.metrics and compiled.metrics.isdisjoint({*measurement.values, *measurement.codes}):
                continue  # it would have had nothing to say of this
            metrics.rule_failed.labels(compiled.rule.id).inc()
            item = ("not_judged", compiled.rule.id, State.FIRING, compiled.rule.severity, Why.OPENED, now)
            told = wording.not_judged(compiled, rows[number])
            change = Change(rows[number].subject, *item, measurement=rows[number].number, explanation=told)
            found.append((first + number, rank + 1000, change))
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

    async def _look_again(self, connection: Connection, batch: Batch, subject: str, taken: set[int], now: datetime) -> None:
        """Measurements were taken away from this subject: put its state right, and the alerts that rested on them."""
        past = await reevaluate.past(connection, subject, now, self.reported)
        rows = [readings.stored_of(row) for row in past.rows]
        known = await self._known.of(connection, [subject])
        columns, source = evaluate.make_columns(rows, known, self._zone), evaluate.make_source(rows)
        stored_at = np.array([micros(row["stored_at"]) for row in past.rows], np.int64)
        old = await states.read(connection, [subject], [compiled.rule.id for compiled in self._rules])
        new: dict[str, Array] = {}
        phases: dict[str, NDArray[np.uint8]] = {}
        today = now.astimezone(self._zone).date()
        if self._trends and resident_of(subject) is not None:
            await daily.write(connection, [subject], self._trends, today - timedelta(days=90), today, self._zone)
            await daily.schedule(connection, [subject], now, self._zone)
        for compiled in self._rules:
            plain = columns | evaluate.own_numbers(compiled, [row.resident for row in rows], known)
            if compiled.rule.daily is not None:
                new[compiled.rule.id] = old[compiled.rule.id]  # looked at again when this day is over
                continue
            asked = np.flatnonzero(windows.worth(compiled, plain, source.setting)).tolist() if compiled.rule.columns else []
            looked = await windows.columns(connection, compiled, rows, plain, asked)
            events, _ = evaluate.judged(compiled, source, plain | looked.columns, now)
            events["now"] = stored_at
            events["late"] = source.synced & (source.at < stored_at - compiled.late_after // timedelta(microseconds=1))
            muted = phases.get(compiled.rule.inhibited_by or "")
            inhibited = None if muted is None else np.isin(muted, (Phase.PENDING, Phase.FIRING))
            about = evaluate.people(known, [resident_of(subject)], [now], self._zone)
            every = int(np.max(evaluate.expected(compiled, about)))
            moments = past if compiled.by_symptoms else past._replace(urgent=[])
            new[compiled.rule.id], after = reevaluate.replay(compiled.timing, events, moments, inhibited, every, micros(now))
            phases[compiled.rule.family] = after
        await states.write(connection, [subject], old, new)
        concluded = {compiled.rule.id: compiled for compiled in self._rules}
        for row in await alerts.open_of(connection, [subject]):
            owners = [concluded[rule] for rule in row["reasons"] if rule in concluded and concluded[rule].rule.daily is None]
            if owners and await alerts.rests_on(connection, row["alert"], taken):
                for owner in owners:
                    await self._put_right(connection, batch, row, owner, new[owner.rule.id], taken, now)

    async def _put_right(
        self, connection: Connection, batch: Batch, row: dict[str, Any], compiled: Compiled, state: Array, taken: set[int], now: datetime
    ) -> None:
        """Move an open alert to what is left of it: nothing (retracted), or what the remaining measurements say."""
        phase = Phase(int(state["phase"][0]))
        gone = {"taken": sorted(taken), "zh": "所依据的读数已归属他人", "en": "what it was concluded from is somebody else's"}
        told = {"retraction": gone}
        was = row["reasons"][compiled.rule.id]
        severity = Severity(was["severity"])
        if phase is Phase.NORMAL:
            change = Change(row["subject"], row["family"], compiled.rule.id, State.CLEARED, severity, Why.RETRACTED, now, explanation=told)
        else:
            # a person may have been paged: a firing alert stays firing while anything of it is left
            left = State.FIRING if was["state"] == State.FIRING else _STATE[phase]
            deadline = reevaluate.deadline_of(state)
            change = Change(
                row["subject"], row["family"], compiled.rule.id, left, severity, Why.REEVALUATED, now, deadline=deadline, explanation=told
            )
        moved = await alerts.move(connection, change)
        if moved is not None:
            batch.changes.append(moved)


_RANK = np.array([0, 2, 3, 1], np.uint8)  # how much each phase mutes


def _worse(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(_RANK[other] > _RANK[one], other, one)
