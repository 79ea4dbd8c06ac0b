"""How devices do: when each was last heard, whether its battery is low, whether a station's cuff wanders. Looked at once a day.

A station's cuff measures many people, so the mean of its systolic values hardly moves from month to month; when it does, by more than
chance and by more than a cuff may be wrong (ISO 81060-2: 5 mm[Hg]), it should be calibrated. A person's own device follows the person:
nothing is said of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from vitals.floor.database import Connection
from vitals.metric import METRICS

PERIOD = timedelta(days=30)
WRONG = 5.0  # mm[Hg]: the mean error that a validated cuff may have
SURE = 3.0  # standard errors
_LOOK = """
insert into device_health (device_no, looked_at, last_at, n, battery_low_at, shift, spread)
select d.device_no, %(now)s, s.last_at, coalesce(s.n, 0), s.battery_low_at, s.mean - s.before,
  sqrt(s.variance / nullif(s.many, 0) + s.variance_before / nullif(s.many_before, 0))
from device d left join (
  select m.device_no, max(m.measured_at) as last_at, count(*) filter (where recent) as n,
    max(m.measured_at) filter (where exists (select from unnest(m.flags) f where f like '%%battery%%')) as battery_low_at,
    avg(v.value) filter (where recent) as mean, var_samp(v.value) filter (where recent) as variance,
    count(v.value) filter (where recent) as many,
    avg(v.value) filter (where not recent) as before, var_samp(v.value) filter (where not recent) as variance_before,
    count(v.value) filter (where not recent) as many_before
  from (select *, measured_at >= %(now)s - %(period)s as recent from measurement
    where measured_at >= %(now)s - 2 * %(period)s and measured_at < %(now)s + interval '1 hour') m
  join device d using (device_no)
  left join lateral (select value from unnest(m.metrics, m.numbers) as r(metric, value)
    where metric = %(systolic)s and d.station is not null and m.weak is null limit 1) v on true
  group by 1
) s using (device_no)
on conflict (device_no) do update set looked_at = excluded.looked_at, last_at = excluded.last_at, n = excluded.n,
  battery_low_at = excluded.battery_low_at, shift = excluded.shift, spread = excluded.spread
"""


async def look(connection: Connection, now: datetime) -> int:
    """Look at every device, unless that was done today; returns how many."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('yizhan device health'))")
    row = await (await connection.execute("select max(looked_at) as at from device_health")).fetchone()
    if row is not None and row["at"] is not None and row["at"] > now - timedelta(hours=23):
        return 0
    cursor = await connection.execute(_LOOK, {"now": now, "period": PERIOD, "systolic": METRICS["systolic"].number})
    return cursor.rowcount


def wanders(shift: float | None, spread: float | None) -> bool:
    """Whether a shift is more than chance and more than a cuff may be wrong."""
    return shift is not None and spread is not None and abs(shift) > WRONG and abs(shift) > SURE * spread
