"""What rules ask of what was measured before: windows, days, latest times, flags. Weak sources are left out of what is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.rows import scalar_row, tuple_row

from vitals.floor.database import Connection
from vitals.metric import BY_NUMBER, METRICS


async def windows(
    connection: Connection, subjects: Sequence[str], since: datetime, metrics: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """subject → its measurements since then from sources that are not weak and with any of these metrics, oldest first.

    Each with measurement, measured_at, values, setting and flags.
    """
    cursor = await connection.execute(
        "select m.subject, m.measurement, m.measured_at, m.setting, coalesce(m.flags, '{}') as flags, m.metrics, m.numbers"
        " from measurement m"
        " where m.subject = any(%s) and m.measured_at >= %s and m.metrics && %s::smallint[] and coalesce(cardinality(m.weak), 0) = 0"
        " order by m.measured_at, m.measurement",
        (list(subjects), since, [METRICS[code].number for code in metrics]),
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in await cursor.fetchall():
        row["values"] = {BY_NUMBER[number].code: value for number, value in zip(row.pop("metrics"), row.pop("numbers"), strict=True)}
        found.setdefault(row["subject"], []).append(row)
    return found


async def by_day(
    connection: Connection, subjects: Sequence[str], metrics: Sequence[int], since: datetime, until: datetime, zone: str
) -> list[tuple[Any, ...]]:
    """(subject, metric, setting, local day, n, mean, median, low, median of midnight to six) of measurements from sources not weak.

    Of a dense series every sample counts, not the one that stands for it among the readings.
    """
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "with mine as (select * from measurement where subject = any(%(subjects)s) and measured_at >= %(since)s and measured_at < %(until)s"
        "  and metrics && %(metrics)s::smallint[] and coalesce(cardinality(weak), 0) = 0),"
        " dense as (select m.measurement, m.subject, m.setting, b.metric, b.measured_at, b.every_ms, b.offsets, b.numbers from mine m"
        "  join block b on b.measurement = m.measurement and b.measured_at = m.measured_at),"
        " v as (select m.subject, n.metric, m.setting, m.measured_at as at, n.value::float8 from mine m,"
        "  unnest(m.metrics, m.numbers) as n(metric, value)"
        "  where not exists (select from dense d where d.measurement = m.measurement and d.metric = n.metric)"
        "  union all select d.subject, d.metric, d.setting, s.at, s.value::float8 from dense d,"
        "  block_samples(d.measured_at, d.every_ms, d.offsets, d.numbers) s)"
        " select subject, metric, setting, (at at time zone %(zone)s)::date, count(*), avg(value),"
        " percentile_cont(0.5) within group (order by value), min(value),"
        " percentile_cont(0.5) within group (order by value) filter (where extract(hour from at at time zone %(zone)s) < 6)"
        " from v where metric = any(%(metrics)s) group by 1, 2, 3, 4 order by 1, 2, 3, 4",
        {"subjects": list(subjects), "metrics": list(metrics), "since": since, "until": until, "zone": zone},
    )
    return await cursor.fetchall()


async def latest_of(connection: Connection, subjects: Sequence[str], metrics: Sequence[str]) -> dict[str, datetime]:
    """subject → when it was last measured for any of these metrics, within the last two years."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "select s.subject, l.measured_at from unnest(%s::text[]) as s(subject), lateral (select m.measured_at from measurement m"
        "  where m.subject = s.subject and m.measured_at >= now() - interval '2 years' and m.metrics && %s::smallint[]"
        "  order by m.measured_at desc limit 1) l",
        (list(subjects), [METRICS[code].number for code in metrics]),
    )
    return dict(await cursor.fetchall())


async def flagged(connection: Connection, flag: str, since: datetime) -> set[str]:
    """Subjects with a measurement since then that carries a flag."""
    cursor = connection.cursor(row_factory=scalar_row)
    # the flag stands in the text, so that the partial index is seen to fit
    await cursor.execute(
        sql.SQL("select distinct subject from measurement where flags @> {} and measured_at >= %s").format(sql.Literal([flag])), (since,)
    )
    return set(await cursor.fetchall())
