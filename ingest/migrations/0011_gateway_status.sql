-- Whether a gateway is connected, as it or its last will said: a device that cannot be heard is not a person who went silent.
-- Beside the registry, which workers remember until it changes.

create table gateway_status (
    gateway text primary key references gateway,
    online boolean not null,
    since timestamptz not null default now()
);
