"""Columns that look back: features of what a person measured before, recomputed from what is committed.

A measurement sees what came before it in the stream and was measured within the rule's window, itself included; so the answer does
not depend on how the stream was cut into batches. What a weak source said is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest import readings
from ingest.batch import Stored
from rules import tables
from rules.evaluate import Compiled
from rules.features import FEATURES
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


def feature(compiled: Compiled, made: Mapping[str, Any], past: Sequence[Reading], known: Mapping[str, float]) -> float:
    """One column of one measurement; NaN where the past does not hold what it needs. known: facts about the person, for tables."""
    name, arguments = tables.only(made)
    if name == "table":
        document = compiled.pack.document
        person = History(_facts(known), [_with_heart_rate(one) for one in past])
        value = tables.assess(document.classifications, arguments["of"], person, compiled.pack.terms)[arguments["give"]]
    else:
        value = FEATURES[name](History({}, past), **arguments)
    return float("nan") if value is None or isinstance(value, str) else float(value)


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
    return found & (compiled.applies(columns) >= 0) if compiled.applies is not None else found


def stirred(compiled: Compiled, columns: Columns) -> NDArray[np.bool_] | None:
    """Rows (n,) that hit by themselves, of a rule whose features stand for plain metrics (the mean of a session for its readings).

    Nobody else's means can reach what none of their readings reached. None: the rule's features stand for nothing else.
    """
    return compiled.when(columns) != -1 if compiled.rule.columns.keys() & METRICS.keys() else None


async def columns(connection: Connection, compiled: Compiled, rows: Sequence[Stored], plain: Columns, asked: Sequence[int]) -> Looked:
    """The columns of one rule. Rows not asked keep their plain values, or are NaN where there is no plain one."""
    made = compiled.rule.columns
    found = Looked({name: plain.get(name, np.full(len(rows), np.nan)).copy() for name in made}, np.zeros(len(rows), bool), {})
    if not asked:
        return found
    since = min(rows[number].measurement.measured_at for number in asked) - compiled.look_back
    past = await readings.windows(connection, sorted({rows[number].subject for number in asked}), since, sorted(compiled.looks_at))
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
        seen = [reading(one["measured_at"], one["values"], one["setting"], one["flags"]) for one in mine]
        found.inputs[number] = [one["measurement"] for one in mine][-50:]
        try:
            for name, how in made.items():
                known = {fact: float(plain[fact][number]) for fact in FACTS}
                found.columns[name][number] = feature(compiled, how, seen, known)
        except Exception:
            log.exception("a feature raised", extra={"rule": compiled.rule.id})
            found.failed[number] = True
    return found


async def awake(
    connection: Connection, compiled: Compiled, rows: Sequence[Stored], plain: Columns, setting: NDArray[np.uint8], busy: set[str]
) -> list[int]:
    """Places of the rows to look back from: of people in a state of the rule (`busy`), and of others only with a reason.

    A rule with `stirs` looks back from measurements that meet it; one that waits for a flag looks at people who had it within the
    window; one whose features stand for plain metrics at people of whom some row hits by itself.
    """
    may = worth(compiled, plain, setting)
    places = [number for number in np.flatnonzero(may).tolist() if rows[number].resident is not None]
    if not places:
        return []
    woken = set(busy)
    if compiled.stirs is not None:
        stirs = compiled.stirs(plain) == 1
        return [number for number in places if stirs[number] or rows[number].subject in woken]
    hits = stirred(compiled, plain)
    if hits is not None:
        woken |= {rows[number].subject for number in places if hits[number]}
    elif compiled.rule.wakes is not None:
        since = min(rows[number].measurement.measured_at for number in places) - compiled.look_back
        woken |= await readings.flagged(connection, compiled.rule.wakes, since)
    else:
        return places
    return [number for number in places if rows[number].subject in woken]
