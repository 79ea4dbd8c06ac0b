-- What a person agreed to, and took back, each purpose by itself: rows are only added, the newest of a purpose holds.

create table consent (
    consent bigint generated always as identity primary key,
    resident text not null references resident,
    purpose text not null check (purpose in ('hospital', 'guardian', 'notify')),
    given boolean not null,
    at timestamptz not null,
    by text not null,
    channel text not null                 -- console, kiosk, paper, app
);
create index on consent (resident, purpose, consent desc);

-- Who says a word about their own data changes nothing else of the record: the record notes it by itself.
create function consent_noted() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into resident_log (resident, at, actor, what)
        values (new.resident, new.at, new."by", format('consent %s %s', new.purpose, case when new.given then 'given' else 'withdrawn' end));
    update resident set updated_at = now() where resident = new.resident;
    return null;
end $$;
create trigger consent_noted after insert on consent for each row execute function consent_noted();

-- The newest word on a purpose; nothing was ever said: it holds (the contract or the referral asked for it).
create function consents(who text, what text) returns boolean language sql stable security definer set search_path = public, pg_temp as
    $$ select coalesce((select given from consent where resident = who and purpose = what order by consent desc limit 1), true) $$;

-- What was handed over with a referral: made once, taken once, with a receipt.
create table evidence (
    referral bigint primary key references referral,
    bundle jsonb not null,
    digest text not null,
    made_at timestamptz not null,
    made_by text not null,
    received_at timestamptz,
    received_by text,
    check ((received_at is null) = (received_by is null))
);
