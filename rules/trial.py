"""Run what a pack carries to prove itself: tests of its rules, examples of its tables; and find the numbers they would not miss.

A number is guarded when moving it one step up, and one step down, makes some test or example fail. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from rules import condition, daily, engine, evaluate, history, reference, tables, windows
from rules.condition import Terms
from rules.evaluate import Compiled
from rules.form import FLAGS
from rules.pack import FACTS, Pack, Rule, duration
from rules.state import EVENT, STATE, Array, Kind, Phase
from rules.tables import Table
from vitals.floor.columns import micros
from vitals.measurement import SETTINGS
from vitals.metric import METRICS

_WORDS = {Phase.NORMAL: "none", Phase.PENDING: "pending", Phase.FIRING: "firing", Phase.UNCONFIRMED: "unconfirmed"}
COUNTS = ("misses", "urgent_misses", "count", "sessions")
URGENT = "urgent"  # firing, and as severe as the rule can be
_EPOCH = datetime(2026, 1, 5, 8, tzinfo=UTC)


def run(pack: Pack) -> list[str]:
    """One line for every test and example that fails, in either way of evaluating."""
    failures = _tests_fail(pack)
    for name, table in pack.document.classifications.items():
        failures += [f"{name}: {line}" for line in _examples_fail(table, pack.terms)]
    return failures


def _tests_fail(pack: Pack) -> list[str]:
    failures = []
    for test in pack.document.tests:
        given = test["given"] if isinstance(test["given"], list) else [test["given"]]
        agreed = replace(pack, numbers=pack.numbers | test.get("agreed", {}))
        for rule in pack.rules:
            expected = test["expect"].get(rule.id)
            if expected is not None:
                found = state_after(agreed, rule, given, test.get("wait"))
                if found != expected:
                    failures.append(f"{test['id']}: {rule.id} is {found}, expected {expected}")
    return failures


def _examples_fail(table: Table, terms: Terms) -> list[str]:
    failures = []
    for examples in table.examples:
        rows = [examples.given | dict(zip(examples.of, row, strict=False)) for row in examples.rows]
        silent = {name for name in tables.columns_of(table, terms) if history.unreported(name) is not None}
        rows = [dict.fromkeys(silent, 0.0) | {name: _value(value) for name, value in row.items()} for row in rows]
        expected = [row[len(examples.of) :] for row in examples.rows]
        ways = {"": tables.evaluate(table, rows, terms), " (reference)": reference.evaluate(table, rows, terms)}
        for way, found in ways.items():
            for row, wanted, got in zip(rows, expected, found, strict=True):
                said = [got[output] for output in examples.gives]
                if said != wanted or any(isinstance(a, bool) != isinstance(b, bool) for a, b in zip(said, wanted, strict=True)):
                    failures.append(f"{row} gives {said}{way}, expected {wanted}")
    return failures


def _value(value: Any) -> Any:
    return float(value) if isinstance(value, bool | int) else value


def unguarded(pack: Pack) -> list[str]:
    """Numbers of tables and rules that may move one step without any test or example failing."""
    found = []
    for name, table in pack.document.classifications.items():
        raw = msgspec.to_builtins({"outputs": table.outputs, "scope": table.scope})
        for path in _numbers(raw):
            for step in _steps(_at(raw, path)):
                moved = msgspec.structs.replace(table, **_moved(raw, path, step))
                if not _shape_holds(moved) or _examples_fail(moved, pack.terms):
                    continue
                found.append(f"classification {name}: {'.'.join(map(str, path))} = {_at(raw, path)} may become {step:g} unnoticed")
    for at, rule in enumerate(pack.rules):
        raw = msgspec.to_builtins(rule)
        for path in _numbers(raw):
            for step in _steps(_at(raw, path)):
                if path[-1] in COUNTS and step < 1:
                    continue  # the loader refuses it
                rules = [*pack.rules]
                rules[at] = msgspec.convert(_moved(raw, path, step), Rule)
                if not _noticed(replace(pack, document=msgspec.structs.replace(pack.document, rules=rules))):
                    found.append(f"rule {rule.id}: {'.'.join(map(str, path))} = {_at(raw, path)} may become {step:g} unnoticed")
    for name, value in pack.numbers.items():
        if value != value:  # nothing is agreed by itself: no number to guard
            continue
        steps = _steps(int(value) if value == int(value) else value)
        loose = [step for step in steps if not run(replace(pack, numbers=pack.numbers | {name: step}))]
        found += [f"parameter {name} = {value:g} may become {step:g} unnoticed" for step in loose]
    return found


def _noticed(pack: Pack) -> bool:
    try:
        return bool(_tests_fail(pack))
    except (ArithmeticError, ValueError):  # a divisor of zero is noticed too
        return True


def _shape_holds(table: Table) -> bool:
    """Cuts still rise: a step that would make two of them one is no step a person could take by mistake."""
    return all(
        list(numbers) == sorted(set(numbers))
        for output in table.outputs.values()
        for what in output.values()
        for part in (what["of"] if isinstance(what, dict) and isinstance(what.get("of"), list) else [what])
        if isinstance(part, dict) and "cuts" in part
        for numbers in [part["cuts"][1::2]]
    )


def _numbers(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where comparisons and cuts have their numbers."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            if key == "cuts":
                yield from ((*path, key, at) for at in range(1, len(value), 2))
            elif (key in condition.COMPARATORS and isinstance(value, int | float)) or (key in COUNTS and isinstance(value, int)):
                yield (*path, key)
            elif key == "columns":
                yield from _arguments(value, (*path, key))
            else:
                yield from _numbers(value, (*path, key))
    elif isinstance(raw, list):
        for at, value in enumerate(raw):
            yield from _numbers(value, (*path, at))


def _arguments(raw: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Where features have their numbers."""
    for key, value in raw.items() if isinstance(raw, dict) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key)
        elif isinstance(value, dict):
            yield from _arguments(value, (*path, key))


def _steps(number: float) -> tuple[float, float]:
    """One unit of the last digit down and up."""
    digits = (
        len(repr(float(number)).partition(".")[2].rstrip("0")) if float(number) != int(number) else 1 if isinstance(number, float) else 0
    )
    step = 10.0**-digits
    return round(number - step, digits), round(number + step, digits)


def _at(raw: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        raw = raw[key]
    return raw


def _moved(raw: dict[str, Any], path: tuple[Any, ...], number: float) -> dict[str, Any]:
    made = copy.deepcopy(raw)
    whole = isinstance(_at(raw, path), int)
    _at(made, path[:-1])[path[-1]] = int(number) if whole else number
    return made


def state_after(pack: Pack, rule: Rule, given: list[Mapping[str, Any]], wait: str | list[str] | None) -> str:
    """The alert state of one rule after readings at their times `t`, and after waiting (so often) beyond the last.

    `days: 20` in a reading of a daily rule stands for as many days with the same value.
    """
    compiled = evaluate.compile_rule(pack, rule)
    rows = [{**row, "at": duration(row.get("t", "0s")) + day * timedelta(days=1)} for row in given for day in range(row.get("days", 1))]
    state = np.zeros(1, STATE)

    def play(kind: Kind, at: timedelta, event: Array | None = None, every: int = 0) -> None:
        one = np.zeros(1, EVENT) if event is None else event
        one["kind"], one["at"], one["now"], one["valid"] = kind, *[micros(_EPOCH + at)] * 2, True
        one["late"] = False
        if compiled.timing.misses and kind is Kind.TICK:
            one["at"] = seen
        one["every"] = one["every"] if event is not None else every
        engine.run(compiled.timing, state, np.zeros(1, np.int64), one)

    plan, seen = 0, 0
    for number, row in enumerate(rows):
        columns = {name: np.array([_number(row.get(name))]) for name in (*METRICS, *FACTS)}
        columns |= {f"flags.{flag}": np.array([float(flag in row.get("flags", ()))]) for flag in FLAGS}
        columns |= {name: np.array([value]) for name, value in _features(compiled, rows[: number + 1], state).items()}
        plan = int(np.max(evaluate.expected(compiled, columns)))
        if number == 0 and plan:
            play(Kind.PLAN, row["at"], every=plan)
        setting = SETTINGS.index(row.get("setting", rule.settings[0]))
        source = evaluate.one_source(compiled, _EPOCH + row["at"])._replace(setting=np.array([setting], np.uint8))
        over = row["at"] + (timedelta(days=1) if rule.daily is not None else timedelta())  # a day is looked at once it is over
        event = evaluate.outcomes(compiled, source, columns, _EPOCH + row["at"])
        seen = micros(_EPOCH + over) if event["hit"][0] == 1 else seen
        play(Kind.MEASUREMENT, over, event)
    now = max(row["at"] for row in rows)
    for one in [wait] if isinstance(wait, str) else wait or ():
        now += duration(one)
        play(Kind.TICK, now, every=plan)
    return URGENT if state["phase"][0] == Phase.FIRING and state["urgent"][0] else _WORDS[Phase(state["phase"][0])]


def _features(compiled: Compiled, rows: list[dict[str, Any]], state: Array) -> dict[str, float]:
    """What the rule's features make of the readings of a test up to the last of these."""
    rule, latest = compiled.rule, rows[-1]
    if not rule.columns:
        return {}
    if rule.daily is not None:
        began = evaluate.frozen_since(state[0], UTC)
        values = [daily.Day((_EPOCH + row["at"]).date(), float(row[rule.daily.of])) for row in rows if rule.daily.of in row]
        return evaluate.day_columns(compiled, values, began)
    past = [
        windows.reading(
            _EPOCH + row["at"], {code: value for code, value in row.items() if code in METRICS},
            row.get("setting", rule.settings[0]), row.get("flags", ()),
        )
        for row in rows
    ]  # fmt: skip
    until = _EPOCH + latest["at"]
    seen = [one for one in past if until - compiled.look_back <= one.at <= until and one.about["setting"] in rule.settings]
    plain = {name: np.array([_number(latest.get(name))]) for name in FACTS}
    found = {name: np.full(1, np.nan) for name in rule.columns}
    if windows.fill(compiled, found, plain, {0: seen}):
        raise ValueError("a feature raised")
    return {name: float(values[0]) for name, values in found.items()}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
