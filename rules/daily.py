"""Rules about trends look at one value a day: written once the local day is over, from what was measured in it.

A timer for each person who measured something (`@daily`) falls due in the night after; what it finds is a function of committed rows.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import NamedTuple
from zoneinfo import ZoneInfo

from psycopg.rows import tuple_row

from ingest import lookback
from rules.form import Daily
from rules.history import Reading
from vitals.floor.database import Connection
from vitals.metric import METRICS

TIMER = "@daily"
NIGHT = clock(4)
SPREAD = 7200  # s over which the night's work is spread
Series = Mapping[tuple[str, str], list[tuple[date, dict[str, float | None]]]]  # (metric, setting) → days with their statistics


class Day(NamedTuple):
    """One value of a day, before it is a reading of a rule."""

    day: date
    value: float


def due(subject: str, now: datetime, zone: ZoneInfo) -> datetime:
    """When the day that `now` lies in is looked at: in the night after it, everybody at a moment of their own."""
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, NIGHT, zone).astimezone(UTC) + timedelta(seconds=zlib.crc32(subject.encode()) % SPREAD)


async def schedule(connection: Connection, subjects: Sequence[str], now: datetime, zone: ZoneInfo) -> None:
    """Ask for a look at today, once it is over."""
    await connection.execute(
        "insert into rule_timer (subject, rule, due_at) select s, %s, d from unnest(%s::text[], %s::timestamptz[]) as n(s, d) order by 1"
        " on conflict do nothing",
        (TIMER, list(subjects), [due(subject, now, zone) for subject in subjects]),
    )


async def write(connection: Connection, subjects: Sequence[str], metrics: Iterable[str], since: date, until: date, zone: ZoneInfo) -> None:
    """Write the days [since, until) of these people anew."""
    wanted = [METRICS[code].number for code in sorted(metrics)]
    begin, end = (datetime.combine(day, clock(), zone) for day in (since, until))
    await connection.execute(
        "delete from daily_value where subject = any(%s) and metric = any(%s) and day >= %s and day < %s",
        (list(subjects), wanted, since, until),
    )
    await connection.cursor().executemany(
        "insert into daily_value (subject, metric, setting, day, n, mean, median, low, night_median)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        await lookback.by_day(connection, subjects, wanted, begin, end, zone.key),
    )


async def read(connection: Connection, subjects: Sequence[str], since: date, until: date) -> dict[str, Series]:
    """subject → their days in [since, until), oldest first."""
    codes = {metric.number: code for code, metric in METRICS.items()}
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "select subject, metric, setting, day, mean, median, low, night_median from daily_value"
        " where subject = any(%s) and day >= %s and day < %s order by day",
        (list(subjects), since, until),
    )
    found: dict[str, dict[tuple[str, str], list[tuple[date, dict[str, float | None]]]]] = {}
    for subject, metric, setting, day, mean, median, low, night in await cursor.fetchall():
        told = {"mean": mean, "median": median, "low": low, "night_median": night}
        found.setdefault(subject, {}).setdefault((codes[metric], setting), []).append((day, told))
    return dict(found)


def days(series: Series, wanted: Daily, setting: str) -> list[Day]:
    """The values of one rule."""
    found = [(day, told[wanted.give]) for day, told in series.get((wanted.of, setting), ())]
    return [Day(day, value) for day, value in found if value is not None]


def as_readings(values: Sequence[Day], of: str, frozen_since: date | None) -> list[Reading]:
    """Days as features see them. From the day on which an alert began, no day is taken into a baseline (about `frozen`)."""
    return [
        Reading(
            datetime.combine(one.day, clock(12), UTC), {of: one.value},
            {"frozen": frozen_since is not None and one.day >= frozen_since},
        )
        for one in values
    ]  # fmt: skip


def statistics_of(values: Sequence[tuple[datetime, float]], zone: ZoneInfo) -> dict[str, float | None]:
    """What SQL makes of a day, in Python; for histories that are in no database."""
    numbers = [value for _, value in values]
    night = [value for at, value in values if at.astimezone(zone).hour < 6]
    return {
        "mean": statistics.fmean(numbers),
        "median": statistics.median(numbers),
        "low": min(numbers),
        "night_median": statistics.median(night) if night else None,
    }
