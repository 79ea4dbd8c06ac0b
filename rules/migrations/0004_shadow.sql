-- What packs in shadow would have raised: counted and kept, never paged.

create table shadow_item (
    shadow_item bigint generated always as identity primary key,
    at timestamptz not null,
    subject text not null,
    rule text not null,
    pack text not null,
    pack_digest text not null,
    state text not null,
    severity text not null,
    why text not null,
    measurement bigint
);
create index on shadow_item (at);
