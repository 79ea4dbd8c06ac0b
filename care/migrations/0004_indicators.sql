-- What a quarter came to: published figures with everything they rest on. A published figure never changes; late data make a revision.

alter table region add column population int check (population >= 0);   -- who lives there, by the census: what records are a share of

create table indicator (
    indicator bigint generated always as identity primary key,
    quarter date not null,                -- its first day
    code text not null,
    level text not null check (level in ('grid', 'team', 'centre', 'district')),
    place text not null,
    revision int not null,
    numerator int not null,
    denominator int not null,
    median double precision,              -- of what is a time: days or hours, as the code says
    digest text not null,                 -- of every member: the same data make the same digest
    published_at timestamptz not null,
    unique (quarter, code, level, place, revision)
);
create table indicator_member (
    indicator bigint not null references indicator,
    member text not null,                 -- the resident, case, referral or measurement that counts as one
    resident text,
    counted boolean not null,             -- in the numerator
    why text not null default '',
    measurements bigint[] not null default '{}',
    value double precision,
    primary key (indicator, member)
);
create index on indicator_member (resident);
-- a person's cases, for the lists that show whether one is open
create index on care_case (resident);
