"""Columns that look back: features of what a person measured before, recomputed from what is committed.

A measurement sees what came before it in the stream and was measured within the rule's window, itself included; so the answer does
not depend on how the stream was cut into batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest import readings
from ingest.batch import Stored
from rules import history, tables
from rules.history import History, Reading
from vitals.floor.database import Connection

Made = Mapping[str, Mapping[str, Any]]  # column → its feature


def feature(made: Mapping[str, Any], past: Sequence[Reading]) -> float:
    """One column of one measurement; NaN where the past does not hold what it needs."""
    name, arguments = tables.only(made)
    value = history.FEATURES[name](History({}, past), **arguments)
    return float("nan") if value is None or isinstance(value, str) else float(value)


def reading(at: datetime, values: Mapping[str, Any], setting: str, flags: Sequence[str]) -> Reading:
    """A stored measurement as features see it; a flag is something it is about."""
    numbers = {code: float(value) for code, value in values.items() if not isinstance(value, str)}
    return Reading(at, numbers, {"setting": setting, **dict.fromkeys(flags, True)})


async def columns(
    connection: Connection, rows: Sequence[Stored], asked: Sequence[int], made: Made, look_back: timedelta, settings: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """The columns of one rule for all rows (n,); NaN for all but the rows at the places `asked` that have a metric it looks at."""
    found = {name: np.full(len(rows), np.nan) for name in made}
    metrics = sorted(set().union(*(tables.metrics_read(one) for one in made.values())))
    asked = [
        number
        for number in asked
        if rows[number].measurement.setting in settings and not rows[number].measurement.values.keys().isdisjoint(metrics)
    ]
    if not asked:
        return found
    since = min(rows[number].measurement.measured_at for number in asked) - look_back
    past = await readings.windows(connection, sorted({rows[number].subject for number in asked}), since, metrics)
    for number in asked:
        row = rows[number]
        until = row.measurement.measured_at
        seen = [
            reading(one["measured_at"], one["values"], one["setting"], one["flags"])
            for one in past.get(row.subject, [])
            if one["measurement"] <= row.number and until - look_back <= one["measured_at"] <= until and one["setting"] in settings
        ]
        for name, how in made.items():
            found[name][number] = feature(how, seen)
    return found


async def awake(
    connection: Connection, rows: Sequence[Stored], possible: NDArray[np.bool_], flag: str | None, look_back: timedelta, awake: set[str]
) -> list[int]:
    """Places of the rows worth looking back from: a resident's, to whom the rule may apply, and, where it waits for a flag, of people who
    had that flag within the window or are in a state of the rule (`awake`) already."""
    places = [number for number in np.flatnonzero(possible).tolist() if rows[number].resident is not None]
    if flag is None or not places:
        return places
    since = min(rows[number].measurement.measured_at for number in places) - look_back
    woken = awake | await readings.flagged(connection, flag, since)
    return [number for number in places if rows[number].subject in woken] if woken else []
