-- An account of somebody whom an identity provider outside knows: a name, and no password of ours.

alter table account drop constraint account_check1;
alter table account add constraint password_has_a_name check (login is not null or password is null);
alter table account add column external boolean not null default false;
alter table account add check (external = (login is not null and password is null));
