"""The oracle: what the pack and the engine mean, in plain Python, one subject and one event at a time.

Written to be read next to the guideline, not to be fast; the engine lets it move what is too
little to be worth an array. `tests/rules` holds the vectorised path to it on random
and boundary input. True, False and None (unknown) here; 1, -1 and 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rules import tables
from rules.condition import DUST, Condition, Terms
from rules.state import SESSION_GAP, Kind, Move, Phase, Timing
from rules.tables import Table

Row = Mapping[str, Any]  # column → number, word, or None where it is unknown


def holds(condition: Condition, row: Row, terms: Terms) -> bool | None:
    """Whether a condition holds for one row; None when a missing fact leaves it open."""
    (key, value), *_ = condition.items()
    if key == "any":
        parts = [holds(part, row, terms) for part in value]
        return True if True in parts else None if None in parts else False
    if key == "all":
        parts = [holds(part, row, terms) for part in value]
        return False if False in parts else None if None in parts else True
    if key == "not":
        inner = holds(value, row, terms)
        return None if inner is None else not inner
    if key == "certain":
        return holds(value, row, terms) is True
    if key == "measured":
        return row.get(value) is not None
    if key == "class":
        rows, label = terms.class_rows(value)
        found = _possible(rows, row, terms)
        return None if len(found) > 1 and label in found else bool(found == [label])
    if isinstance(value, dict) and "any_of" in value:
        return holds({"any": [{f"{key}.{member}": True} for member in value["any_of"]]}, row, terms)
    number = row.get(key)
    if number is None:
        return None
    if isinstance(value, bool):
        return bool((number >= 0.5) == value)
    grid = terms.grids.get(key, 0)
    if grid and math.isfinite(number):
        number = math.floor(number / grid + 0.5 + DUST)  # whole steps
    for comparator, limit in value.items():
        if comparator in ("is", "in"):
            if not isinstance(number, str):
                return None
            if number not in ([limit] if comparator == "is" else limit):
                return False
            continue
        own = row.get(limit) if isinstance(limit, str) else None  # this person's own parameter
        exact = terms.number(limit) if own is None else own
        bound = round(exact / grid, 9) if grid else exact
        assert not isinstance(number, str)
        if not {"ge": number >= bound, "gt": number > bound, "le": number <= bound, "lt": number < bound}[comparator]:
            return False
    return True


def _possible(rows: Sequence[Mapping[str, Any]], row: Row, terms: Terms) -> list[Any]:
    """The labels that may be the first to hold, each once; None among them where it may be none at all."""
    found: list[Any] = []
    for line in rows:
        guard = holds(line["when"], row, terms) if "when" in line else True
        if guard is not False and line["is"] not in found:
            found.append(line["is"])
        if guard is True:
            return found
    return found if None in found else [*found, None]


def output(form: str, what: Any, row: Row, terms: Terms) -> Any:
    """What one output of a table is for one row; None where it is unknown."""
    match form:
        case "bands":
            return _band(what, row)
        case "highest":
            found = [_band(one, row) for one in what["of"]]
            top = max((what["order"].index(label) for label in found if label is not None), default=-1)
            return what["order"][top] if top >= 0 and (None not in found or top == len(what["order"]) - 1) else None
        case "first":
            possible = _possible(what, row, terms)
            return possible[0] if len(possible) == 1 else None
        case "holds":
            return holds(what, row, terms)
        case "value":
            return row.get(what)
        case "either":
            return next((row[column] for column in what if row.get(column) is not None), None)
        case "group":
            return {name: output(*tables.only(part), row, terms) for name, part in what.items()}
    return [name for part in what for name in _named(part, row, terms)]


def _band(what: Mapping[str, Any], row: Row) -> Any:
    value = row.get(what["of"])
    if value is None:
        return None
    label = what["cuts"][0]
    for cut, above in zip(what["cuts"][1::2], what["cuts"][2::2], strict=True):
        if value > cut or (value == cut and what.get("closed") != "upper"):
            label = above
    return label


def _named(part: Mapping[str, Any], row: Row, terms: Terms) -> list[str]:
    (name, what), *_ = part.items()
    if name == "any_of":
        ((column, members),) = what.items()
        return [member for member in members if holds({f"{column}.{member}": True}, row, terms)]
    return [name] if holds(what, row, terms) else []


def evaluate(table: Table, rows: Sequence[Row], terms: Terms) -> list[dict[str, Any]]:
    """What `rules.tables.evaluate` says, one row after the other."""
    results = []
    for given in rows:
        row: dict[str, Any] = dict(given)
        found: dict[str, Any] = {}
        for name, written in table.outputs.items():
            form, what = tables.only(written)
            if form in tables.LATE:
                continue
            if form == "sum":
                found[name] = tables.total(found[what], tables.ranges_of(table.outputs[what]["group"]), written.get("missing", ""))
            elif form == "absent":
                found[name] = [part for part, value in found[what].items() if value is None]
            else:
                found[name] = output(form, what, row, terms)
            if form == "group":
                row[f"{name}.highest"] = max((part for part in found[name].values() if part is not None), default=None)
            else:
                row[name] = found[name]
        outside = bool(table.scope) and holds(table.scope, given, terms) is False
        results.append(dict.fromkeys(found) if outside else found)
    return results


@dataclass(frozen=True)
class State:
    """One subject's state of one rule; the fields are those of `rules.state.STATE`, in its order."""

    phase: int = Phase.NORMAL
    clears: int = 0
    count: int = 0
    weak: bool = False
    urgent: bool = False
    first: int = 0
    last: int = 0
    deadline: int = 0
    last_clear: int = 0


@dataclass(frozen=True)
class Event:
    """One event; hit and clear are True, False or None."""

    kind: Kind
    at: int
    now: int
    hit: bool | None = None
    clear: bool | None = None
    valid: bool = True
    urgent: bool = False
    late: bool = False
    inhibited: bool = False
    every: int = 0


_TRUTH = {1: True, 0: None, -1: False}


def state_of(row: Any) -> State:
    """A row of `rules.state.STATE`."""
    return State(*row.item())


def as_row(state: State) -> tuple[Any, ...]:
    return tuple(state.__dict__.values())


def event_of(row: Any) -> Event:
    """A row of `rules.state.EVENT`."""
    kind, hit, clear, valid, urgent, late, inhibited, at, now, every = row.item()
    return Event(kind, at, now, _TRUTH[hit], _TRUTH[clear], valid, urgent, late, inhibited, every)


def advance(timing: Timing, state: State, event: Event) -> tuple[State, Move]:
    """The state after one event, and what happened."""
    if timing.misses:
        return _absent(timing.misses, state, event)
    return _consecutive(timing, state, event) if timing.visits else _confirm(timing, state, event)


def _confirm(timing: Timing, state: State, event: Event) -> tuple[State, Move]:
    match event.kind:
        case Kind.PLAN:
            return state, Move.NONE
        case Kind.END:
            return (State(), Move.CLOSED) if state.phase != Phase.NORMAL else (state, Move.NONE)
        case Kind.TICK:
            return _on_tick(timing, state, event)
        case Kind.URGENT:
            return _on_hit(timing, state, event, urgent=True)
    if event.hit is True:
        return _on_hit(timing, state, event, urgent=event.urgent)
    if event.hit is False:
        return _on_miss(timing, state, event)
    return state, Move.NONE


def _is_repeat(timing: Timing, state: State, event: Event) -> bool:
    return event.valid and timing.apart <= abs(event.at - state.first) <= timing.within


def _on_hit(timing: Timing, state: State, event: Event, *, urgent: bool) -> tuple[State, Move]:
    weak = not event.valid
    latest = max(state.last, event.at)
    if state.phase == Phase.FIRING:
        worse = urgent and not state.urgent
        again = replace(state, last=latest, deadline=0, clears=0, urgent=state.urgent or urgent)
        return again, Move.WORSENED if worse else Move.APPENDED
    if state.phase == Phase.PENDING:
        fired = replace(state, phase=Phase.FIRING, last=latest, deadline=0, clears=0)
        if urgent:
            return replace(fired, urgent=True), Move.URGENT
        if _is_repeat(timing, state, event):
            return replace(fired, weak=False), Move.CONFIRMED
        first = event.at if event.valid and state.weak else state.first  # the first trustworthy value is what a repeat must confirm
        return replace(state, first=first, last=latest, weak=state.weak and weak), Move.APPENDED
    begun = State(Phase.FIRING, 0, state.count, weak, urgent, event.at, event.at, 0, state.last_clear)
    if urgent:
        return begun, Move.URGENT
    if event.late:
        return begun, Move.LATE
    if timing.within == 0:
        return begun, Move.UNVERIFIED if weak else Move.AT_ONCE
    return replace(begun, phase=Phase.PENDING, deadline=event.now + timing.within), Move.OPENED


def _on_miss(timing: Timing, state: State, event: Event) -> tuple[State, Move]:
    if state.phase == Phase.PENDING and _is_repeat(timing, state, event) and event.at > state.first:
        return replace(state, phase=Phase.UNCONFIRMED, deadline=0), Move.NOT_CONFIRMED
    if state.phase != Phase.FIRING or not event.valid or event.at <= state.last:
        return state, Move.NONE
    if event.clear is not True:
        return replace(state, deadline=0, clears=0), Move.NONE
    if state.clears and event.at - state.last_clear < SESSION_GAP:
        return state, Move.NONE  # the same session
    clears = state.clears + 1
    held_until = state.last + timing.keep_firing
    if clears >= timing.sessions and event.now >= held_until:
        return State(), Move.CLEARED
    deadline = held_until if clears >= timing.sessions else state.deadline
    return replace(state, deadline=deadline, clears=clears, last_clear=event.at), Move.NONE


def _on_tick(timing: Timing, state: State, event: Event) -> tuple[State, Move]:
    if not state.deadline or event.now < state.deadline:
        return state, Move.NONE
    if state.phase == Phase.PENDING:
        fired = replace(state, phase=Phase.FIRING, deadline=0, clears=0)
        return fired, Move.UNVERIFIED if state.weak else Move.DEADLINE
    if state.phase == Phase.FIRING and state.clears >= timing.sessions:
        return State(), Move.CLEARED
    return state, Move.NONE


def _consecutive(timing: Timing, state: State, event: Event) -> tuple[State, Move]:
    if event.kind == Kind.END:
        return (State(), Move.CLOSED) if state.phase == Phase.FIRING else (state, Move.NONE)
    measured = event.kind == Kind.MEASUREMENT and event.valid and event.hit is not None
    if not timing.session:
        return _visit(timing, state, bool(event.hit), event.at, inhibited=event.inhibited) if measured else (state, Move.NONE)
    apart = event.at - state.last_clear
    due = event.kind == Kind.TICK and state.deadline and event.now >= state.deadline
    opens = measured and (state.clears == 0 or apart >= -timing.session)
    opens = opens and bool(event.hit or state.phase or state.count or state.clears)  # a good visit after nothing is nothing
    move = Move.NONE
    if due or (measured and state.clears and apart > timing.session):  # the session is over
        state, move = _visit(timing, state, state.clears == 1, state.last_clear, inhibited=event.inhibited)
        state = replace(state, clears=0, last_clear=0, deadline=0)
    if opens:
        state = replace(state, clears=1 if event.hit else 2, last_clear=event.at, deadline=event.now + timing.session)
    return state, move


def _visit(timing: Timing, state: State, hit: bool, at: int, *, inhibited: bool) -> tuple[State, Move]:
    """What a visit does, once it is known what it says."""
    firing = state.phase == Phase.FIRING
    if not hit:
        if at <= state.last:
            return state, Move.NONE
        return State(), Move.CLEARED if firing else Move.NONE
    counted = state.count == 0 or at - state.last >= timing.apart
    count = min(state.count + 1, 1000) if counted else state.count
    fires = not firing and count >= timing.visits and not inhibited
    phase = Phase.FIRING if firing or fires else state.phase
    after = replace(state, phase=phase, last=at if counted else state.last, count=count)
    return after, Move.REPEATED if fires else Move.APPENDED if counted and firing else Move.NONE


def _absent(misses: tuple[int, int], state: State, event: Event) -> tuple[State, Move]:
    fires, worsens = misses
    firing = state.phase == Phase.FIRING
    if event.kind == Kind.MEASUREMENT and not (event.hit is True and firing):
        return state, Move.NONE  # who measured is asked when a timer falls due; a measurement only ends a silence
    if event.every <= 0:
        return State(), Move.CLEARED if firing else Move.NONE

    def expecting(last: int) -> State:
        return State(last=last, first=state.first, deadline=last + fires * event.every)

    def silent_since(last: int) -> State:
        return replace(state, last=last, deadline=0 if state.urgent else last + worsens * event.every)

    match event.kind:
        case Kind.MEASUREMENT if event.at > state.last:
            if event.at + fires * event.every > event.now:
                return expecting(event.at), Move.CLEARED
            return silent_since(event.at), Move.NONE
        case Kind.PLAN:
            last = state.last or event.now
            return (silent_since(last) if firing else expecting(last)), Move.NONE
        case Kind.END if firing:
            return expecting(event.now), Move.CLOSED
        case Kind.TICK if state.deadline and event.now >= state.deadline:
            last = max(state.last, event.at)
            if last + (worsens if firing else fires) * event.every > event.now:
                return (silent_since(last) if firing else replace(expecting(last), urgent=state.urgent)), Move.NONE
            if event.inhibited:
                return replace(state, last=last, deadline=event.now + event.every), Move.NONE
            if not firing:
                fired = replace(state, phase=Phase.FIRING, last=last, first=event.now, deadline=last + worsens * event.every)
                return fired, Move.SILENT
            return replace(state, last=last, urgent=True, deadline=0), Move.NONE if state.urgent else Move.WORSENED
    return state, Move.NONE
