-- How devices do, looked at once a day: last heard, how much, whether they say that their battery is low, whether their values wander.

create table device_health (
    device_no bigint primary key references device,
    looked_at timestamptz not null,
    last_at timestamptz,                   -- of a measurement, within sixty days
    n int not null,                        -- measurements in thirty days
    battery_low_at timestamptz,            -- when it last said so
    shift double precision,                -- station's cuffs: mean systolic of thirty days less that of the thirty before, mm[Hg]
    spread double precision                -- standard error of that difference
);
