"""Looking again: what the rules would have concluded about somebody without the measurements that were taken away.

Everything that moved a subject's state is committed: measurements with the time they were stored, reported symptoms, episodes
that people ended, deadlines that follow from the state itself. Played again in that order they give the state as it should be;
the open alert is then moved to it. A person who was paged is never un-paged: a firing alert ends only if nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ingest import readings
from rules import alerts, evaluate, facts, states, windows
from rules.engine import run
from rules.evaluate import Compiled
from rules.state import EVENT, STATE, Array, Kind, Phase, Timing
from rules.states import moment
from rules.stream import resident_of
from vitals.alert import Change, Severity, State, Why
from vitals.floor.columns import micros
from vitals.floor.database import Connection

BACK = timedelta(days=400)
MOST = 20_000  # measurements of one person that are looked at


class Past(NamedTuple):
    """What happened to one subject: measurements' rows in stream order, and moments (µs) of symptoms, endings and plans."""

    rows: list[dict[str, Any]]
    urgent: list[int]
    ended: list[int]
    planned: list[int]


async def past(connection: Connection, subject: str, now: datetime, reported: Callable[[dict[str, Any]], set[str]]) -> Past:
    """Everything committed that may have moved the subject's state."""
    rows = await readings.of_subject(connection, subject, now - BACK, now + timedelta(days=1), MOST)
    cursor = await connection.execute(
        "select body, applied_at from intake where kind = 'symptoms' and subject = %s and applied_at is not null order by intake",
        (subject,),
    )
    urgent = [micros(row["applied_at"]) for row in await cursor.fetchall() if reported(row["body"])]
    cursor = await connection.execute("select distinct ended_at from alert where subject = %s and state = %s", (subject, State.CLOSED))
    ended = sorted(micros(row["ended_at"]) for row in await cursor.fetchall())
    cursor = await connection.execute(
        "select distinct recorded_at from subject_fact where subject = %s and fact like '%%\\_every\\_days'", (subject,)
    )
    planned = sorted(micros(row["recorded_at"]) for row in await cursor.fetchall())
    return Past(sorted(rows, key=lambda row: (row["stored_at"], row["measurement"])), urgent, ended, planned)


def replay(
    timing: Timing, events: Array, past: Past, inhibited: NDArray[np.bool_] | None, every: int, now: int
) -> tuple[Array, NDArray[np.uint8]]:
    """State (1,) after all of it, and the phase after each measurement (n,). events: measurements in stream order.

    Deadlines fall due between the events, as the clock would have had it. every: what is expected of the person now, µs.
    """
    state = np.zeros(1, STATE)
    phases = np.zeros(len(events), np.uint8)
    timeline = [(int(events["now"][n]), 2, n) for n in range(len(events))]
    kinds = (Kind.END, Kind.URGENT, Kind.MEASUREMENT, Kind.PLAN)
    timeline += [(at, 0, -1) for at in past.ended] + [(at, 1, -1) for at in past.urgent] + [(at, 3, -1) for at in past.planned]
    last = 0  # when what is expected was measured last
    for at, order, number in sorted(timeline):
        _tick(timing, state, at, every, last)
        if number >= 0:
            one = events[number : number + 1].copy()
            if one["hit"][0] == 1:
                last = max(last, int(one["at"][0]))
            if inhibited is not None:
                one["inhibited"] = inhibited[number]
        else:
            one = _event(kinds[order], at, every)
        _, after = run(timing, state, np.zeros(1, np.int64), one)
        if number >= 0:
            phases[number] = after[0]
    _tick(timing, state, now, every, last)
    return state, phases


def _tick(timing: Timing, state: Array, until: int, every: int, last: int) -> None:
    for _ in range(100):  # a deadline may set another one
        due = int(state["deadline"][0])
        if not 0 < due <= until:
            return
        tick = _event(Kind.TICK, due, every)
        if timing.misses:
            tick["at"] = last
        run(timing, state, np.zeros(1, np.int64), tick)


def _event(kind: Kind, at: int, every: int) -> Array:
    event = np.zeros(1, EVENT)
    event["kind"], event["at"], event["now"], event["valid"], event["every"] = kind, at, at, True, every
    return event


def deadline_of(state: Array) -> datetime | None:
    """When a pending state fires by itself."""
    pending = state["phase"][0] == Phase.PENDING and state["deadline"][0] > 0
    return moment(int(state["deadline"][0])) if pending else None


async def look_again(
    connection: Connection, rules: Sequence[Compiled], known: facts.People, zone: ZoneInfo, subject: str, before: Past, taken: set[int],
    now: datetime,
) -> list[Change]:  # fmt: skip
    """Measurements were taken away from this subject: put its state right, and the alerts that rested on them. Rules about trends
    look again when this day is over."""
    judging = [compiled for compiled in rules if compiled.rule.daily is None]
    rows = [readings.stored_of(row) for row in before.rows]
    columns, source = evaluate.make_columns(rows, known, zone), evaluate.make_source(rows)
    stored_at = np.array([micros(row["stored_at"]) for row in before.rows], np.int64)
    old = await states.read(connection, [subject], [compiled.rule.id for compiled in judging])
    new: dict[str, Array] = {}
    phases: dict[str, NDArray[np.uint8]] = {}
    about = evaluate.people(known, [resident_of(subject)], [now], zone)
    for compiled in judging:
        plain = columns | evaluate.own_numbers(compiled, [row.resident for row in rows], known)
        asked = np.flatnonzero(windows.worth(compiled, plain, source.setting)).tolist() if compiled.rule.columns else []
        looked = await windows.columns(connection, compiled, rows, plain, asked)
        events, _ = evaluate.judged(compiled, source, plain | looked.columns, now)
        events["now"] = stored_at
        events["late"] = source.synced & (source.at < stored_at - compiled.late_after // timedelta(microseconds=1))
        muted = phases.get(compiled.rule.inhibited_by or "")
        inhibited = None if muted is None else np.isin(muted, (Phase.PENDING, Phase.FIRING))
        every = int(np.max(evaluate.expected(compiled, about)))
        moments = before if compiled.by_symptoms else before._replace(urgent=[])
        new[compiled.rule.id], phases[compiled.rule.family] = replay(compiled.timing, events, moments, inhibited, every, micros(now))
    await states.write(connection, [subject], old, new)
    changes: list[Change] = []
    for row in await alerts.open_of(connection, [subject]):
        reasons = [rule for rule in row["reasons"] if rule in new]
        if reasons and await alerts.rests_on(connection, row["alert"], taken):
            for rule in reasons:
                moved = await alerts.move(connection, _put_right(row, rule, new[rule], taken, now))
                changes += [moved] if moved is not None else []
    return changes


def _put_right(row: dict[str, Any], rule: str, state: Array, taken: set[int], now: datetime) -> Change:
    """What becomes of one reason of an open alert: nothing (retracted), or what the remaining measurements say."""
    phase = Phase(int(state["phase"][0]))
    gone = {"taken": sorted(taken), "zh": "所依据的读数已归属他人", "en": "what it was concluded from is somebody else's"}
    told = {"retraction": gone}
    was = row["reasons"][rule]
    severity = Severity(was["severity"])
    if phase is Phase.NORMAL:
        return Change(row["subject"], row["family"], rule, State.CLEARED, severity, Why.RETRACTED, now, explanation=told)
    # a person may have been paged: a firing alert stays firing while anything of it is left
    left = State.FIRING if was["state"] == State.FIRING else alerts.STATE_OF[phase]
    return Change(
        row["subject"], row["family"], rule, left, severity, Why.REEVALUATED, now, deadline=deadline_of(state), explanation=told
    )  # fmt: skip
