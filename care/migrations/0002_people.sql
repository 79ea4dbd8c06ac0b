-- People and places: regions, centres, hospitals, who works where and when, who lives where and with whom.

create table region (
    region text primary key,
    parent text references region,
    level text not null check (level in ('district', 'county', 'street', 'town', 'community', 'village', 'grid')),
    name text not null
);

create table centre (
    centre text primary key,
    name text not null,
    region text references region,
    opens time not null default '08:00',
    closes time not null default '17:30',
    check (opens < closes)
);
insert into centre (centre, name) select distinct centre, centre from team;
alter table team add foreign key (centre) references centre;

create table hospital (
    hospital text primary key,
    name text not null,
    region text references region
);

alter table staff alter column team drop not null;   -- sentinels, supervisors and hospital doctors have none
alter table staff add column left_on date;

-- what somebody is, and where: a team, a centre, a hospital or a region, by role
create table membership (
    staff text not null references staff,
    role text not null check (role in ('family_doctor', 'team_lead', 'nurse', 'public_health', 'centre_duty', 'supervisor', 'hospital',
                                       'sentinel')),
    place text not null,
    primary key (staff, role, place)
);
create index on membership (role, place);
insert into membership select staff, 'family_doctor', team from staff where team is not null;

-- who is on duty when; leave, and who covers it; days that are not what the weekday says
create table shift (
    shift bigint generated always as identity primary key,
    staff text not null references staff,
    centre text not null references centre,
    during tstzrange not null check (not isempty(during))
);
create index on shift using gist (during);
create table leave (
    leave bigint generated always as identity primary key,
    staff text not null references staff,
    cover text references staff check (cover <> staff),
    during tstzrange not null check (not isempty(during))
);
create index on leave (staff);
create table calendar_day (
    day date primary key,
    works boolean not null,               -- false: a holiday; true: a weekend day worked instead (调休)
    name text not null
);

-- where a person can be reached: an address of the notification library, sealed; tried in this order
create table contact (
    staff text references staff,
    resident text references resident,
    place int not null,
    kind text not null,                   -- wecom, sms, mail, webhook …: what may be shown
    sealed bytea not null,
    check (num_nonnulls(staff, resident) = 1)
);
create unique index contact_of_staff on contact (staff, place) where staff is not null;
create unique index contact_of_resident on contact (resident, place) where resident is not null;

create table household (
    household bigint generated always as identity primary key,
    region text references region
);
alter table resident add column region text references region;         -- the grid cell
alter table resident add column household bigint references household;
alter table resident add column tier text check (tier in ('green', 'yellow', 'red'));
alter table resident add column moved_on date;
alter table resident add column updated_at timestamptz not null default now();
create index on resident (region);
create index on resident (household) where household is not null;

-- numbers and addresses of a person, sealed; `lookup` is a keyed digest, the only way to find somebody by a number
create table resident_identity (
    resident text not null references resident,
    kind text not null check (kind in ('id_card', 'social_security', 'health_card', 'phone', 'address')),
    sealed bytea not null,
    lookup bytea not null,
    primary key (resident, kind)
);
create unique index identity_is_one_persons on resident_identity (kind, lookup) where kind in ('id_card', 'social_security', 'health_card');
create index on resident_identity (kind, lookup);

create table guardian (
    resident text not null references resident,
    guardian text not null references resident check (guardian <> resident),
    relation text not null,
    since date not null,
    until date,
    primary key (resident, guardian)
);
create index on guardian (guardian);

alter table contract add column package text not null default 'basic';
alter table contract add column ended_why text;
create index on contract (team, doctor);

create table resident_log (
    entry bigint generated always as identity primary key,
    resident text not null references resident,
    at timestamptz not null default now(),
    actor text not null,
    what text not null
);
create index on resident_log (resident, entry);
