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

from rules import condition, engine, history, reference, tables, windows
from rules.condition import Terms
from rules.engine import EVENT, STATE, Kind, Phase, Timing
from rules.pack import FACTS, Pack, Rule, duration
from rules.tables import Table
from vitals.metric import METRICS

_WORDS = {Phase.NORMAL: "none", Phase.PENDING: "pending", Phase.FIRING: "firing", Phase.UNCONFIRMED: "unconfirmed"}
_EPOCH = datetime(2026, 1, 5, 8, tzinfo=UTC)
_START = 1_700_000_000_000_000  # µs; any moment will do


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
        for rule in pack.rules:
            expected = test["expect"].get(rule.id)
            if expected is not None:
                found = state_after(pack, rule, given, test.get("wait"))
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
        raw = {"when": rule.when, "applies": rule.applies} | ({"clear": {"when": rule.clear.when}} if rule.clear else {})
        for path in _numbers(raw):
            for step in _steps(_at(raw, path)):
                rules = [*pack.rules]
                changed = _moved(raw, path, step)
                if rule.clear is not None:
                    changed["clear"] = msgspec.structs.replace(rule.clear, when=changed["clear"]["when"])
                rules[at] = msgspec.structs.replace(rule, **changed)
                if not _tests_fail(replace(pack, document=msgspec.structs.replace(pack.document, rules=rules))):
                    found.append(f"rule {rule.id}: {'.'.join(map(str, path))} = {_at(raw, path)} may become {step:g} unnoticed")
    for name, value in pack.numbers.items():
        steps = _steps(int(value) if value == int(value) else value)
        loose = [step for step in steps if not run(replace(pack, numbers=pack.numbers | {name: step}))]
        found += [f"parameter {name} = {value:g} may become {step:g} unnoticed" for step in loose]
    return found


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
            elif key in condition.COMPARATORS and isinstance(value, int | float):
                yield (*path, key)
            else:
                yield from _numbers(value, (*path, key))
    elif isinstance(raw, list):
        for at, value in enumerate(raw):
            yield from _numbers(value, (*path, at))


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
    _at(made, path[:-1])[path[-1]] = number
    return made


def state_after(pack: Pack, rule: Rule, given: list[Mapping[str, Any]], wait: str | None) -> str:
    """The alert state of one rule after readings at their times `t`, and after waiting beyond the last."""
    columns = {name: np.array([_number(row.get(name)) for row in given]) for name in (*METRICS, *FACTS)}
    columns |= _windows(rule, given)
    events = np.zeros(len(given), EVENT)
    hit = condition.compile_condition(rule.when, pack.terms)(columns)
    if rule.applies:
        applies = condition.compile_condition(rule.applies, pack.terms)(columns)
        hit = np.where(applies == 1 if rule.consecutive else applies >= 0, hit, 0)
    in_scope = [row.get("setting", rule.settings[0]) in rule.settings for row in given]
    events["hit"] = np.where(in_scope, hit, 0)
    events["clear"] = condition.compile_condition(rule.clear.when, pack.terms)(columns) if rule.clear else 0
    events["urgent"] = condition.compile_condition(rule.urgent, pack.terms)(columns) == 1 if rule.urgent else False
    events["valid"] = True
    events["at"] = events["now"] = [_START + _micros(duration(row.get("t", "0s"))) for row in given]
    if wait is not None:
        tick = np.zeros(1, EVENT)
        tick["kind"] = Kind.TICK
        tick["at"] = tick["now"] = events["now"].max() + _micros(duration(wait))
        events = np.concatenate([events, tick])
    state = np.zeros(1, STATE)
    engine.run(Timing.of(rule), state, np.zeros(len(events), np.int64), events)
    return _WORDS[Phase(state["phase"][0])]


def _windows(rule: Rule, given: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rule's features make of the readings of a test, in the order they stand there."""
    past = [
        windows.reading(
            _EPOCH + duration(row.get("t", "0s")), {code: value for code, value in row.items() if code in METRICS},
            row.get("setting", rule.settings[0]), row.get("flags", ()),
        )
        for row in given
    ]  # fmt: skip
    seen = [
        [
            one
            for one in past[: at + 1]
            if until.at - duration(rule.look_back) <= one.at <= until.at and one.about["setting"] in rule.settings
        ]
        for at, until in enumerate(past)
    ]
    return {name: np.array([windows.feature(made, one) for one in seen]) for name, made in rule.columns.items()}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
