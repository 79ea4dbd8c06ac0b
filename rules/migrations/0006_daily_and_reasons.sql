-- One row for each resident, metric, setting and local day: what rules about trends look at. Written once the day is over, from
-- measurements of sources that are not weak, and again when measurements of that day change hands.
create table daily_value (
    subject text not null,
    metric smallint not null,
    setting text not null,
    day date not null,
    n int not null,
    mean double precision not null,
    median double precision not null,
    low double precision not null,
    night_median double precision,        -- midnight to six
    primary key (subject, metric, setting, day)
);

-- The rules that hold an alert open, each with its own state: one alert for a subject and family, several reasons.
alter table alert add column reasons jsonb not null default '{}';
update alert set reasons = jsonb_build_object(rule, jsonb_build_object('state', state, 'severity', severity));
