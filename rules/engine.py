"""The engine: outcomes and clock ticks move the state of each (subject, rule), vectorised over subjects.

State is a structured array, one row per subject; events come in stream order and are applied in rounds, the k-th
event of every subject in the k-th round. `rules.reference` says the same in plain Python; a property test holds
them together. Times are integers, µs since the epoch.

Phases of a confirming rule: normal → pending → firing | unconfirmed → … as drawn in `vitals.alert`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rules import reference
from rules.state import SESSION_GAP, STATE, Array, Kind, Move, Phase, Timing, busy

FEW = 12  # events that are moved faster one by one than all at once

# class attributes of enums are slow to read in an inner loop
_MEASUREMENT, _TICK, _URGENT, _END, _PLAN = (np.uint8(kind) for kind in Kind)
_NORMAL, _PENDING, _FIRING, _UNCONFIRMED = (np.uint8(phase) for phase in Phase)
_CONFIRM_MOVES = [np.uint8(move) for move in (
    Move.URGENT, Move.WORSENED, Move.LATE, Move.AT_ONCE, Move.UNVERIFIED, Move.OPENED,
    Move.CONFIRMED, Move.APPENDED, Move.NOT_CONFIRMED, Move.CLEARED, Move.UNVERIFIED, Move.DEADLINE, Move.CLOSED,
)]  # fmt: skip
_VISIT_MOVES = [np.uint8(move) for move in (Move.REPEATED, Move.APPENDED, Move.CLEARED, Move.CLOSED)]
_ABSENCE_MOVES = [np.uint8(move) for move in (Move.SILENT, Move.WORSENED, Move.CLEARED, Move.CLOSED)]


def run(
    timing: Timing, state: Array, subject: NDArray[np.int64], events: Array, few: int = FEW
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Apply events (n,) of subjects (n,) to state (m,), in place; returns moves (n,) and the phase after each (n,).

    So few that can do anything are moved by the reference itself.
    """
    moves = np.zeros(len(events), np.uint8)
    phases = np.zeros(len(events), np.uint8)
    step = _absent if timing.misses else _consecutive if timing.visits else _confirm
    order = _awake(timing, state, subject, events)
    order = order[np.argsort(subject[order], kind="stable")]
    if len(order) <= few:
        for at in order.tolist():
            place = subject[at]
            after, move = reference.advance(timing, reference.state_of(state[place]), reference.event_of(events[at]))
            state[place] = reference.as_row(after)
            moves[at], phases[at] = move, after.phase
        return moves, phases
    ranked = subject[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, np.int64)
    rank = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.r_[starts, len(ranked)]))
    for turn in range(int(rank.max()) + 1 if len(rank) else 0):
        at = order[rank == turn]
        rows = state[subject[at]]  # a copy; each subject at most once in a round
        moves[at] = step(timing, rows, events[at])
        state[subject[at]] = rows
        phases[at] = rows["phase"]
    return moves, phases


def _awake(timing: Timing, state: Array, subject: NDArray[np.int64], events: Array) -> NDArray[np.int64]:
    """Places of the events that can do something: of subjects with a state, or with anything but misses, ticks and endings.

    Where nothing is remembered nothing can be missed, fall due or end; that is nearly everybody nearly always.
    """
    able = np.flatnonzero((events["kind"] != _MEASUREMENT) | (events["hit"] != 0))
    e, who = events[able], subject[able]
    if timing.misses:
        # who measured is asked when a timer falls due; a measurement only ends a silence
        plan = (e["kind"] != _MEASUREMENT) & ((e["every"] > 0) | (state["last"][who] != 0))
        live = plan | ((e["kind"] == _MEASUREMENT) & (e["hit"] == 1) & busy(state, who))
    else:
        live = ((e["kind"] == _MEASUREMENT) & (e["hit"] == 1)) | (e["kind"] == _URGENT) | busy(state, who)
    if not live.any():
        return np.zeros(0, np.int64)
    marked = np.zeros(len(state), bool)
    marked[who[live]] = True
    return np.flatnonzero(marked[subject])


def _confirm(timing: Timing, s: Array, e: Array) -> NDArray[np.uint8]:
    """One event each for different subjects of a confirming rule; changes `s`."""
    measured = e["kind"] == _MEASUREMENT
    normal, pending = s["phase"] == _NORMAL, s["phase"] == _PENDING
    firing, unconfirmed = s["phase"] == _FIRING, s["phase"] == _UNCONFIRMED
    hit, miss = measured & (e["hit"] == 1), measured & (e["hit"] == -1)
    reported = e["kind"] == _URGENT
    urgent = (hit & e["urgent"]) | reported
    gap = np.abs(e["at"] - s["first"])
    is_repeat = e["valid"] & (gap >= timing.apart) & (gap <= timing.within)
    due = (e["kind"] == _TICK) & (s["deadline"] > 0) & (e["now"] >= s["deadline"])

    rush = urgent & ~firing
    worsened = urgent & firing & ~s["urgent"]
    late = hit & ~urgent & e["late"] & (normal | unconfirmed)
    begun = hit & ~urgent & ~e["late"] & (normal | unconfirmed)
    at_once, opened = (begun, begun & False) if timing.within == 0 else (begun & False, begun)
    confirmed = hit & ~urgent & pending & is_repeat
    trusted = hit & ~urgent & pending & ~is_repeat & e["valid"] & s["weak"]
    appended = (hit & ~urgent & pending & ~is_repeat) | ((hit | reported) & firing & ~worsened)
    refuted = miss & pending & is_repeat & (e["at"] > s["first"])
    calmer = miss & firing & e["valid"] & (e["at"] > s["last"])
    calm = calmer & (e["clear"] == 1)
    counted = calm & ((s["clears"] == 0) | (e["at"] - s["last_clear"] >= SESSION_GAP))
    relapse = calmer & (e["clear"] != 1)
    unverified, expired = due & pending & s["weak"], due & pending & ~s["weak"]
    ended = (e["kind"] == _END) & ~normal

    s["clears"][counted] += 1
    s["last_clear"][counted] = e["at"][counted]
    held_until = s["last"] + timing.keep_firing
    enough = firing & (s["clears"] >= timing.sessions)
    cleared = enough & ((counted & (e["now"] >= held_until)) | due)
    s["deadline"] = np.where(enough & counted & ~cleared, held_until, s["deadline"])

    moves = np.select(
        [rush, worsened, late, at_once & e["valid"], at_once, opened, confirmed, appended, refuted, cleared, unverified, expired, ended],
        _CONFIRM_MOVES,
        0,
    ).astype(np.uint8)  # fmt: skip

    fires = rush | late | at_once | confirmed | unverified | expired
    s["phase"] = np.select([fires, opened, refuted, cleared | ended], [_FIRING, _PENDING, _UNCONFIRMED, _NORMAL], s["phase"])
    begins = opened | at_once | ((rush | late) & ~pending)
    s["first"] = np.where(begins | trusted, e["at"], s["first"])
    s["urgent"] = np.where(begins, rush, s["urgent"] | rush | worsened)
    s["last"] = np.where(begins, e["at"], np.where(hit | reported, np.maximum(s["last"], e["at"]), s["last"]))
    s["weak"] = np.where(begins, ~e["valid"], np.where(trusted | confirmed, False, s["weak"]))
    s["deadline"] = np.where(
        opened, e["now"] + timing.within, np.where(fires | refuted | relapse | (firing & (appended | worsened)), 0, s["deadline"])
    )
    fresh = fires | opened | relapse | (firing & (appended | worsened))
    s["clears"] = np.where(fresh, 0, s["clears"])
    s[cleared | ended] = np.zeros(1, STATE)[0]
    return moves


def _consecutive(timing: Timing, s: Array, e: Array) -> NDArray[np.uint8]:
    """One event each for different subjects of a consecutive rule; weak sources do not count either way.

    With sessions, `clears` holds what the open one says so far (1 hit, 2 miss) and `last_clear` its latest reading; it counts once the
    session is over: at its deadline, or when a reading of another session comes first.
    """
    measured = (e["kind"] == _MEASUREMENT) & e["valid"] & (e["hit"] != 0)
    verdict = np.where(measured, np.where(e["hit"] == 1, 1, 2), 0)
    at = e["at"]
    if timing.session:
        due = (e["kind"] == _TICK) & (s["deadline"] > 0) & (e["now"] >= s["deadline"])
        apart = e["at"] - s["last_clear"]
        another = measured & (s["clears"] > 0) & (apart > timing.session)
        over = due | another
        opens = measured & ((s["clears"] == 0) | (apart >= -timing.session))
        opens &= (verdict == 1) | busy(s)  # a good visit after nothing is nothing
        said, said_at = verdict.copy(), at.copy()
        verdict, at = np.where(over, s["clears"], 0), s["last_clear"].copy()
    firing = s["phase"] == _FIRING
    hit, miss = verdict == 1, (verdict == 2) & (at > s["last"])
    counted = hit & ((s["count"] == 0) | (at - s["last"] >= timing.apart))
    s["count"][counted] = np.minimum(s["count"][counted] + 1, 1000)
    s["last"][counted] = at[counted]
    fires = hit & ~firing & (s["count"] >= timing.visits) & ~e["inhibited"]
    appended = counted & firing
    cleared = miss & firing
    ended = (e["kind"] == _END) & firing
    moves = np.select([fires, appended, cleared, ended], _VISIT_MOVES, 0).astype(np.uint8)
    s["phase"][fires] = _FIRING
    s[miss | ended] = np.zeros(1, STATE)[0]
    if timing.session:
        s["clears"] = np.where(opens, said, np.where(over, 0, s["clears"]))
        s["last_clear"] = np.where(opens, said_at, np.where(over, 0, s["last_clear"]))
        s["deadline"] = np.where(opens, e["now"] + timing.session, np.where(over, 0, s["deadline"]))
    return moves


def _absent(timing: Timing, s: Array, e: Array) -> NDArray[np.uint8]:
    """One event each for different subjects of an absence rule: silence counts from the last measurement, or from the plan.

    While all is well nothing is written: a timer that falls due brings the time of the last measurement with it (`at`).
    """
    assert timing.misses is not None
    misses, worse = timing.misses
    every, now = e["every"], e["now"]
    planned, firing = every > 0, s["phase"] == _FIRING
    measured = planned & firing & (e["kind"] == _MEASUREMENT) & (e["hit"] == 1) & (e["at"] > s["last"])
    due = planned & (e["kind"] == _TICK) & (s["deadline"] > 0) & (now >= s["deadline"])
    withdrawn = ~planned & ((e["kind"] != _MEASUREMENT) | ((e["hit"] == 1) & firing))
    ended = (e["kind"] == _END) & firing
    begins = planned & (((e["kind"] == _PLAN) & (s["last"] == 0)) | ended)
    s["last"] = np.select([measured | (due & (e["at"] > s["last"])), begins], [e["at"], now], s["last"])
    quiet_until = s["last"] + np.where(firing, worse, misses) * every
    lapsed = due & (quiet_until <= now)
    silent, worsened = lapsed & ~e["inhibited"] & ~firing, lapsed & ~e["inhibited"] & firing & ~s["urgent"]
    cleared = firing & (withdrawn | (measured & (e["at"] + misses * every > now)))
    moves = np.select([silent, worsened, cleared, ended], _ABSENCE_MOVES, 0).astype(np.uint8)
    s["first"] = np.where(silent, now, s["first"])
    s["phase"] = np.select([silent, cleared | ended], [_FIRING, _NORMAL], s["phase"])
    s["urgent"] = (s["urgent"] | worsened) & ~cleared & ~ended
    counted = s["last"] + np.where(s["phase"] == _FIRING, worse, misses) * every
    anew = measured | begins | due | (planned & (e["kind"] == _PLAN))
    waits = np.where(lapsed & e["inhibited"], now + every, np.where(anew, counted, s["deadline"]))
    s["deadline"] = np.where(s["urgent"], 0, waits)
    s[withdrawn] = np.zeros(1, STATE)[0]
    return moves
