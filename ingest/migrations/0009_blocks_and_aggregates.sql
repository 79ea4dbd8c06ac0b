-- Dense series as block rows, hours and days as aggregates, what retention must not take.

alter table measurement add column plausible boolean not null default true;
update measurement set plausible = false where exists (select from unnest(weak) w where w like 'implausible%');

create or replace view reading as
select m.measured_at, m.measurement, n.metric, n.value, m.subject, m.setting, m.plausible
from measurement m, unnest(m.metrics, m.numbers) as n(metric, value);

-- One row for what a wearable sampled between two messages: 1 Hz heart rate, RR intervals, a pulse wave. It shares its
-- measurement's number; whose it is stands there.
create table block_plain (
    measured_at timestamptz not null,
    measurement bigint not null,
    metric smallint not null,
    every_ms real,                         -- distance of the samples, or null and
    offsets int[],                         -- milliseconds from measured_at of each
    numbers real[] not null
);

create or replace function ensure_partitions(moments timestamptz[]) returns void language plpgsql as $$
declare
    month timestamptz;
    name text;
    parent text;
begin
    if exists (select from pg_extension where extname = 'timescaledb') then
        return;
    end if;
    for month in select distinct date_trunc('month', m, 'UTC') from unnest(moments) m loop
        foreach parent in array array['measurement', 'block'] loop
            name := parent || to_char(month at time zone 'UTC', '_YYYYMM');
            if to_regclass(name) is null then
                perform pg_advisory_xact_lock(hashtext(name));
                execute format('create table if not exists %I partition of %I for values from (%L) to (%L)',
                    name, parent, month, (month at time zone 'UTC' + interval '1 month') at time zone 'UTC');
            end if;
        end loop;
    end loop;
end $$;

do $$
begin
    if exists (select from pg_extension where extname = 'timescaledb') then
        alter table block_plain rename to block;
        perform create_hypertable('block', 'measured_at', chunk_time_interval => interval '1 day', create_default_indexes => false);
    else
        create table block (like block_plain) partition by range (measured_at);
        drop table block_plain;
        perform ensure_partitions(array(select distinct date_trunc('month', measured_at, 'UTC') from measurement));
    end if;
end $$;
create index on block (measurement);

-- (at, value) of every sample of a block.
create function block_samples(measured_at timestamptz, every_ms real, offsets int[], numbers real[])
returns table (at timestamptz, value real) language sql immutable parallel safe as $$
    select measured_at + coalesce(o.milliseconds, (o.n - 1) * every_ms) * interval '1 millisecond', o.value
    from unnest(numbers, offsets) with ordinality as o(value, milliseconds, n)
$$;

create view sample as
select m.subject, b.metric, s.at, s.value, b.measurement, m.setting
from block b join measurement m on m.measurement = b.measurement and m.measured_at = b.measured_at,
    block_samples(b.measured_at, b.every_ms, b.offsets, b.numbers) s;

-- Hours and days of each person and metric. TimescaleDB's community edition keeps them up to date by itself (ingest/storage.py puts
-- continuous aggregates under these names); everywhere else they are computed when asked.
create view reading_hourly as
select subject, metric, setting, date_trunc('hour', measured_at, 'UTC') as bucket, count(*) as n, avg(value) as mean, min(value) as low,
    max(value) as high
from reading where plausible group by 1, 2, 3, 4;

create view reading_daily as
select subject, metric, setting, date_trunc('day', measured_at, 'UTC') as bucket, count(*) as n, avg(value) as mean, min(value) as low,
    max(value) as high
from reading where plausible group by 1, 2, 3, 4;

-- What an alert cites, moved here before retention drops the rest of its month.
create table measurement_kept (like measurement);
create unique index on measurement_kept (measurement);
