-- Whether an episode was already urgent: what becomes urgent later climbs once.

alter table rule_state add column urgent boolean not null default false;
