-- Residents, contracts, cases, referrals. One owner: the care room.

create table team (
    team text primary key,
    name text not null,
    centre text not null
);

create table staff (
    staff text primary key,
    name text not null,
    team text not null references team
);

-- who answers for a site's unclaimed and unsigned
create table duty (
    site text primary key references site,
    team text not null references team
);

create table resident (
    resident text primary key,            -- opaque; the only name of a person outside this table
    name text not null,
    sex text check (sex in ('male', 'female')),
    birth_date date,
    site text references site,            -- home station, for routing the unsigned
    deceased_on date,
    created_at timestamptz not null default now()
);

create table contract (
    contract bigint generated always as identity primary key,
    resident text not null references resident,
    team text not null references team,
    doctor text not null references staff,
    during daterange not null
);
create index on contract (resident);

create table care_case (
    care_case bigint generated always as identity primary key,
    subject text not null,
    resident text references resident,
    team text not null references team,
    routed_by text not null,              -- contract | duty
    state text not null check (state in ('open', 'acknowledged', 'claimed', 'referred', 'resolved', 'dismissed')),
    severity text not null,
    version int not null default 1,
    opened_at timestamptz not null,
    updated_at timestamptz not null,
    acknowledged_at timestamptz,
    acknowledged_by text,
    claimed_by text,
    last_human_at timestamptz,
    paged_at timestamptz,
    ack_due_at timestamptz,               -- when somebody must have seen it
    ended_at timestamptz,
    outcome text,
    check ((ended_at is not null) = (state in ('resolved', 'dismissed')))
);
-- a case gathers a subject's open alerts: at most one that is not ended
create unique index case_one_open on care_case (subject) where state not in ('resolved', 'dismissed');
create index on care_case (team) where state not in ('resolved', 'dismissed');

create table case_alert (
    care_case bigint not null references care_case,
    alert bigint not null references alert,
    primary key (care_case, alert)
);

create table case_log (
    entry bigint generated always as identity primary key,
    care_case bigint not null references care_case,
    at timestamptz not null,
    actor text not null,                  -- staff, or "system"
    what text not null,                   -- opened | alert | paged | acknowledged | claimed | referred | resolved | dismissed
    from_state text,
    to_state text not null,
    alert bigint,
    why text not null default ''
);
create index on case_log (care_case, entry);

create table referral (
    referral bigint generated always as identity primary key,
    care_case bigint not null references care_case,
    resident text not null references resident,
    state text not null check (state in ('suggested', 'accepted', 'rejected')),
    urgency text not null check (urgency in ('emergency', 'routine')),
    hospital text not null,
    reason text not null,
    suggested_at timestamptz not null,
    follow_up_due date not null,          -- two weeks: the specification's clock, on every referral
    version int not null default 1
);
create unique index on referral (care_case) where state in ('suggested', 'accepted');

create table referral_log (
    entry bigint generated always as identity primary key,
    referral bigint not null references referral,
    at timestamptz not null,
    actor text not null,
    from_state text,
    to_state text not null,
    why text not null default ''
);

create function tell_queue() returns trigger language plpgsql as $$
begin
    perform pg_notify('queue', json_build_object('care_case', new.care_case, 'team', new.team)::text);
    return null;
end $$;
create trigger tell_queue after insert or update on care_case for each row execute function tell_queue();

-- the queue of last resort, so that no case is ever without one; `yizhan check` says when cases land here
insert into team values ('centre', '中心值班', 'centre');
