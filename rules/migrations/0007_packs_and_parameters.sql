-- Packs put in force while the workers run, beside those that ship; and what centres and residents have of their own.

create table rule_pack (
    rule_pack bigint generated always as identity primary key,
    pack text not null,
    version text not null,
    digest text not null,
    text text not null,
    activated_at timestamptz not null,
    activated_by text not null,
    retired_at timestamptz,
    retired_by text
);
-- of each guideline at most one version is in force
create unique index rule_pack_in_force on rule_pack (pack) where retired_at is null;

-- A parameter of a pack, for everybody of a centre ('*': of all of them) or for one resident; the pack's clamp holds whatever stands here.
create table parameter (
    level text not null check (level in ('centre', 'resident')),
    scope text not null,
    pack text not null,
    name text not null,
    value double precision not null,
    recorded_at timestamptz not null,
    recorded_by text not null,
    primary key (level, scope, pack, name)
);
create index on parameter (scope);

alter table fact_version add column packs bigint not null default 0;
create function pack_changed() returns trigger language plpgsql as $$
begin
    update fact_version set packs = packs + 1;
    return null;
end $$;
create trigger pack_changed after insert or update or delete on rule_pack for each statement execute function pack_changed();
create trigger parameter_changed after insert or update or delete on parameter for each statement execute function fact_changed();
