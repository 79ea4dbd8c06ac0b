"""Conditions compiled to numpy, three-valued: 1 true, 0 unknown, -1 false, so that any = max, all = min, not = minus.

A column is float64 of shape (n,), NaN where the fact is unknown; yes and no are 1.0 and 0.0. A column of words is an object array
with None for the unknown. The forms of a condition are listed in `rules.pack`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitals.metric import METRICS

Condition = dict[str, Any]
Columns = Mapping[str, NDArray[Any]]
Truth = NDArray[np.int8]
Predicate = Callable[[Columns], Truth]

COMPARATORS = ("ge", "gt", "le", "lt")
WORDS = ("is", "in")
_COMPARE: dict[str, Callable[[Any, float], Any]] = {
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
}


@dataclass(frozen=True)
class Terms:
    """What a condition refers to. numbers: `$name` → its value. grids: column → step to which it is rounded before any comparison.

    rows: (table, output) → rows of a `first` output, for conditions on a class.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    grids: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def number(self, number: float | str) -> float:
        return self.numbers[number[1:]] if isinstance(number, str) else float(number)

    def class_rows(self, value: Mapping[str, Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], Any]:
        """The rows behind `{table: {output: label}}`, and the label."""
        ((table, wanted),) = value.items()
        ((output, label),) = wanted.items()
        return self.rows[table, output], label


DUST = 1e-9  # what binary fractions leave behind: 16.65 / 0.1 is a hair below 166.5


def steps(values: NDArray[np.float64], grid: float) -> NDArray[np.float64]:
    """Half-up to whole steps of `grid`; 3.9 is 39 steps of 0.1, while 39 · 0.1 is more than 3.9."""
    found: NDArray[np.float64] = np.floor(values / grid + 0.5 + DUST)
    return found


def compile_condition(condition: Condition, terms: Terms) -> Predicate:
    """A checked condition → a function of columns. Columns it needs: `names(condition)`."""
    (key, value), *_ = condition.items()
    match key:
        case "any" | "all":
            parts = [compile_condition(part, terms) for part in value]
            return _fold(np.maximum if key == "any" else np.minimum, parts)
        case "not":
            inner = compile_condition(value, terms)
            return lambda columns: -inner(columns)
        case "certain":
            sure = compile_condition(value, terms)
            return lambda columns: np.where(sure(columns) == 1, 1, -1).astype(np.int8)
        case "measured":
            return lambda columns: np.where(_absent(columns[value]), -1, 1).astype(np.int8)
        case "class":
            return _compile_class(*terms.class_rows(value), terms)
    if isinstance(value, bool):
        return _compare(key, "ge" if value else "lt", 0.5, None)
    if "any_of" in value:
        return compile_condition({"any": [{f"{key}.{member}": True} for member in value["any_of"]]}, terms)
    tests = [
        _compare_word(key, [number] if name == "is" else number) if name in WORDS
        else _compare(key, name, terms.number(number), terms.grids.get(key), number if isinstance(number, str) else "")
        for name, number in value.items()
    ]  # fmt: skip
    return _fold(np.minimum, tests)


def _fold(pair: Callable[[Truth, Truth], Truth], parts: Sequence[Predicate]) -> Predicate:
    """any and all: of few parts, one after the other is faster than together."""
    if len(parts) == 1:
        return parts[0]
    return lambda columns: reduce(pair, (part(columns) for part in parts))


def _absent(values: NDArray[Any]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isnan(values) if values.dtype != object else np.array([one is None for one in values], bool)
    return found


def _compare(column: str, comparator: str, number: float, grid: float | None, parameter: str = "") -> Predicate:
    """parameter: `$name`; a column of that name holds what was agreed with each person instead of `number`."""
    test = _COMPARE[comparator]
    bound = number if grid is None else round(number / grid, 9)

    def predicate(columns: Columns) -> Truth:
        values = columns[column]
        limit: Any = bound
        if parameter and parameter in columns:
            limit = columns[parameter] if grid is None else np.round(columns[parameter] / grid, 9)
        met = test(values if grid is None else steps(values, grid), limit)
        truth: Truth = met.view(np.int8) * np.int8(2) - np.int8(1)
        truth *= values == values  # unknown where there is no number
        return truth

    return predicate


def _compare_word(column: str, words: Sequence[str]) -> Predicate:
    def predicate(columns: Columns) -> Truth:
        values = columns[column]
        if values.dtype != object:  # nobody said anything here
            return np.zeros(len(values), np.int8)
        return np.array([0 if value is None else 1 if value in words else -1 for value in values], np.int8)

    return predicate


def _compile_class(rows: Sequence[Mapping[str, Any]], wanted: Any, terms: Terms) -> Predicate:
    """Whether the first row that holds gives `wanted`; unknown unless all rows that may be the first agree about it."""
    guards = [compile_condition(row["when"], terms) if "when" in row else None for row in rows]
    verdicts = np.array([1 if row["is"] == wanted else -1 for row in rows], np.int8)

    def predicate(columns: Columns) -> Truth:
        found = [None if guard is None else guard(columns) for guard in guards]
        size = len(next(truth for truth in found if truth is not None))  # the loader wants a row with a condition
        truths = np.array([np.ones(size, np.int8) if truth is None else truth for truth in found])
        first_true = np.where((truths == 1).any(axis=0), (truths == 1).argmax(axis=0), len(rows))
        # rows after the first certain one cannot decide; without a certain one it may also be none of them
        possible = (truths >= 0) & (np.arange(len(rows))[:, None] <= first_true[None, :])
        highest = np.where(possible, verdicts[:, None], -2).max(axis=0)
        lowest = np.where(possible, verdicts[:, None], 2).min(axis=0)
        lowest = np.where(first_true == len(rows), np.minimum(lowest, -1), lowest)
        agreed = np.where(highest == lowest, highest, 0)
        return np.where(possible.any(axis=0), agreed, -1).astype(np.int8)

    return predicate


Ranges = Mapping[str, tuple[float, float]]


def reachable(condition: Condition, terms: Terms, ranges: Ranges, own: Collection[str] = ()) -> bool:
    """Whether a condition may hold for some row of which only the least and the greatest value of each metric is known.

    Whatever is no metric may be anything; a metric that nobody measured reaches nothing. `own`: parameters (`$name`) that differ
    between people. Never says no where a row would hold.
    """
    (key, value), *_ = condition.items()
    match key:
        case "any":
            return any(reachable(part, terms, ranges, own) for part in value)
        case "all":
            return all(reachable(part, terms, ranges, own) for part in value)
        case "certain":
            return reachable(value, terms, ranges, own)
        case "not" | "measured":
            return True
        case "class":
            rows, label = terms.class_rows(value)
            return any(row["is"] == label and reachable(row.get("when", {"measured": ""}), terms, ranges, own) for row in rows)
    if key not in METRICS or not isinstance(value, dict):
        return True
    if key not in ranges:
        return False
    grid = terms.grids.get(key)
    for comparator, number in value.items():
        if comparator in WORDS or number in own:
            continue
        reached = ranges[key][comparator in ("ge", "gt")]
        bound = terms.number(number)
        if grid is not None and math.isfinite(reached):
            reached, bound = math.floor(reached / grid + 0.5 + DUST), round(bound / grid, 9)
        if not _COMPARE[comparator](reached, bound):
            return False
    return True


def names(condition: Condition, terms: Terms) -> set[str]:
    """Every column a condition reads."""
    (key, value), *_ = condition.items()
    match key:
        case "any" | "all":
            return set().union(*(names(part, terms) for part in value))
        case "not" | "certain":
            return names(value, terms)
        case "measured":
            return {value}
        case "class":
            rows, _ = terms.class_rows(value)
            return set().union(*(names(row["when"], terms) for row in rows if "when" in row))
    if isinstance(value, dict) and "any_of" in value:
        return {f"{key}.{member}" for member in value["any_of"]}
    return {key}
