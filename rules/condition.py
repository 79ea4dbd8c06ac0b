"""Conditions compiled to numpy, three-valued: 1 true, 0 unknown, -1 false, so that any = max, all = min, not = minus.

A column is float64 of shape (n,), NaN where the fact is unknown; yes and no are 1.0 and 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rules.pack import Condition, Pack

Columns = Mapping[str, NDArray[np.float64]]
Truth = NDArray[np.int8]
Predicate = Callable[[Columns], Truth]

_COMPARE: dict[str, Callable[[Any, float], Any]] = {
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
}


def round_half_up(values: NDArray[np.float64], grid: float) -> NDArray[np.float64]:
    """Half-up to a multiple of `grid`, as whole steps: comparisons then are comparisons of integers."""
    return np.floor(values / grid + 0.5) * grid


def compile_condition(condition: Condition, pack: Pack) -> Predicate:
    """A checked condition → a function of columns. Columns it needs: `names(condition)`."""
    (key, value), *_ = condition.items()
    match key:
        case "any" | "all":
            parts = [compile_condition(part, pack) for part in value]
            reduce = np.maximum.reduce if key == "any" else np.minimum.reduce
            return lambda columns: reduce([part(columns) for part in parts]).astype(np.int8)
        case "not":
            inner = compile_condition(value, pack)
            return lambda columns: -inner(columns)
        case "class":
            ((name, outcome),) = value.items()
            return _compile_class(name, outcome, pack)
    if isinstance(value, bool):
        return _compare(key, "ge" if value else "lt", 0.5, None)
    grid = pack.document.round.get(key)
    tests = [_compare(key, name, _number(number, pack), grid) for name, number in value.items()]
    return lambda columns: np.minimum.reduce([test(columns) for test in tests]).astype(np.int8)


def _number(number: float | str, pack: Pack) -> float:
    return pack.numbers[number[1:]] if isinstance(number, str) else float(number)


def _compare(column: str, comparator: str, number: float, grid: float | None) -> Predicate:
    test = _COMPARE[comparator]

    def predicate(columns: Columns) -> Truth:
        values = columns[column]
        rounded = values if grid is None else round_half_up(values, grid)
        return np.where(np.isnan(values), 0, np.where(test(rounded, number), 1, -1)).astype(np.int8)

    return predicate


def _compile_class(name: str, outcome: str, pack: Pack) -> Predicate:
    """The first row whose `if` holds decides; with the deciding fact unknown, only where all possible rows agree."""
    rows = [
        (compile_condition(row["if"], pack), compile_condition(row[outcome], pack))
        for row in pack.document.classifications[name].rows
        if outcome in row
    ]

    def predicate(columns: Columns) -> Truth:
        guards = np.array([guard(columns) for guard, _ in rows])
        verdicts = np.array([verdict(columns) for _, verdict in rows])
        possible = guards >= 0
        first_true = np.where((guards == 1).any(axis=0), (guards == 1).argmax(axis=0), len(rows))
        # rows after the first certain one cannot decide
        possible &= np.arange(len(rows))[:, None] <= first_true[None, :]
        highest = np.where(possible, verdicts, -2).max(axis=0)
        lowest = np.where(possible, verdicts, 2).min(axis=0)
        agreed = np.where(highest == lowest, highest, 0)
        return np.where(possible.any(axis=0), agreed, -1).astype(np.int8)

    return predicate


def names(condition: Condition, pack: Pack) -> set[str]:
    """Every column a condition reads."""
    (key, value), *_ = condition.items()
    match key:
        case "any" | "all":
            return set().union(*(names(part, pack) for part in value))
        case "not":
            return names(value, pack)
        case "class":
            rows = (row for name in value for row in pack.document.classifications[name].rows)
            return set().union(*(names(part, pack) for row in rows for part in row.values()))
    return {key}
