"""All SQL about indicators: who counts in a quarter and why, published once, revised when late data change what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from care.indicator import NAMES, YEAR, Figure, Heaping, Member, at_goal, figures, heaping, next_quarter, quarter_of, to_specification
from ingest import readings
from rules import in_force
from rules.facts import age_years
from vitals.floor.database import Connection

LATE = 2  # quarters back that late data may still change


class Quarter(NamedTuple):
    """A quarter as instants of the deployment's zone, and its last day."""

    first: date
    begin: datetime
    end: datetime
    last: date


def quarter(first: date, zone: str) -> Quarter:
    midnight = [datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC) for day in (first, next_quarter(first))]
    return Quarter(first, midnight[0], midnight[1], next_quarter(first) - timedelta(days=1))


_PEOPLE = """
select r.resident, r.sex, r.birth_date, r.region, k.team, t.centre, r.created_at, lower(k.during) as since,
  exists (select 1 from resident_identity i where i.resident = r.resident and i.kind = 'id_card') as identified,
  (select max(l.at) from resident_log l where l.resident = r.resident and l.at < %(end)s) as moved,
  (select jsonb_object_agg(f.fact, jsonb_build_object('value', f.value, 'at', f.recorded_at)) from subject_fact f
    where f.subject = r.resident and f.recorded_at < %(end)s) as facts,
  (select count(*) from task v where v.resident = r.resident and v.state = 'done' and v.kind in ('follow_up', 'referral_follow_up')
    and v.outcome in ('done', 'visited', 'called', 'hospital') and v.ended_at >= %(year)s and v.ended_at < %(end)s) as visits
from resident r
left join lateral (select * from contract k where k.resident = r.resident and k.during @> %(last)s::date limit 1) k on true
left join team t on t.team = k.team
where r.created_at < %(end)s and (r.deceased_on is null or r.deceased_on > %(last)s) and (r.moved_on is null or r.moved_on > %(last)s)
"""
_CASES = """
select c.care_case, c.resident, c.team, t.centre, r.region, c.state, c.opened_at, c.paged_at, c.ended_at,
  (select min(l.at) from case_log l where l.care_case = c.care_case and l.actor <> 'system') as seen_at,
  (select min(l.at) from case_log l where l.care_case = c.care_case and l.what = 'paged') as first_paged,
  (select r.due_at from rung r where r.care_case = c.care_case and r.page = 1 and r.level = 1 and r.round = 0) as climbs_at,
  (select array_agg(distinct a.measurement) from case_alert j join alert_log a using (alert)
    where j.care_case = c.care_case and a.measurement is not null) as measurements
from care_case c join team t using (team) left join resident r using (resident) where c.opened_at >= %(begin)s and c.opened_at < %(end)s
"""
_REFERRALS = """
select f.referral, f.resident, f.state, c.team, t.centre, r.region, f.seen_at,
  (select min(l.at) from referral_log l where l.referral = f.referral and l.to_state = 'accepted') as accepted_at,
  (select min(l.at) from referral_log l where l.referral = f.referral and l.to_state = 'outcome') as outcome_at,
  (select min(l.at) from referral_log l where l.referral = f.referral and l.to_state = 'down_accepted') as down_at
from referral f join care_case c using (care_case) join team t using (team) join resident r on r.resident = f.resident
where exists (select 1 from referral_log l where l.referral = f.referral and l.to_state = 'accepted'
  and l.at >= %(begin)s and l.at < %(end)s)
"""


async def _rows(connection: Connection, query: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    return await (await connection.execute(query.encode(), arguments)).fetchall()


async def computed(connection: Connection, of: Quarter) -> list[Figure]:
    """Every figure of a quarter as the record has it now."""
    given = {"begin": of.begin, "end": of.end, "last": of.last, "year": of.end - YEAR}
    above = await _regions(connection)
    people = await _rows(connection, _PEOPLE, given)
    latest = await readings.last_of(connection, [row["resident"] for row in people], of.end - YEAR, of.end)
    own = await in_force.parameters(connection, [row["resident"] for row in people])
    census = await _rows(connection, "select region, population from region where population is not null", {})
    known = {row["region"]: row["population"] for row in census}
    found = [_of_census(one, known) for one in _of_people(people, latest, own, of, above)]
    found += [*await _of_cases(connection, given, of, above)]
    found += await _of_referrals(connection, given, above)
    station = await readings.of_stations(connection, of.begin, of.end)
    found += figures("attributed", (
        Member(str(row["measurement"]), row["resident"], row["resident"] is not None, _places(above, None, row["centre"], None),
               (row["measurement"],)) for row in station
    ))  # fmt: skip
    return found


def _of_census(figure: Figure, population: Mapping[str, int]) -> Figure:
    """Records are a share of who lives there, where that is known."""
    if figure.code != "recorded" or figure.place not in population:
        return figure
    return figure._replace(denominator=max(population[figure.place], figure.denominator))


async def _regions(connection: Connection) -> dict[str, dict[str, str]]:
    """region → level → the region above it (or itself) at that level."""
    rows = {row["region"]: row for row in await _rows(connection, "select region, parent, level from region", {})}
    found: dict[str, dict[str, str]] = {}
    for region in rows:
        at, levels = region, {}
        while at is not None:
            level = {"county": "district"}.get(rows[at]["level"], rows[at]["level"])
            levels[level] = at
            at = rows[at]["parent"]
        found[region] = levels
    centres = await _rows(connection, "select centre, region from centre", {})
    return found | {f"centre {row['centre']}": found.get(row["region"], {}) for row in centres}


def _places(above: Mapping[str, Mapping[str, str]], team: str | None, centre: str | None, region: str | None) -> dict[str, str]:
    by_region = above.get(region or "", {}) or above.get(f"centre {centre}", {})
    named = {"team": team, "centre": centre, "grid": by_region.get("grid") if region else None, "district": by_region.get("district")}
    return {level: place for level, place in named.items() if place is not None}


def _of_people(
    people: Sequence[dict[str, Any]], latest: Mapping[str, Mapping[str, dict[str, Any]]], own: in_force.Own, of: Quarter,
    above: Mapping[str, Mapping[str, str]],
) -> Iterable[Figure]:  # fmt: skip
    lists: dict[str, list[Member]] = {code: [] for code in NAMES}
    for row in people:
        who, facts = row["resident"], row["facts"] or {}
        where = _places(above, row["team"], row["centre"], row["region"])
        measured = latest.get(who, {})
        newest = max((one["measured_at"] for one in measured.values()), default=None)
        cites = tuple(sorted({one["measurement"] for one in measured.values()}))
        lists["signed"].append(Member(who, who, row["team"] is not None, where))
        complete = bool(row["identified"] and row["sex"] and row["birth_date"])
        lists["recorded"].append(Member(who, who, complete, where))
        alive = (row["moved"] is not None and row["moved"] >= of.end - YEAR) or newest is not None
        lists["updated"].append(Member(who, who, alive, where, cites))
        age = age_years(row["birth_date"].isoformat(), of.last) if row["birth_date"] else None
        agreed = {name: value for (_, name), value in own.get(("resident", who), {}).items()}
        for disease, metric, short in (("hypertension", "systolic", "htn"), ("diabetes", "glucose", "dm")):
            if row["team"] is None or facts.get(disease, {}).get("value") is not True:
                continue
            since = max(datetime.fromisoformat(facts[disease]["at"]), datetime.combine(row["since"] or of.first, time(), UTC))
            visits = row["visits"]
            lists[f"{short}_managed"].append(Member(who, who, to_specification(visits, of.end - since), where, why=f"{visits} follow-ups"))
            last = measured.get(metric)
            lists[f"{short}_controlled"].append(_controlled(who, last, age, agreed, of, where))
    for code in ("htn_managed", "htn_controlled", "dm_managed", "dm_controlled", "signed", "recorded", "updated"):
        yield from figures(code, lists[code])


def _controlled(
    who: str, last: Mapping[str, Any] | None, age: int | None, agreed: Mapping[str, float], of: Quarter, where: Mapping[str, str]
) -> Member:  # fmt: skip
    if last is None or last["measured_at"] < of.begin:
        return Member(who, who, False, where, why="not measured in the quarter")
    values = last["values"]
    if "systolic" in values:
        good = at_goal(values["systolic"], values.get("diastolic", 0.0), age, last["setting"], agreed)
        why = f"{values['systolic']:.0f}/{values.get('diastolic', 0):.0f} {last['setting']}"
    else:
        good, why = values["glucose"] < agreed.get("goal_fasting", 7.0), f"{values['glucose']:.1f} mmol/L"
    return Member(who, who, good, where, (last["measurement"],), why=why)


async def _of_cases(
    connection: Connection, given: Mapping[str, Any], of: Quarter, above: Mapping[str, Mapping[str, str]]
) -> list[Figure]:  # fmt: skip
    acknowledged, worth = [], []
    for row in await _rows(connection, _CASES, given):
        where, cites = _places(above, row["team"], row["centre"], row["region"]), tuple(sorted(row["measurements"] or ()))
        number = str(row["care_case"])
        if row["first_paged"] is not None:
            took = (row["seen_at"] - row["first_paged"]).total_seconds() / 3600 if row["seen_at"] is not None else None
            in_time = row["seen_at"] is not None and row["climbs_at"] is not None and row["seen_at"] <= row["climbs_at"]
            acknowledged.append(Member(number, row["resident"], in_time, where, cites, took))
        if row["ended_at"] is not None and row["ended_at"] < of.end:
            worth.append(Member(number, row["resident"], row["state"] != "dismissed", where, cites, why=row["state"]))
    return [*figures("acknowledged", acknowledged), *figures("yield", worth)]


async def _of_referrals(connection: Connection, given: Mapping[str, Any], above: Mapping[str, Mapping[str, str]]) -> list[Figure]:
    seen, closed, lag = [], [], []
    for row in await _rows(connection, _REFERRALS, given):
        where, number = _places(above, row["team"], row["centre"], row["region"]), str(row["referral"])
        seen.append(Member(number, row["resident"], row["seen_at"] is not None, where, why=row["state"]))
        closed.append(Member(number, row["resident"], row["state"] in ("down_accepted", "community"), where, why=row["state"]))
        if row["outcome_at"] is not None:
            days = (row["down_at"] - row["outcome_at"]).total_seconds() / 86400 if row["down_at"] is not None else None
            lag.append(Member(number, row["resident"], days is not None and days <= 14, where, value=days))
    return [*figures("seen", seen), *figures("closed", closed), *figures("down_lag", lag)]


async def publish(connection: Connection, of: Quarter, now: datetime) -> int:
    """Write down what changed since it was last published: the first time every figure, later a revision. Returns how many."""
    cursor = await connection.execute(
        "select distinct on (code, level, place) code, level, place, revision, digest from indicator where quarter = %s"
        " order by code, level, place, revision desc",
        (of.first,),
    )
    known = {(row["code"], row["level"], row["place"]): row for row in await cursor.fetchall()}
    made = 0
    for figure in await computed(connection, of):
        before = known.get((figure.code, figure.level, figure.place))
        if before is not None and before["digest"] == figure.digest:
            continue
        cursor = await connection.execute(
            "insert into indicator (quarter, code, level, place, revision, numerator, denominator, median, digest, published_at)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning indicator",
            (of.first, figure.code, figure.level, figure.place, before["revision"] + 1 if before else 1, figure.numerator,
             figure.denominator, figure.median, figure.digest, now),
        )  # fmt: skip
        row = await cursor.fetchone()
        assert row is not None
        async with (
            connection.cursor() as rows,
            rows.copy("copy indicator_member (indicator, member, resident, counted, why, measurements, value) from stdin") as copy,
        ):
            for m in figure.members:
                await copy.write_row((row["indicator"], m.member, m.resident, m.counted, m.why, list(m.measurements), m.value))
        made += 1
    return made


async def daily(connection: Connection, now: datetime, zone: str) -> int:
    """Publish the quarters that are over; what late data changed becomes a revision. Returns how many figures are new."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('yizhan indicators'))")
    first = quarter_of(now.astimezone(ZoneInfo(zone)).date())
    made = 0
    for _ in range(LATE):
        first = quarter_of(first - timedelta(days=1))
        made += await publish(connection, quarter(first, zone), now)
    return made


async def listing(connection: Connection, first: date, level: str, places: Sequence[str] | None) -> list[dict[str, Any]]:
    """The newest revision of each figure of a quarter at a level; places None: all of them."""
    cursor = await connection.execute(
        "select distinct on (code, place) indicator, quarter, code, level, place, revision, numerator, denominator, median, published_at"
        " from indicator where quarter = %s and level = %s and (%s::text[] is null or place = any(%s))"
        " order by code, place, revision desc",
        (first, level, kept := None if places is None else list(places), kept),
    )
    return await cursor.fetchall()


async def quarters(connection: Connection) -> list[date]:
    """What is published, newest first."""
    rows = await _rows(connection, "select distinct quarter from indicator order by quarter desc", {})
    return [row["quarter"] for row in rows]


async def get(connection: Connection, indicator: int) -> dict[str, Any] | None:
    return await (await connection.execute("select * from indicator where indicator = %s", (indicator,))).fetchone()


async def members(connection: Connection, indicator: int, limit: int = 2000) -> list[dict[str, Any]]:
    """What a figure rests on: who counts and who does not, with their readings; those that do not count first."""
    cursor = await connection.execute(
        "select m.member, m.resident, r.name as resident_name, m.counted, m.why, m.measurements, m.value from indicator_member m"
        " left join resident r using (resident) where m.indicator = %s order by m.counted, m.member limit %s",
        (indicator, limit),
    )
    return await cursor.fetchall()


async def heaps(connection: Connection, since: datetime, until: datetime) -> dict[str, Heaping]:
    """device → how its last digits fall."""
    counts: dict[str, dict[int, int]] = {}
    for row in await readings.systolic_counts(connection, since, until):
        counts.setdefault(row["device"], {})[row["value"]] = row["n"]
    return {device: heaping(found) for device, found in sorted(counts.items())}
