-- Alerts, the rules' discrete state, timers, facts. One owner: the rules room.

create table alert (
    alert bigint generated always as identity primary key,
    subject text not null,
    family text not null,
    rule text not null,
    pack text not null,                   -- name@version
    pack_digest text not null,
    state text not null check (state in ('pending', 'firing', 'unconfirmed', 'cleared', 'closed')),
    severity text not null check (severity in ('P1', 'P2', 'P3', 'P4')),
    why text not null,
    opened_at timestamptz not null,
    updated_at timestamptz not null,
    ended_at timestamptz,
    deadline timestamptz,                 -- when a pending alert fires by itself
    explanation jsonb not null,
    check ((ended_at is not null) = (state in ('cleared', 'closed')))
);
-- at most one open alert for a subject and family: the database's promise, not our care
create unique index alert_one_open on alert (subject, family) where state in ('pending', 'firing', 'unconfirmed');
create index on alert (subject, opened_at desc);

-- Every movement, with the measurement that caused it: an alert can show the bytes it came from.
create table alert_log (
    alert bigint not null references alert,
    n int not null,
    at timestamptz not null,
    state text not null,
    severity text not null,
    why text not null,
    measurement bigint,
    explanation jsonb not null,
    primary key (alert, n)
);
create index on alert_log (measurement) where measurement is not null;

-- Times are µs since the epoch, as the engine counts them.
create table rule_state (
    subject text not null,
    rule text not null,
    phase smallint not null,
    first bigint not null,
    last bigint not null,
    deadline bigint not null,
    clears smallint not null,
    last_clear bigint not null,
    weak boolean not null,
    count int not null,
    primary key (subject, rule)
);

create table rule_timer (
    subject text not null,
    rule text not null,
    due_at timestamptz not null,
    primary key (subject, rule)
);
create index on rule_timer (due_at);

-- Journal of fired timers: with the readings it replays to the same alerts.
create table rule_tick (
    tick bigint generated always as identity primary key,
    at timestamptz not null,
    subject text not null,
    rule text not null,
    due_at timestamptz not null
);

-- What is known about a person. No row: unknown, which is not "no".
create table subject_fact (
    subject text not null,
    fact text not null,
    value jsonb not null,
    recorded_at timestamptz not null,
    recorded_by text not null,
    primary key (subject, fact)
);
