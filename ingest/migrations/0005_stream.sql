-- The stream through Kafka: partition count as recorded, positions with their epochs, parts, receipts on their way.

create table stream (
    topic text primary key,
    partitions int not null,
    recorded_at timestamptz not null default now()
);

create table stream_position (
    topic text not null,
    partition int not null,
    epoch bigint not null default 1,       -- one more with every take-over
    next_offset bigint not null default 0,
    claimed_at timestamptz not null default now(),
    moved_at timestamptz not null default now(),
    primary key (topic, partition)
);

-- Messages of which some parts are committed and others not yet.
create table message_part (
    source text not null,
    boot text not null,
    seq bigint not null,
    done bigint not null,                  -- bit i: part i
    reason text,                           -- of the first part that was refused
    noted_at timestamptz not null default now(),
    primary key (source, boot, seq)
);

-- Receipts for the process that holds the gateways' links; gone once sent. A lost one costs a repeat.
create table receipt (
    receipt bigint generated always as identity primary key,
    topic text not null,
    body bytea not null
);

alter table intake add column relayed_at timestamptz;
create index on intake (intake) where relayed_at is null and applied_at is null;

create function tell_receipt() returns trigger language plpgsql as $$
begin
    perform pg_notify('receipt', '');
    return null;
end $$;
create trigger tell_receipt after insert on receipt for each statement execute function tell_receipt();
