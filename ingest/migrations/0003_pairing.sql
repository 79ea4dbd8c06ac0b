-- Pairing commands and their answers, what a full spool had to drop, and disks that were copied or set back.

alter table device
    add column bond text not null default 'none' check (bond in ('none', 'unauthenticated', 'authenticated')),
    add column serial text,
    add column facts jsonb not null default '{}',
    add column paired_at timestamptz;

create table pairing (
    pairing bigint generated always as identity primary key,
    id text not null unique,
    gateway text not null references gateway,
    command text not null check (command in ('pair', 'unpair', 'discover')),
    device text,
    state text not null default 'asked',   -- asked | paired | failed | unpaired | found | mismatch | bond_lost
    report jsonb,
    account text not null,
    asked_at timestamptz not null default now(),
    answered_at timestamptz
);
create index on pairing (gateway, asked_at desc);

-- Holes that are explained: messages which never come, because the spool was full and something had to go.
create table gap (
    source text not null,
    boot text not null,
    first bigint not null,
    last bigint not null,
    reason text not null,
    worth text not null,
    noted_at timestamptz not null default now(),
    primary key (source, boot, first)
);

alter table gateway add column forked_at timestamptz;  -- two lives of its spool with the same number were seen
