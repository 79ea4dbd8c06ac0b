-- Time partitioning. With TimescaleDB: hypertables of one week. Without it: native monthly partitions made as
-- data come, by the same function the worker calls before it writes.

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
        foreach parent in array array['measurement', 'reading'] loop
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
    if not exists (select from pg_extension where extname = 'timescaledb') then
        return;
    end if;
    -- a hypertable is made from a plain table: rebuild the two (empty) ones without native partitioning
    create table measurement_plain (like measurement including defaults);
    create table reading_plain (like reading including defaults);
    drop table measurement;
    drop table reading;
    alter table measurement_plain rename to measurement;
    alter table reading_plain rename to reading;
    create index on measurement (measurement);
    create index on measurement (subject, measured_at desc);
    create index on reading (subject, metric, measured_at desc);
    perform create_hypertable('measurement', 'measured_at', chunk_time_interval => interval '7 days', create_default_indexes => false);
    perform create_hypertable('reading', 'measured_at', chunk_time_interval => interval '7 days', create_default_indexes => false);
end $$;
