-- What workers may remember between transactions: facts about people, as long as this number stays the same.

create table fact_version (
    one boolean primary key default true check (one),
    version bigint not null default 0
);
insert into fact_version default values;

create function fact_changed() returns trigger language plpgsql as $$
begin
    update fact_version set version = version + 1;
    return null;
end $$;
create trigger fact_changed after insert or update or delete on subject_fact for each statement execute function fact_changed();
