-- Who said that a measurement is somebody else's, and why. A measurement keeps its number and its bytes.
create table attribution_log (
    entry bigint generated always as identity primary key,
    at timestamptz not null,
    measurement bigint not null,
    from_subject text not null,
    to_subject text not null,
    account text not null,
    why text not null
);
create index on attribution_log (measurement);
