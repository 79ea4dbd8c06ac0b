-- What workers may remember between transactions: devices and gateways, as long as this number stays the same.

create table registry_version (
    one boolean primary key default true check (one),
    version bigint not null default 0
);
insert into registry_version default values;

create function registry_changed() returns trigger language plpgsql as $$
begin
    update registry_version set version = version + 1;
    return null;
end $$;
create trigger registry_changed after insert or update or delete on device for each statement execute function registry_changed();
create trigger registry_changed after insert or update or delete on gateway for each statement execute function registry_changed();
