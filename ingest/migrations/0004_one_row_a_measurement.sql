-- One row for a measurement: its numbers lie in two arrays instead of a row each, and the ledger counts with numbers.
-- `reading` becomes a view, one row for each number, so that whoever asks in SQL sees what was there before.

alter table measurement rename to measurement_before;
alter table reading rename to reading_before;
alter table ledger rename to ledger_before;
alter index ledger_pkey rename to ledger_before_pkey;

create table measurement_plain (
    measurement bigint not null,
    measured_at timestamptz not null,
    received_at timestamptz not null,
    sent_at timestamptz,
    stored_at timestamptz not null,
    device_no bigint not null,
    metrics smallint[] not null,          -- numbers of the metric table, beside
    numbers float8[] not null,            -- their values, in the metric's unit, unrounded
    subject text not null,                -- the resident, else 'device:…'; never null
    kind text not null,
    setting text not null,
    time_quality text not null,
    source text not null,                 -- mqtt:<gateway> | https:<account>
    series text not null,
    record text not null,
    raw bytea not null,
    device_time text,
    checkin text,
    weak text[],                          -- why it may not refer anyone by itself; null for a trusted source
    flags text[],
    codes jsonb,                          -- what the device said instead of a number
    coded jsonb                           -- coded answers ({"fobt": "positive"})
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
        foreach parent in array array['measurement'] loop
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
declare
    part regclass;
begin
    if exists (select from pg_extension where extname = 'timescaledb') then
        alter table measurement_plain rename to measurement;
        perform create_hypertable('measurement', 'measured_at', chunk_time_interval => interval '7 days', create_default_indexes => false);
        return;
    end if;
    for part in select inhrelid::regclass from pg_inherits where inhparent = 'measurement_before'::regclass loop
        execute format('alter table %s rename to %I', part, 'before_' || replace(part::text, '.', '_'));
    end loop;
    create table measurement (like measurement_plain) partition by range (measured_at);
    drop table measurement_plain;
    perform ensure_partitions(array(select distinct date_trunc('month', measured_at, 'UTC') from measurement_before));
end $$;

insert into measurement
select m.measurement, m.measured_at, m.received_at, m.sent_at, m.stored_at, m.device_no,
    coalesce(r.metrics, '{}'), coalesce(r.numbers, '{}'), m.subject, m.kind, m.setting, m.time_quality, m.source, m.series, m.record, m.raw,
    m.device_time, m.checkin, nullif(m.weak, '{}'), nullif(m.flags, '{}'), nullif(m.codes, '{}'), nullif(m.coded, '{}')
from measurement_before m
left join lateral (
    select array_agg(metric order by metric) as metrics, array_agg(value order by metric) as numbers
    from reading_before where measurement = m.measurement and measured_at = m.measured_at
) r on true;

drop table measurement_before;
drop table reading_before;

create index on measurement (measurement);
create index on measurement (subject, measured_at desc);

create view reading as
select m.measured_at, m.measurement, n.metric, n.value, m.subject, m.setting,
    not exists (select from unnest(m.weak) w where w like 'implausible%') as plausible
from measurement m, unnest(m.metrics, m.numbers) as n(metric, value);

-- The key of a record: its number in the first series, else below zero, the first 63 bits of SHA-256 over series, 0, record.
-- The digest of its bytes is cut to 64 bits: it tells copies from other bytes under the same key, and two different
-- measurements are never taken for one because of it alone.
create table ledger (
    device_no bigint not null,
    key bigint not null,
    digest bigint not null,
    measurement bigint not null,
    primary key (device_no, key)
);

insert into ledger
select device_no,
    case when series = '1' and record ~ '^(0|[1-9][0-9]{0,17})$' then record::bigint
    else -1 - (('x' || encode(substring(sha256(convert_to(series, 'UTF8') || '\x00'::bytea || convert_to(record, 'UTF8')) for 8), 'hex'))::bit(64)::bigint
        & 9223372036854775807) end,
    ('x' || encode(substring(digest for 8), 'hex'))::bit(64)::bigint, measurement
from ledger_before on conflict do nothing;

drop table ledger_before;

-- numbers are taken a thousand at a time
alter sequence measurement_seq increment by 1000;
create index on binding (device_no);
