-- Local logins: a name, a password (argon2id), a second factor; sessions that end; and who read what about whom.

alter table account alter column token_digest drop not null;
alter table account add column login text unique;
alter table account add column password text;              -- argon2id, its parameters in it
alter table account add column totp bytea;                 -- sealed
alter table account add column totp_step bigint not null default 0;   -- of the last code taken: none is taken twice
alter table account add column failures int not null default 0;
alter table account add column locked_until timestamptz;
alter table account add check ((login is null) = (password is null));
alter table account add check (token_digest is not null or login is not null);

create table session (
    digest bytea primary key,                              -- of 256 random bits
    account text not null references account,
    began_at timestamptz not null,
    seen_at timestamptz not null,
    ended_at timestamptz
);
create index on session (account) where ended_at is null;

-- One chain for each process and day; each entry's digest covers the one before. Heads are anchored together. Append only.
create table audit (
    chain text not null,                  -- process and day
    n bigint not null,
    at timestamptz not null,
    account text not null,
    role text not null,
    what text not null,                   -- route and method
    residents text[] not null,            -- whose data
    about text not null default '',       -- case, referral or task
    why text not null default '',
    outcome text not null,
    digest bytea not null,
    primary key (chain, n)
);
create index on audit using gin (residents);
create index on audit (at);
create table audit_anchor (
    anchor bigint generated always as identity primary key,
    at timestamptz not null,
    heads jsonb not null,                 -- chain → [n, digest]
    digest bytea not null                 -- covers the anchor before and the heads, keyed
);
-- a look at somebody who is nobody's to this doctor, for a reason, an hour long, looked at again by somebody else
create table break_glass (
    break_glass bigint generated always as identity primary key,
    account text not null references account,
    resident text not null references resident,
    why text not null,
    at timestamptz not null,
    until timestamptz not null,
    reviewed_at timestamptz,
    reviewed_by text,
    verdict text check (verdict in ('justified', 'not_justified')),
    check ((reviewed_at is null) = (verdict is null))
);
create index on break_glass (account, resident, until);

create function never_changes() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is only appended to';
end $$;
create trigger audit_never_changes before update or delete or truncate on audit for each statement execute function never_changes();
create trigger anchor_never_changes before update or delete or truncate on audit_anchor for each statement execute function never_changes();
