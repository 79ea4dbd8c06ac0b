"""Columns that look back: features of what a person measured before, recomputed from what is committed.

A measurement sees what came before it in the stream and was measured within the rule's window, itself included; so the answer does
not depend on how the stream was cut into batches. What a weak source said is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest import lookback
from ingest.batch import Stored
from rules import features, tables
from rules.evaluate import Compiled, Source
from rules.history import History, Reading
from rules.pack import FACTS
from vitals.floor.database import Connection
from vitals.metric import METRICS

log = logging.getLogger("rules.windows")

Columns = dict[str, NDArray[np.float64]]


class Looked(NamedTuple):
    """columns (n,). failed (n,): a feature raised. inputs: place of a row → measurements that it looked at."""

    columns: Columns
    failed: NDArray[np.bool_]
    inputs: dict[int, list[int]]


def fill(compiled: Compiled, found: Columns, plain: Columns, seen: Mapping[int, Sequence[Reading]]) -> set[int]:
    """Fill the rule's columns at the rows that are keys of `seen`, which holds what each looks back at. Returns rows at which one raised.

    What a table gives is evaluated for all rows together.
    """
    failed: set[int] = set()
    if not seen:
        return failed
    by_table: dict[str, list[tuple[str, str]]] = {}
    for name, how in compiled.rule.columns.items():
        kind, arguments = tables.only(how)
        if kind == "table":
            by_table.setdefault(arguments["of"], []).append((name, arguments["give"]))
            continue
        for number, past in seen.items():
            try:
                found[name][number] = features.evaluate(how, History({}, past))
            except Exception:
                log.exception("a feature raised", extra={"rule": compiled.rule.id})
                failed.add(number)
    for table, gives in by_table.items():
        try:
            _fill_from_table(compiled, table, gives, found, plain, seen)
        except Exception:
            log.exception("a table raised", extra={"rule": compiled.rule.id, "table": table})
            for number, past in seen.items():
                try:
                    _fill_from_table(compiled, table, gives, found, plain, {number: past})
                except Exception:  # noqa: BLE001  logged above
                    failed.add(number)
    return failed


def _fill_from_table(
    compiled: Compiled, name: str, gives: Sequence[tuple[str, str]], found: Columns, plain: Columns, seen: Mapping[int, Sequence[Reading]]
) -> None:
    terms, table = compiled.pack.terms, compiled.pack.document.classifications[name]
    columns = tables.columns_of(table, terms)
    rows = []
    for number, past in seen.items():
        known = {fact: float(plain[fact][number]) for fact in FACTS}
        person = History(_facts(known), [_with_heart_rate(one) for one in past])
        rows.append({column: tables.column_value(person, column, table) for column in columns})
    for number, outputs in zip(seen, tables.evaluate(table, rows, terms) if rows else (), strict=True):
        for column, give in gives:
            found[column][number] = features.number(outputs[give])


def _facts(known: Mapping[str, float]) -> dict[str, float]:
    """What is known; whose lungs are known to be well is judged by the first scale of oxygen."""
    found = {name: value for name, value in known.items() if value == value}
    return found | ({"spo2_scale": 1.0} if found.get("chronic_lung_disease") == 0 else {})


def _with_heart_rate(one: Reading) -> Reading:
    """A pulse is a heart rate to a score."""
    return Reading(one.at, {"heart_rate": one.values["pulse"], **one.values}, one.about) if "pulse" in one.values else one


def reading(at: datetime, values: Mapping[str, Any], setting: str, flags: Sequence[str]) -> Reading:
    """A stored measurement as features see it; a flag is something it is about."""
    numbers = {code: float(value) for code, value in values.items() if not isinstance(value, str)}
    return Reading(at, numbers, {"setting": setting, **dict.fromkeys(flags, True)})


def worth(compiled: Compiled, columns: Columns, setting: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Rows (n,) from which a rule may have to look back: in its settings, of people to whom it may apply, with one of its metrics."""
    found: NDArray[np.bool_] = np.zeros(len(setting), bool)
    for code in compiled.looks_at:
        found |= ~np.isnan(columns[code])
    found &= compiled.allowed[setting]
    if not found.any():
        return found
    return found & (compiled.applies(columns) >= 0) if compiled.applies is not None else found


def asked(
    compiled: Compiled, plain: Columns, source: Source, subject: NDArray[np.int64], busy: NDArray[np.bool_]
) -> NDArray[np.bool_]:  # fmt: skip
    """Rows (n,) to look back from, as far as these rows and who is in a state of the rule (busy (n,)) tell. subject (n,): a number.

    A rule with `stirs` hits at a row that meets it and nowhere else; features that stand for plain metrics (the mean of a session for
    its readings) reach nothing that no reading within the window reached. Whatever else the rule is, every row is asked.
    """
    may = worth(compiled, plain, source.setting)
    if not may.any():
        return may
    stirs: NDArray[np.bool_]
    if compiled.stirs is not None:
        stirs = compiled.stirs(plain) == 1
        return may & (busy | stirs)
    if compiled.rule.columns.keys() & METRICS.keys():
        return may & (
            busy | _after(may & (compiled.when(plain) != -1), subject, source.at, compiled.look_back // timedelta(microseconds=1))
        )
    return may


def _after(hits: NDArray[np.bool_], subject: NDArray[np.int64], at: NDArray[np.int64], within: int) -> NDArray[np.bool_]:
    """Rows at or after a hit of the same subject within so many µs."""
    if not hits.any():
        return hits
    order = np.lexsort((at, subject))
    who, when = subject[order], at[order]
    # the latest hit so far, by place; one of somebody else's lies too far below in the order to be taken for theirs
    last = np.maximum.accumulate(np.where(hits[order], np.arange(len(order)), -1))
    found = np.zeros(len(order), bool)
    found[order] = (last >= 0) & (who[last] == who) & (when - when[last] <= within)
    return found


def followers(
    compiled: Compiled, columns: Columns, source: Source, subject: NDArray[np.int64], done: NDArray[np.bool_]
) -> NDArray[np.bool_]:  # fmt: skip
    """Rows (n,) still to be asked, because the rule just hit at another row of theirs: they may clear it."""
    if compiled.stirs is None or not done.any():
        return np.zeros(len(subject), bool)
    hits: NDArray[np.bool_] = done & (compiled.when(columns) == 1)
    if not hits.any():
        return hits
    return worth(compiled, columns, source.setting) & ~done & np.isin(subject, subject[hits])


async def columns(connection: Connection, compiled: Compiled, rows: Sequence[Stored], plain: Columns, asked: Sequence[int]) -> Looked:
    """The columns of one rule. Rows not asked keep their plain values, or are NaN where there is no plain one."""
    made = compiled.rule.columns
    found = Looked({name: plain.get(name, np.full(len(rows), np.nan)).copy() for name in made}, np.zeros(len(rows), bool), {})
    if not asked:
        return found
    since = min(rows[number].measurement.measured_at for number in asked) - compiled.look_back
    past = await lookback.windows(connection, sorted({rows[number].subject for number in asked}), since, sorted(compiled.looks_at))
    seen: dict[int, list[Reading]] = {}
    for number in asked:
        row = rows[number]
        until = row.measurement.measured_at
        mine = [
            one
            for one in past.get(row.subject, [])
            if one["measurement"] <= row.number
            and until - compiled.look_back <= one["measured_at"] <= until
            and one["setting"] in compiled.rule.settings
        ]
        seen[number] = [reading(one["measured_at"], one["values"], one["setting"], one["flags"]) for one in mine]
        found.inputs[number] = [one["measurement"] for one in mine][-50:]
    found.failed[sorted(fill(compiled, found.columns, plain, seen))] = True
    return found


async def look(
    connection: Connection, compiled: Compiled, rows: Sequence[Stored], plain: Columns, source: Source, subject: NDArray[np.int64],
    busy: NDArray[np.bool_],
) -> Looked:  # fmt: skip
    """The columns of one rule for the rows that are worth it. A rule that waits for a flag looks at people who had it within the window."""
    first = asked(compiled, plain, source, subject, busy) & source.person
    if compiled.rule.wakes is not None and first.any():
        since = min(rows[number].measurement.measured_at for number in np.flatnonzero(first).tolist()) - compiled.look_back
        woken = await lookback.flagged(connection, compiled.rule.wakes, since)
        first &= busy | np.array([row.subject in woken for row in rows], bool)
    found = await columns(connection, compiled, rows, plain, np.flatnonzero(first).tolist())
    more = followers(compiled, plain | found.columns, source, subject, first) & source.person
    if not more.any():
        return found
    return await columns(connection, compiled, rows, plain, np.flatnonzero(first | more).tolist())
