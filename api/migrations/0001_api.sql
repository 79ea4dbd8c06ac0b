-- Accounts and enrolment codes. One owner: the api room. No account exists until `yizhan` makes one and prints it.

create table account (
    account text primary key,
    role text not null check (role in ('admin', 'doctor', 'station', 'resident')),
    refers_to text,                       -- staff, gateway or resident, by role
    token_digest bytea not null unique,   -- SHA-256 of 256 random bits
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    check ((role = 'admin') = (refers_to is null))
);

-- Single-use codes. The part before the dash finds the row, so that wrong guesses can be counted.
create table enrolment (
    lookup text primary key,
    digest bytea not null,
    kind text not null check (kind in ('gateway', 'device')),
    names jsonb not null,
    created_by text not null references account,
    expires_at timestamptz not null,
    tries int not null default 0,
    used_at timestamptz
);
