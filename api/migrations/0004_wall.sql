-- The second wall: the API's own role, which owns nothing and sees only the people whom its account may see, whatever a route forgot.
-- Readings lie where row-level security cannot (columnstore, continuous aggregates): there the role has no grant, and reads through
-- definer's views that ask the same question. The worker and the notifier use the owner's role, which no HTTP process has.

do $$ begin
    if not exists (select from pg_roles where rolname = 'yizhan_api') then
        create role yizhan_api nologin;
    end if;
exception when insufficient_privilege then
    raise exception 'the role of the API is missing; as a superuser: create role yizhan_api login password ''…''';
end $$;

create schema wall;
grant usage on schema wall to yizhan_api;

create function wall.own(what text) returns text language sql stable as $$ select nullif(current_setting('yizhan.' || what, true), '') $$;
create function wall.list(what text) returns text[] language sql stable as
    $$ select coalesce(string_to_array(nullif(current_setting('yizhan.' || what, true), ''), ','), '{}') $$;

-- who asks, for this transaction: their role, person, teams (their own, covered, on duty for) and places
create function wall.enter(who text) returns void language plpgsql security definer set search_path = public, pg_temp as $$
declare
    found account%rowtype;
    covered text[];
    teams text[] := '{}';
    places text[] := '{}';
begin
    select * into found from account where account = who and revoked_at is null;
    if found.role in ('doctor', 'nurse', 'supervisor', 'hospital', 'sentinel') and exists
            (select from staff where staff = found.refers_to and (left_on is null or left_on > current_date)) then
        select array_append(array_agg(staff), found.refers_to) into covered from leave where cover = found.refers_to and during @> now();
        places := array(select place from membership where staff = any(covered) and role in ('hospital', 'sentinel'));
        if found.role not in ('hospital', 'sentinel') then
            teams := array(
                select team from staff where staff = any(covered) and team is not null
                union select place from membership where staff = any(covered) and role in ('family_doctor', 'team_lead', 'nurse', 'public_health')
                union select t.team from team t where t.centre in
                    (select place from membership where staff = any(covered) and role in ('supervisor', 'centre_duty')
                     union select centre from shift where staff = found.refers_to and during @> now())
                union select 'centre' where exists (select from membership where staff = any(covered) and role = 'supervisor'));
        end if;
    end if;
    perform set_config('yizhan.account', coalesce(found.account, ''), true), set_config('yizhan.role', coalesce(found.role, ''), true),
            set_config('yizhan.person', coalesce(found.refers_to, ''), true), set_config('yizhan.teams', array_to_string(teams, ','), true),
            set_config('yizhan.places', array_to_string(places, ','), true), set_config('yizhan.sees', '', true),
            set_config('yizhan.case', '', true);
end $$;

-- what the event stream reads once for everybody who works a team's queue
create function wall.enter_team(team text) returns void language plpgsql as $$
begin
    perform set_config('yizhan.account', '', true), set_config('yizhan.role', 'nurse', true), set_config('yizhan.person', '', true),
            set_config('yizhan.teams', team, true), set_config('yizhan.places', '', true), set_config('yizhan.sees', '', true),
            set_config('yizhan.case', '', true);
end $$;

-- may this account see this person (or this device's unclaimed)? The last yes is remembered until the transaction ends.
create function wall.sees(who text) returns boolean language plpgsql stable security definer set search_path = public, pg_temp as $$
declare
    role text := wall.own('role');
    yes boolean;
begin
    if who is null or role is null then
        return false;
    elsif who = current_setting('yizhan.sees', true) then
        return true;
    elsif role = 'admin' then
        yes := true;
    elsif role = 'resident' then
        yes := who = wall.own('person') or exists (select from guardian where resident = who and guardian = wall.own('person')
            and since <= current_date and (until is null or until > current_date) and consents(who, 'guardian'));
    elsif role in ('doctor', 'nurse', 'supervisor') then
        yes := exists (select from contract where resident = who and during @> current_date and team = any(wall.list('teams')))
            or exists (select from care_case where subject = who and team = any(wall.list('teams')) and state not in ('resolved', 'dismissed'))
            or exists (select from device join duty using (site) where who = 'device:' || device and team = any(wall.list('teams')))
            or (role <> 'nurse' and exists (select from break_glass where account = wall.own('account') and resident = who and until > now()));
    elsif role = 'hospital' then
        yes := exists (select from referral where resident = who and hospital_id = any(wall.list('places'))
            and state not in ('suggested', 'rejected', 'community', 'cancelled') and consents(who, 'hospital'));
    else
        yes := false;
    end if;
    if yes then
        perform set_config('yizhan.sees', who, true);
    end if;
    return yes;
end $$;

-- a sentinel knows who lives in their grid cells, and no more of them
create function wall.lives_here(who text) returns boolean language sql stable security definer set search_path = public, pg_temp as
    $$ select exists (select from resident where resident = who and region = any(wall.list('places')) and wall.own('role') = 'sentinel') $$;

-- a case of one's teams, or of a person one sees
create function wall.has_case(number bigint) returns boolean language sql stable security definer set search_path = public, pg_temp as
    $$ select exists (select from care_case where care_case = number and (team = any(wall.list('teams')) or wall.sees(subject))) $$;

-- a case in one's own queue; still so in the transaction that hands it over
create function wall.works_on(number bigint) returns boolean language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
    if number::text = current_setting('yizhan.case', true) then
        return true;
    elsif exists (select from care_case where care_case = number and team = any(wall.list('teams'))) then
        perform set_config('yizhan.case', number::text, true);
        return true;
    end if;
    return false;
end $$;

-- a kiosk may ask whether somebody exists, and gets nothing more
create function wall.exists(who text) returns boolean language sql stable security definer set search_path = public, pg_temp as
    $$ select exists (select from resident where resident = who) and wall.own('role') is not null $$;

-- who has a number, by its keyed digest: for a station that reads a card, and for those who then may see the person
create function wall.found(what text, key bytea) returns table (resident text)
    language sql stable security definer set search_path = public, pg_temp as
    $$ select i.resident from resident_identity i where i.kind = what and i.lookup = key
       and wall.own('role') in ('station', 'admin', 'doctor', 'nurse', 'supervisor') order by 1 $$;

-- lengths and heads of the audit chains, for the anchor
create function wall.heads(since timestamptz) returns table (chain text, n bigint, digest bytea)
    language sql stable security definer set search_path = public, pg_temp as
    $$ select distinct on (a.chain) a.chain, a.n, a.digest from audit a where a.at > since order by a.chain, a.n desc $$;

-- readings, by the same question (a view reads with its owner's rights)
create view wall.measurement with (security_barrier) as select * from public.measurement m where wall.sees(m.subject);
create view wall.measurement_kept with (security_barrier) as select * from public.measurement_kept m where wall.sees(m.subject);
-- what packs in shadow would have raised, but not for whom
create view wall.shadow_item as select at, rule, pack, pack_digest, state, severity, why from public.shadow_item;
grant select on all tables in schema wall to yizhan_api;

-- what names no person
grant select on team, staff, duty, region, centre, hospital, membership, shift, leave, calendar_day, site, gateway, gateway_status, device_health, position, quarantine_waiting, device,
    rule_pack, registry_version, pairing, enrolment, account, session, audit_anchor to yizhan_api;
grant insert, update on staff, region, centre, hospital, team, membership, shift, leave, calendar_day, site, gateway, device, pairing,
    enrolment, account, session, registry_version to yizhan_api;
grant insert on audit_anchor to yizhan_api;
grant delete on enrolment to yizhan_api;

-- what does: grants first, then the policies that narrow them
grant select on resident, contract, guardian, resident_identity, resident_log, contact, care_case, case_alert, case_log, alert, alert_log,
    referral, referral_log, task, task_log, rung, notice, break_glass, intake, subject_fact, parameter, binding, checkin, outbox, audit,
    household to yizhan_api;
grant insert, update on resident, contract, guardian, resident_identity, care_case, referral, task, rung, notice, break_glass, household,
    contact to yizhan_api;
grant insert on resident_log, case_log, referral_log, task_log, intake, outbox, audit to yizhan_api;
grant delete on contact to yizhan_api;

do $$
declare
    one text;
begin
    foreach one in array array['resident', 'contract', 'guardian', 'resident_identity', 'resident_log', 'contact', 'care_case', 'case_alert',
            'case_log', 'alert', 'alert_log', 'referral', 'referral_log', 'task', 'task_log', 'rung', 'notice', 'break_glass', 'intake',
            'subject_fact', 'parameter', 'binding', 'checkin', 'outbox', 'audit', 'account', 'session', 'enrolment', 'pairing', 'site',
            'gateway', 'device', 'staff', 'region', 'centre', 'hospital', 'team', 'membership', 'shift', 'leave', 'calendar_day'] loop
        execute format('alter table %I enable row level security', one);
    end loop;
end $$;

create policy sees on resident for select to yizhan_api using (wall.sees(resident) or wall.lives_here(resident));
create policy makes on resident for insert to yizhan_api with check (wall.own('role') = 'admin');
create policy keeps on resident for update to yizhan_api using
    (wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor', 'sentinel') and (wall.sees(resident) or wall.lives_here(resident)));

create policy sees on contract for select to yizhan_api using
    (team = any((select wall.list('teams'))::text[]) or wall.sees(resident) or wall.lives_here(resident));
create policy signs on contract for insert to yizhan_api with check
    (wall.own('role') = 'admin' or (wall.own('role') in ('doctor', 'nurse', 'supervisor') and wall.sees(resident)));
create policy ends on contract for update to yizhan_api using
    (wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor', 'sentinel') and (wall.sees(resident) or wall.lives_here(resident)));

create policy sees on guardian for select to yizhan_api using (wall.sees(resident) or guardian = wall.own('person'));
create policy keeps on guardian for insert to yizhan_api with check (wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor') and wall.sees(resident));
create policy ends on guardian for update to yizhan_api using (wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor') and wall.sees(resident));
create policy sees on resident_identity for select to yizhan_api using (wall.sees(resident));
create policy keeps on resident_identity for insert to yizhan_api with check (wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor') and wall.sees(resident));
create policy changes on resident_identity for update to yizhan_api using (wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor') and wall.sees(resident));
create policy sees on resident_log for select to yizhan_api using (wall.sees(resident));
create policy writes on resident_log for insert to yizhan_api with check
    (wall.own('role') = 'admin' or (wall.own('role') in ('doctor', 'nurse', 'supervisor') and wall.sees(resident)) or wall.lives_here(resident));
create policy own on contact for all to yizhan_api using (staff = wall.own('person') or wall.own('role') = 'admin' or wall.sees(resident));

create policy sees on care_case for select to yizhan_api using
    (team = any((select wall.list('teams'))::text[]) or wall.sees(subject) or wall.has_case(care_case));
create policy works on care_case for update to yizhan_api using (wall.works_on(care_case)) with check (true);
create policy sees on case_alert for select to yizhan_api using (exists (select from care_case c where c.care_case = case_alert.care_case));
create policy sees on case_log for select to yizhan_api using (exists (select from care_case c where c.care_case = case_log.care_case));
create policy writes on case_log for insert to yizhan_api with check (wall.works_on(care_case));
create index on case_alert (alert);
create policy sees on alert for select to yizhan_api using
    (exists (select from case_alert l where l.alert = alert.alert) or wall.sees(subject));
create policy sees on alert_log for select to yizhan_api using (exists (select from alert a where a.alert = alert_log.alert));

create policy sees on referral for select to yizhan_api using
    ((hospital_id = any((select wall.list('places'))::text[]) and state <> 'suggested')
     or (wall.own('role') <> 'hospital' and (wall.sees(resident) or wall.has_case(care_case))));
create policy suggests on referral for insert to yizhan_api with check (wall.own('role') in ('doctor', 'supervisor') and wall.works_on(care_case));
create policy steps on referral for update to yizhan_api using
    (wall.own('role') in ('doctor', 'supervisor', 'hospital') and (hospital_id = any((select wall.list('places'))::text[]) or wall.works_on(care_case)))
    with check (true);
create policy sees on referral_log for select to yizhan_api using (exists (select from referral r where r.referral = referral_log.referral));
create policy writes on referral_log for insert to yizhan_api with check (exists (select from referral r where r.referral = referral_log.referral));

create policy sees on task for select to yizhan_api using
    (team = any((select wall.list('teams'))::text[]) or place = any((select wall.list('places'))::text[]) or owner = wall.own('person')
     or wall.sees(resident) or (kind in ('report', 'home_check') and wall.lives_here(resident)));
create policy makes on task for insert to yizhan_api with check (wall.own('role') in ('doctor', 'nurse', 'supervisor', 'hospital', 'sentinel'));
create policy works on task for update to yizhan_api using
    (team = any((select wall.list('teams'))::text[]) or place = any((select wall.list('places'))::text[]) or owner = wall.own('person')
     or (wall.own('role') = 'hospital' and wall.sees(resident)) or wall.lives_here(resident)) with check (true);
create policy sees on task_log for select to yizhan_api using (exists (select from task t where t.task = task_log.task));
create policy writes on task_log for insert to yizhan_api with check (exists (select from task t where t.task = task_log.task));

create policy sees on rung for select to yizhan_api using
    (exists (select from care_case c where c.care_case = rung.care_case) or exists (select from task t where t.task = rung.task));
create policy lays on rung for insert to yizhan_api with check
    (wall.works_on(care_case) or exists (select from task t where t.task = rung.task));
create policy stops on rung for update to yizhan_api using
    (wall.works_on(care_case) or exists (select from task t where t.task = rung.task));
create policy own on notice for select to yizhan_api using (staff = wall.own('person') or wall.has_case(care_case));
create policy reads on notice for update to yizhan_api using (staff = wall.own('person'));

create policy sees on break_glass for select to yizhan_api using (account = wall.own('account') or wall.own('role') = 'audit');
create policy breaks on break_glass for insert to yizhan_api with check (account = wall.own('account') and wall.own('role') in ('doctor', 'supervisor'));
create policy judges on break_glass for update to yizhan_api using (wall.own('role') = 'audit' and account <> wall.own('account'));

create policy own on intake for select to yizhan_api using (account in (wall.own('account'), wall.own('person'))
    or (kind = 'checkin' and body ->> 'station' = wall.own('person')));
create policy asks on intake for insert to yizhan_api with check (account in (wall.own('account'), wall.own('person')) and case
    when kind in ('checkin', 'checkout', 'measurement', 'symptoms') then wall.own('role') = 'station'
    when kind in ('facts', 'claim') then wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor') and wall.sees(subject)
    when kind = 'reattribute' then wall.own('role') in ('admin', 'doctor', 'nurse', 'supervisor') and wall.sees(subject)
        and (body ->> 'resident' is null or wall.sees(body ->> 'resident'))
    when kind in ('bind', 'unbind') then wall.own('role') = 'admin' or (wall.own('role') = 'resident' and subject = wall.own('person'))
    when kind in ('rebind', 'pack') then wall.own('role') = 'admin'
    when kind = 'parameter' then wall.own('role') = 'admin'
        or (wall.own('role') in ('doctor', 'nurse', 'supervisor') and body ->> 'level' = 'resident' and wall.sees(body ->> 'scope'))
    when kind = 'case_end' then wall.own('role') in ('doctor', 'supervisor') and wall.works_on((body ->> 'case')::bigint)
    else false end);

create policy sees on subject_fact for select to yizhan_api using (wall.sees(subject));
create policy sees on parameter for select to yizhan_api using (level <> 'resident' or wall.sees(scope));
create policy sees on binding for select to yizhan_api using (wall.sees(resident));
create policy own on checkin for select to yizhan_api using (station = wall.own('person') or wall.sees(resident));
create policy own on outbox for select to yizhan_api using (exists (select from checkin c where c.checkin = outbox.checkin));
create policy tells on outbox for insert to yizhan_api with check (wall.own('role') = 'admin' and kind = 'command');

grant select, insert on consent to yizhan_api;
grant select, insert, update on evidence to yizhan_api;
alter table consent enable row level security;
alter table evidence enable row level security;
create policy sees on consent for select to yizhan_api using (wall.sees(resident));
create policy says on consent for insert to yizhan_api with check
    ((wall.own('role') = 'resident' and resident = wall.own('person'))
     or (wall.own('role') in ('doctor', 'nurse', 'supervisor') and wall.sees(resident)));
create policy sees on evidence for select to yizhan_api using
    (exists (select from referral r where r.referral = evidence.referral and (wall.own('role') <> 'hospital' or consents(r.resident, 'hospital'))));
create policy makes on evidence for insert to yizhan_api with check
    (exists (select from referral r where r.referral = evidence.referral) and wall.own('role') in ('doctor', 'nurse', 'supervisor', 'hospital'));
create policy takes on evidence for update to yizhan_api using
    (wall.own('role') = 'hospital' and exists (select from referral r where r.referral = evidence.referral));

-- figures are about places; what they rest on is about persons
grant select on indicator, indicator_member to yizhan_api;
alter table indicator_member enable row level security;
create policy sees on indicator_member for select to yizhan_api using
    (wall.sees(resident) or (resident is null and wall.own('role') in ('doctor', 'nurse', 'supervisor')));

create policy reads on audit for select to yizhan_api using
    (wall.own('role') = 'audit' or exists (select from unnest(residents) as one where wall.sees(one)));
create policy writes on audit for insert to yizhan_api with check (true);

-- accounts and what they are made from: before somebody has come in (a login, a code redeemed) there is no role
create policy sees on account for select to yizhan_api using (true);
create policy makes on account for insert to yizhan_api with check (wall.own('role') in ('security', 'admin'));
create policy changes on account for update to yizhan_api using
    (wall.own('role') is null or wall.own('role') in ('security', 'admin') or account = wall.own('account'));
create policy any_of on session for all to yizhan_api using (wall.own('role') is null or account = wall.own('account'));
create policy any_of on enrolment for all to yizhan_api using (true)
    with check (wall.own('role') is null or wall.own('role') in ('admin', 'resident'));
create policy admin on pairing for all to yizhan_api using (wall.own('role') = 'admin');
create policy sees on site for select to yizhan_api using (true);
create policy makes on site for insert to yizhan_api with check (wall.own('role') is null or wall.own('role') = 'admin');
create policy sees on gateway for select to yizhan_api using (true);
create policy makes on gateway for insert to yizhan_api with check (wall.own('role') is null or wall.own('role') = 'admin');
create policy changes on gateway for update to yizhan_api using (wall.own('role') is null or wall.own('role') = 'admin');
create policy sees on device for select to yizhan_api using (true);
create policy makes on device for insert to yizhan_api with check (wall.own('role') = 'admin');
create policy keeps on device for update to yizhan_api using (wall.own('role') = 'admin');

-- places, people who work there, their hours: known to all who come in, kept by the administrator; rosters also by the supervisor
do $$
declare
    one text;
begin
    foreach one in array array['staff', 'region', 'centre', 'hospital', 'team', 'membership', 'shift', 'leave', 'calendar_day'] loop
        execute format('create policy sees on %I for select to yizhan_api using (true)', one);
        execute format('create policy makes on %I for insert to yizhan_api with check (wall.own(''role'') = ''admin''%s)', one, case one
            when 'shift' then ' or wall.own(''role'') = ''supervisor'''
            when 'leave' then ' or wall.own(''role'') = ''supervisor'' or staff = wall.own(''person'')'
            else '' end);
        execute format('create policy keeps on %I for update to yizhan_api using (wall.own(''role'') = ''admin'')', one);
    end loop;
end $$;
