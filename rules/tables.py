"""Classifications: tables that grade a person's readings, as data in a pack. Compiled to numpy here; plain in `rules.reference`.

A table names its columns, each made by a feature of the history (`rules.history`), and its outputs. An output is one of

    bands    {of: column, cuts: [label, number, label, …]}   half-open [number, next); `closed: upper` makes it (number, next]
    highest  {order: [label, …], of: [bands, …]}             the label that stands furthest along the order
    first    [{is: label, when: condition}, …, {is: label}]  the first row that holds; the last may have no condition
    holds    condition                                       true, false or null
    value    column                                          a number as it is
    either   [column, …]                                     the first of them that is known
    names    [{name: condition}, {any_of: symptoms}, …]      the names of all conditions that hold, in order
    group    {name: output, …}                               several under one name
    absent   group                                           the names of its parts that are unknown
    sum      group     {sum: group, missing: least|most|known}: of the numbers of a group
    visits   {of: table.output, again: {…}}                  that output at each reading, a repeated one raised
    final    output                                          the last of a list
    members  output                                          ids of the people of a cohort for whom it is true
    percent  members                                         their share of the cohort

A condition may name an output that stands above it. Unknown leads to null wherever it would make a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rules import condition, history
from rules.condition import Predicate, Terms
from rules.features import FEATURES
from rules.history import History, Value

Objects = NDArray[np.object_]
Columns = dict[str, Any]  # name → float64 or object array (n,)
LATE = ("visits", "final", "members", "percent")  # more than one row: found before the others, which may name them
FORMS = (
    "bands",
    "highest",
    "first",
    "holds",
    "value",
    "either",
    "names",
    "group",
    "absent",
    "sum",
    "visits",
    "final",
    "members",
    "percent",
)


class Examples(msgspec.Struct, forbid_unknown_fields=True):
    """Rows of columns and what must come out; `given` holds for all rows."""

    of: list[str]
    gives: list[str]
    rows: list[list[Any]]
    given: dict[str, Any] = {}


class Table(msgspec.Struct, forbid_unknown_fields=True):
    zh: str
    en: str
    source: str
    outputs: dict[str, dict[str, Any]]
    scope: dict[str, Any] = {}
    columns: dict[str, dict[str, Any]] = {}
    examples: list[Examples] = []


Output = Callable[[Columns], Objects]
Tables = Mapping[str, Table]


def only(part: Mapping[str, Any]) -> tuple[str, Any]:
    """The first key of an output and what it holds."""
    return next(iter(part.items()))


def _objects(values: Sequence[Any]) -> Objects:
    made = np.empty(len(values), object)
    made[:] = values
    return made


def _labels(cuts: Sequence[Any]) -> tuple[list[Any], list[float]]:
    return list(cuts[0::2]), [float(cut) for cut in cuts[1::2]]


def band(bands: Mapping[str, Any], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each value among the bands, -1 for NaN."""
    _, cuts = _labels(bands["cuts"])
    places = np.searchsorted(cuts, values, side="left" if bands.get("closed") == "upper" else "right")
    return np.where(np.isnan(values), -1, places)


def compile_output(form: str, what: Any, terms: Terms) -> Output:
    """One output as a function of columns; rows where it is unknown are None."""
    match form:
        case "bands":
            labels, _ = _labels(what["cuts"])
            table = _objects([*labels, None])
            return lambda columns: table[band(what, columns[what["of"]])]
        case "highest":
            return _highest(what)
        case "first":
            return _first(what, terms)
        case "holds":
            test = condition.compile_condition(what, terms)
            words = _objects([None, True, False])  # by 0, 1, -1
            return lambda columns: words[test(columns)]
        case "value":
            return lambda columns: _objects([None if v is None or v != v else v for v in columns[what].tolist()])
        case "either":
            return lambda columns: _objects(
                [next((v for v in row if v == v), None) for row in zip(*(columns[c].tolist() for c in what), strict=True)]
            )
        case "names":
            return _names(what, terms)
        case "group":
            parts = {name: compile_output(*only(part), terms) for name, part in what.items()}
            return lambda columns: _objects([
                dict(zip(parts, row, strict=True)) for row in zip(*(part(columns) for part in parts.values()), strict=True)
            ])  # fmt: skip
    raise ValueError(form)  # the loader knows what it lets in


def _highest(what: Mapping[str, Any]) -> Output:
    order = what["order"]
    ranks = [np.array([*(order.index(label) for label in _labels(one["cuts"])[0]), -1]) for one in what["of"]]
    table = _objects([*order, None])

    def output(columns: Columns) -> Objects:
        places = np.array([rank[band(one, columns[one["of"]])] for rank, one in zip(ranks, what["of"], strict=True)])
        top = places.max(axis=0)
        # a part that is unknown makes no difference where another already stands at the top
        return table[np.where((places >= 0).all(axis=0) | (top == len(order) - 1), top, -1)]

    return output


def _first(rows: Sequence[Mapping[str, Any]], terms: Terms) -> Output:
    tests = [condition.compile_condition(row["when"], terms) if "when" in row else None for row in rows]
    labels = [row["is"] for row in rows]

    def output(columns: Columns) -> Objects:
        size = len(next(iter(columns.values())))
        found, open_, same = _objects([None] * size), np.ones(size, bool), np.ones(size, bool)
        seen = np.zeros(size, bool)
        for test, label in zip(tests, labels, strict=True):
            truth = np.ones(size, np.int8) if test is None else test(columns)
            possible = open_ & (truth >= 0)
            differs = np.array([one != label for one in found], bool)
            same &= ~(possible & seen & differs)
            for at in np.flatnonzero(possible & ~seen):
                found[at] = label
            seen |= possible
            open_ &= truth != 1
        found[~same | open_ & seen] = None  # several answers are possible, or an unknown one might not hold at all
        return found

    return output


def _names(parts: Sequence[Mapping[str, Any]], terms: Terms) -> Output:
    tests: list[tuple[str, Predicate]] = []
    for part in parts:
        (name, what), *_ = part.items()
        if name == "any_of":
            ((column, members),) = what.items()
            tests += [(member, condition.compile_condition({f"{column}.{member}": True}, terms)) for member in members]
        else:
            tests.append((name, condition.compile_condition(what, terms)))

    def output(columns: Columns) -> Objects:
        truths = [(name, test(columns) == 1) for name, test in tests]
        size = len(next(iter(columns.values())))
        return _objects([[name for name, truth in truths if truth[at]] for at in range(size)])

    return output


def total(group: Mapping[str, float | None], ranges: Mapping[str, tuple[float, float]], missing: str) -> float | None:
    """The sum of a group: None while a part is missing, or with the least or the most that the missing parts can give."""
    absent = [name for name, value in group.items() if value is None]
    known = sum(value for value in group.values() if value is not None)
    if missing == "known":
        return known
    if missing in ("least", "most"):
        return known + sum(ranges[name][missing == "most"] for name in absent)
    return None if absent else known


def ranges_of(group: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """name → (least, most) of the numbers that each part of a group can give."""
    found = {}
    for name, part in group.items():
        form, what = only(part)
        given = _labels(what["cuts"])[0] if form == "bands" else [row["is"] for row in what]
        scores = [score for score in given if score is not None]
        found[name] = min(scores), max(scores)
    return found


def metrics_read(made: Mapping[str, Any]) -> set[str]:
    """The values that a feature looks at."""
    _, arguments = only(made)
    of = arguments.get("of", [])
    return {of} if isinstance(of, str) else set(of) | set(arguments.get("at_or_above", {}))


def column_value(person: History, name: str, table: Table) -> Value:
    """One column of one history: a feature, the latest value of a metric, or a fact."""
    if name in table.columns:
        (feature, what), *_ = table.columns[name].items()
        return FEATURES[feature](person, **what)
    if name in person.facts:
        found = person.facts[name]
        return float(found) if isinstance(found, bool | int) else found
    found = history.last(person, name)
    return history.unreported(name) if found is None else found


def names_of(form: str, what: Any, terms: Terms) -> set[str]:
    """Every column that one output reads."""
    match form:
        case "bands":
            return {what["of"]}
        case "highest":
            return {one["of"] for one in what["of"]}
        case "first":
            return set().union(*(condition.names(row["when"], terms) for row in what if "when" in row))
        case "holds":
            return condition.names(what, terms)
        case "value":
            return {what}
        case "either":
            return set(what)
        case "names":
            return set().union(*(condition.names(condition_of(part), terms) for part in what))
        case "group":
            return set().union(*(names_of(*only(part), terms) for part in what.values()))
    return set()


def condition_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """The condition of a named part: `{name: condition}` or `{any_of: {column: members}}`."""
    (name, what), *_ = part.items()
    if name != "any_of":
        return dict(what)
    ((column, members),) = what.items()
    return {column: {"any_of": members}}


def columns_of(table: Table, terms: Terms) -> set[str]:
    """Every column that a table reads, its own outputs among them."""
    found = set(table.columns) | (condition.names(table.scope, terms) if table.scope else set())
    return found.union(*(names_of(*only(output), terms) for output in table.outputs.values()))


def _arrays(rows: Sequence[Mapping[str, Value]], names: Sequence[str]) -> Columns:
    made: Columns = {"": np.zeros(len(rows))}  # so that a table without columns still has a length
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            made[name] = _objects(values)
        else:
            made[name] = np.array([np.nan if value is None else float(value) for value in values], np.float64)
    return made


def evaluate(table: Table, rows: Sequence[Mapping[str, Value]], terms: Terms) -> list[dict[str, Any]]:
    """Every output that needs one row only, for rows of columns, vectorised. Rows outside the scope give None throughout."""
    columns = _arrays(rows, sorted(columns_of(table, terms)))
    found: dict[str, Objects] = {}
    for name, output in table.outputs.items():
        form, what = only(output)
        if form == "sum":
            ranges = ranges_of(table.outputs[what]["group"])
            found[name] = _objects([total(group, ranges, output.get("missing", "")) for group in found[what]])
        elif form == "absent":
            found[name] = _objects([[part for part, value in group.items() if value is None] for group in found[what]])
        elif form in LATE:
            continue
        else:
            found[name] = compile_output(form, what, terms)(columns)
        _remember(columns, name, found[name])
    outside = condition.compile_condition(table.scope, terms)(columns) == -1 if table.scope else np.zeros(len(rows), bool)
    return [{name: None if outside[at] else values[at] for name, values in found.items()} for at in range(len(rows))]


def _remember(columns: Columns, name: str, values: Objects) -> None:
    """Outputs are columns for what stands below them; a group also gives its highest part."""
    if all(value is None or isinstance(value, bool | int | float) for value in values):
        columns[name] = np.array([np.nan if value is None else float(value) for value in values], np.float64)
    elif any(isinstance(value, dict) for value in values):
        parts = [[v for v in value.values() if v is not None] for value in values]
        columns[f"{name}.highest"] = np.array([max(part) if part else np.nan for part in parts], np.float64)
    else:
        columns[name] = values


Evaluate = Callable[[Table, Sequence[Mapping[str, Value]], Terms], list[dict[str, Any]]]


def assess(
    tables: Tables, name: str, person: History, terms: Terms, cohort: Sequence[History] = (), evaluate_with: Evaluate = evaluate
) -> dict[str, Any]:
    """All outputs of one table for one history (or a cohort). evaluate_with: the vectorised way, or the reference's."""
    table = tables[name]
    late: dict[str, Any] = {}
    for output, form in table.outputs.items():
        kind, what = only(form)
        if kind == "visits":
            late[output] = _visits(tables, what, person, terms, evaluate_with)
        elif kind == "final":
            late[output] = late[what][-1] if late[what] else None
        elif kind == "members":
            rows = [{column: column_value(one, column, table) for column in columns_of(table, terms)} for one in cohort]
            verdicts = evaluate_with(table, rows, terms)
            late[output] = [one.facts["id"] for one, verdict in zip(cohort, verdicts, strict=True) if verdict[what] is True]
        elif kind == "percent":
            late[output] = 100 * len(late[what]) / len(cohort) if cohort else None
    row = {column: column_value(person, column, table) for column in columns_of(table, terms)}
    row |= {output: value for output, value in late.items() if not isinstance(value, list)}
    found = evaluate_with(table, [row], terms)[0] | late
    return {output: found[output] for output in table.outputs}


def _visits(tables: Tables, what: Mapping[str, Any], person: History, terms: Terms, evaluate_with: Evaluate) -> list[Any]:
    """What one output says of each visit by itself; one of `again.of` that follows one of `again.after` becomes `again.becomes`."""
    name, output = what["of"].split(".")
    again = what["again"]
    said: list[Any] = []
    for reading in person.readings:
        if not history.fits(reading, what.get("where", {})):
            continue
        one = assess(tables, name, replace(person, readings=[reading]), terms, evaluate_with=evaluate_with)[output]
        repeated = one == again["of"] and bool(said) and said[-1] in again["after"]
        said.append(again["becomes"] if repeated else one)
    return said
