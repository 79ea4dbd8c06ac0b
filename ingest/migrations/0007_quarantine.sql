-- Quarantine: replayed through the stream, looked at only with a trace, bounded without ever dropping.

alter table quarantine
    add column replayed_at timestamptz,
    add column outcome text;               -- of the last replay: stored | refused:<reason>

-- Bytes that wait here; the worker reads nothing more when they reach the limit.
create table quarantine_volume (
    one boolean primary key default true check (one),
    bytes bigint not null
);
insert into quarantine_volume (bytes) select coalesce(sum(length(payload)), 0) from quarantine;

create table quarantine_access (
    access bigint generated always as identity primary key,
    at timestamptz not null default now(),
    account text not null,                 -- who looked: the database's own word for it, and the system's
    quarantine bigint not null,
    what text not null                     -- show | replay
);
