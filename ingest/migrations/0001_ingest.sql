-- Devices, attribution, measurements, ledger, quarantine, intake, outbox. One owner: the ingest room.

create table site (
    site text primary key,
    name text not null
);

create table gateway (
    gateway text primary key,
    site text not null references site,
    password_hash text not null,          -- as the broker checks it (PBKDF2-SHA512, mosquitto's $7$ form)
    enrolled_at timestamptz not null default now(),
    revoked_at timestamptz
);

create table device (
    device_no bigint generated always as identity primary key,
    device text not null unique,
    kind text not null,
    setting text not null,
    site text references site,            -- where it stands, when it stands somewhere
    station text references gateway,      -- a station's device belongs to whoever is checked in there
    model text,
    bond_protected boolean not null default true,
    registered_at timestamptz not null default now()
);

-- Who wore a device, and when. No two at once: an exclusion constraint; the number is written as a range of one,
-- which needs no extension.
create table binding (
    binding bigint generated always as identity primary key,
    device_no bigint not null references device,
    resident text not null,
    during tstzrange not null,
    exclude using gist (int8range(device_no, device_no, '[]') with &&, during with &&)
);

-- Who stood at a station. ends_at moves with activity; the interval is [started_at, ends_at).
create table checkin (
    checkin text primary key,
    station text not null references gateway,
    resident text not null,
    started_at timestamptz not null,
    ends_at timestamptz not null,
    latest_at timestamptz not null,       -- fifteen minutes after the start, whatever happens
    ended_by text,                        -- checkout | next_checkin; null while it may still run out by itself
    check (started_at <= ends_at and ends_at <= latest_at)
);
create index on checkin (station, started_at desc);

-- One row for each measurement ever admitted, by its identity. Not partitioned by time, because a unique key on a
-- time-partitioned table would have to contain the time, and a re-timestamped copy would pass.
create table ledger (
    device_no bigint not null,
    series text not null,
    record text not null,
    digest bytea not null,                -- of the raw bytes: same key with other bytes opens a new series
    measurement bigint not null,
    primary key (device_no, series, record)
);

create sequence measurement_seq;

create table measurement (
    measurement bigint not null,
    measured_at timestamptz not null,
    received_at timestamptz not null,
    sent_at timestamptz,
    stored_at timestamptz not null,
    device_time text,
    time_quality text not null,
    device_no bigint not null,
    series text not null,
    record text not null,
    kind text not null,
    setting text not null,
    subject text not null,                -- the resident, else 'device:…'; never null
    resident text,
    checkin text,
    source text not null,                 -- mqtt:<gateway> | https:<account>
    weak text[] not null,                 -- why it may not refer anyone by itself; empty for a trusted source
    flags text[] not null,
    codes jsonb not null,
    coded jsonb not null,                 -- coded answers ({"fobt": "positive"})
    raw bytea not null
) partition by range (measured_at);

create table reading (
    measured_at timestamptz not null,
    measurement bigint not null,
    metric smallint not null,
    value double precision not null,
    subject text not null,
    setting text not null,
    plausible boolean not null
) partition by range (measured_at);

create index on measurement (measurement);
create index on measurement (subject, measured_at desc);
create index on reading (subject, metric, measured_at desc);

-- What could not be read, with its bytes. The same bytes sent again are the same row, counted.
create table quarantine (
    quarantine bigint generated always as identity primary key,
    digest bytea not null unique,
    source text not null,
    topic text not null,
    payload bytea not null,
    reason text not null,
    detail text not null,
    times int not null default 1,
    first_at timestamptz not null default now(),
    last_at timestamptz not null default now()
);
create index on quarantine (reason);

-- Where each gateway's stream stands: for reconciliation and for people; receipts need no state.
create table position (
    source text not null,
    boot text not null,
    high bigint not null,
    messages bigint not null,
    updated_at timestamptz not null default now(),
    primary key (source, boot)
);

-- What people and kiosks ask for over HTTP enters the same stream as the readings.
create table intake (
    intake bigint generated always as identity primary key,
    id uuid not null unique,
    kind text not null,
    subject text,                          -- whom it concerns, where known
    body jsonb not null,
    account text not null,
    idempotency_key text,
    digest bytea not null,
    created_at timestamptz not null default now(),
    applied_at timestamptz,
    result text,                           -- applied | refused:<reason>
    unique (account, idempotency_key)
);
create index on intake (intake) where applied_at is null;

-- What must leave the system, written in the transaction that decided it.
create table outbox (
    outbox bigint generated always as identity primary key,
    kind text not null check (kind in ('command', 'advice', 'notify')),
    gateway text references gateway,
    checkin text,
    body jsonb not null,
    created_at timestamptz not null default now(),
    sent_at timestamptz
);
create index on outbox (outbox) where sent_at is null;
create index on outbox (checkin) where checkin is not null;

create function tell_intake() returns trigger language plpgsql as $$
begin
    perform pg_notify('intake', '');
    return null;
end $$;
create trigger tell_intake after insert on intake for each statement execute function tell_intake();

create function tell_outbox() returns trigger language plpgsql as $$
begin
    perform pg_notify('outbox', coalesce(new.checkin, ''));
    return null;
end $$;
create trigger tell_outbox after insert on outbox for each row execute function tell_outbox();

create function tell_credentials() returns trigger language plpgsql as $$
begin
    perform pg_notify('credentials', '');
    return null;
end $$;
create trigger tell_credentials after insert or update or delete on gateway for each statement execute function tell_credentials();
