-- Every message of every gateway, accounted for: which numbers are safe, what a day held here and what the gateway says it held.

alter table position add column seen int8multirange not null default '{}';  -- stored or in quarantine

create table day_tally (
    source text not null,
    boot text not null,
    day date not null,                     -- on which the gateway spooled it (UTC)
    messages bigint not null,
    digest bigint not null,                -- sum over the messages, modulo 2^48
    primary key (source, boot, day)
);

create table day_report (
    source text not null,
    boot text not null,
    day date not null,
    first bigint not null,
    last bigint not null,
    messages bigint not null,
    digest bigint not null,
    reported_at timestamptz not null default now(),
    agreed_at timestamptz,
    primary key (source, boot, day)
);
create index on day_report (reported_at) where agreed_at is null;
