-- The ladder of a case or a task, what people were told, tasks, and the whole way of a referral.

alter table care_case add column called text;                        -- severity the present ladder was laid for; null: none
alter table care_case add column snoozed_until timestamptz;
alter table case_log add column coded text;                          -- outcome of a call

-- who must do what until when: every clock of care has a row, an owner and an end
create table task (
    task bigint generated always as identity primary key,
    key text not null unique,             -- what makes it once, whoever asks for it how often
    kind text not null check (kind in ('referral_answer', 'referral_follow_up', 'down_answer', 'follow_up', 'contact', 'home_check', 'report',
                                       'renewal')),
    resident text references resident,
    care_case bigint references care_case,
    referral bigint references referral,
    team text not null references team,
    role text not null,                   -- family_doctor | nurse | sentinel | hospital …: whose list it is on
    place text,                           -- the hospital or grid, where the role is not the team's
    owner text references staff,          -- the person, where one is meant
    reason text not null default '',
    opened_at timestamptz not null,
    due_at timestamptz not null,
    state text not null default 'open' check (state in ('open', 'done', 'dropped')),
    outcome text,
    note text not null default '',
    measurement bigint,                   -- what a device saw at the visit
    ended_at timestamptz,
    ended_by text,
    version int not null default 1,
    check ((ended_at is not null) = (state <> 'open'))
);
create index on task (team, due_at) where state = 'open';
create index on task (role, place, due_at) where state = 'open';
create index on task (resident);
create table task_log (
    entry bigint generated always as identity primary key,
    task bigint not null references task,
    at timestamptz not null,
    actor text not null,
    what text not null,
    why text not null default ''
);
create index on task_log (task, entry);

create table rung (
    rung bigint generated always as identity primary key,
    care_case bigint references care_case,
    task bigint references task,
    page int not null,
    level int not null,
    round int not null default 0,
    role text not null,
    severity text not null,
    due_at timestamptz not null,
    again interval,                       -- the last rung comes again after this, until somebody acts
    state text not null default 'waiting' check (state in ('waiting', 'told', 'stopped')),
    ended_at timestamptz,
    told text[] not null default '{}',
    check (num_nonnulls(care_case, task) = 1)
);
create unique index rung_of_case on rung (care_case, page, level, round) where care_case is not null;
create unique index rung_of_task on rung (task, page, level, round) where task is not null;
create index rung_due on rung (due_at, level) where state = 'waiting';

-- one telling of one person; `fence` is raised by whoever sends it, and only its holder may write what became of it
create table notice (
    notice bigint generated always as identity primary key,
    key uuid not null unique default gen_random_uuid(),   -- the provider's idempotency key
    rung bigint references rung,
    care_case bigint references care_case,
    task bigint references task,
    staff text references staff,
    resident text references resident,
    severity text not null,
    body text not null,
    state text not null default 'waiting' check (state in ('waiting', 'sending', 'sent', 'stopped', 'failed')),
    place int not null default 0,         -- which of the person's contacts
    tries int not null default 0,
    fence int not null default 0,
    try_at timestamptz not null,
    lease_until timestamptz,
    created_at timestamptz not null,
    sent_at timestamptz,
    read_at timestamptz,
    error text not null default '',
    check (num_nonnulls(staff, resident) = 1)
);
create unique index notice_once on notice (rung, staff) where staff is not null;
create unique index notice_once_resident on notice (rung, resident) where resident is not null;
create index on notice (try_at) where state in ('waiting', 'sending');
create index on notice (care_case);
create index on notice (staff) where read_at is null;

create function tell_ladder() returns trigger language plpgsql as $$
begin
    notify ladder;
    return null;
end $$;
create trigger tell_ladder after insert on rung for each statement execute function tell_ladder();
create trigger tell_notice after insert on notice for each statement execute function tell_ladder();

-- referral: suggested → accepted | rejected → booked → seen → outcome → down_suggested → down_accepted → community
alter table referral drop constraint referral_state_check;
alter table referral add check (state in ('suggested', 'accepted', 'rejected', 'booked', 'seen', 'outcome', 'down_suggested',
                                          'down_accepted', 'community', 'cancelled'));
drop index referral_care_case_idx;
create unique index referral_one_under_way on referral (care_case) where state not in ('rejected', 'community', 'cancelled');
alter table referral add column hospital_id text references hospital;
alter table referral add column criteria jsonb not null default '[]';
alter table referral add column booked_for timestamptz;
alter table referral add column seen_at timestamptz;
alter table referral add column outcome text not null default '';
alter table referral add column targets jsonb not null default '{}';
alter table referral add column updated_at timestamptz not null default now();
create index on referral (resident);
create index on referral (hospital_id) where state not in ('rejected', 'community', 'cancelled');
create index on referral_log (referral, entry);
