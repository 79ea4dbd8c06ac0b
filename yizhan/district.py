"""The district that `make up` shows beside its town: two centres, twelve teams, four stations, some thousand people and their last year.

Who lives there and what they measured is made up from a seed (`firmware_sim.physiology`); the year is written as a record, the way it
would have been left behind. What is open now went through the worker, the rules and the functions that people's buttons call.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from psycopg.types.json import Jsonb

from care import cases, contracts, indicators, plans, referrals, residents, staff
from care.identity import Seal
from firmware_sim.physiology import Episode, Person
from ingest import attribution, devices, health, readings
from ingest.batch import Incoming, Stored
from ingest.worker import Worker
from rules import facts
from vitals import broker_password
from vitals.errors import Refused
from vitals.floor import database
from vitals.measurement import Measurement
from vitals.settings import load
from yizhan import town
from yizhan.compose import steps

PEOPLE = 2400
SEED = 20260101
CENTRE, HOSPITAL = "centre-lanxi", "hospital-2"
STREETS = (("street-qinghe", "清河街道"), ("street-lanxi", "兰溪街道"))
COMMUNITIES = (
    ("community-qinghe", "street-qinghe", "清河社区"), ("community-dongyuan", "street-qinghe", "东园社区"),
    ("community-lanxi", "street-lanxi", "兰溪社区"), ("community-beigang", "street-lanxi", "北港社区"),
)  # fmt: skip
STATIONS = (
    (town.SITE, town.GATEWAY, "清河智慧健康驿站", town.TEAM), ("station-2", "gateway-2", "东园智慧健康驿站", "team-04"),
    ("station-3", "gateway-3", "兰溪智慧健康驿站", "team-07"), ("station-4", "gateway-4", "北港智慧健康驿站", "team-10"),
)  # fmt: skip
SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡林郭何高罗"
MEN = ("建国", "志强", "国华", "德明", "永福", "文斌", "长江", "春生", "金宝", "立新")
WOMEN = ("秀英", "桂兰", "玉梅", "淑珍", "凤英", "丽华", "海燕", "雅琴", "美玲", "慧敏")
TREATED = 0.6  # of those with high pressure or diabetes: their body shows it no more
WEEK, DAY = timedelta(days=7), timedelta(days=1)
DANGER = {
    "family": "bp_danger", "rule": "htn.danger", "pack": "cn.nbphs3.htn@1.1.0", "severity": "P2",
    "title_zh": "血压危急值", "title_en": "dangerous blood pressure", "clause": "国家基本公共卫生服务规范(第三版)高血压:180/110",
}  # fmt: skip


class Somebody(NamedTuple):
    """One who lives there. person: the body that devices measure; doctor None: signed with nobody."""

    resident: str
    person: Person
    hypertensive: bool
    diabetic: bool
    doctor: str | None
    team: str | None
    station: int
    cuff: devices.DeviceRow | None
    meter: devices.DeviceRow | None


def teams() -> list[tuple[str, str, str]]:
    """(team, name, centre): the town's own and eleven more."""
    names = ("清河", "清河二", "东园", "东园二", "清河三", "东园三", "兰溪", "兰溪二", "北港", "北港二", "兰溪三", "北港三")
    return [
        (town.TEAM if n == 0 else f"team-{n + 1:02d}", f"{name}家庭医生团队", town.CENTRE if n < 6 else CENTRE)
        for n, name in enumerate(names)
    ]


async def settle(conninfo: str, field_key: str, zone: str, people: int = PEOPLE) -> dict[str, int]:
    """Furnish an empty district around the town. Returns how much of what."""
    chance, now = random.Random(SEED), datetime.now(UTC)  # noqa: S311  a made-up town
    async with await database.connect(conninfo) as connection:
        await _places(connection)
        kiosks = await devices.by_name(connection, [town.KIOSK_CUFF, *(f"cuff-kiosk-{n}" for n in range(2, 5))])
        everybody = [one async for one in _people(connection, chance, Seal(field_key), now, people)]
        stored = 0
        ordered = [kiosks[name] for name in sorted(kiosks)]
        for part in range(0, len(everybody), 200):
            stored += await _year(connection, everybody[part : part + 200], ordered, chance, now)
        lived = await _lived_through(connection, everybody, chance, now)
        await _visited(connection, everybody, chance, now)
        await connection.commit()
        await connection.execute("analyze")
        await connection.commit()
        await _today(conninfo, connection, everybody, chance, now, zone)
        await health.look(connection, now)
        tasks = await plans.daily(connection, now, zone)
        published = await indicators.daily(connection, now, zone)
        await connection.commit()
    return {"residents": len(everybody), "measurements": stored, "cases": lived, "tasks": tasks, "figures": published}


async def _places(connection: database.Connection) -> None:
    for region, name in STREETS[1:]:
        await staff.add_region(connection, region, town.DISTRICT, "street", name)
    for region, parent, name in COMMUNITIES[1:]:
        await staff.add_region(connection, region, parent, "community", name)
    for number, (region, _, name) in enumerate(COMMUNITIES):
        for cell in range(3):
            if (number, cell) != (0, 2):  # the town's own
                await staff.add_region(connection, f"grid-{number}-{cell}", region, "grid", f"{name}第{'一二三'[cell]}网格")
    await staff.add_centre(connection, CENTRE, "兰溪社区卫生服务中心", town.DISTRICT)
    await staff.add_hospital(connection, HOSPITAL, "市中医医院", town.DISTRICT)
    await staff.add(connection, "duty-qian", "钱值班", None, "supervisor", CENTRE)
    for number, (team, name, centre) in enumerate(teams()):
        if number:
            await staff.add_team(connection, team, name, centre)
            family = SURNAMES[number]
            for person, role, title in (("dr", "family_doctor", "医生"), ("nurse", "nurse", "护士"), ("ph", "public_health", "公卫医师")):
                await staff.add(connection, f"{person}-{number + 1:02d}", family + title, team, role, team)
    for site, gateway, name, team in STATIONS[1:]:
        await devices.add_site(connection, site, name)
        await devices.enrol_gateway(connection, gateway, site, broker_password.hashed(f"nobody knows {random.getrandbits(128):x}"))
        await residents.set_duty(connection, site, team)
        await devices.register(connection, f"cuff-kiosk-{site[-1]}", "blood_pressure", "kiosk", site, gateway)
    population = "update region set population = (case level when 'grid' then 260 when 'district' then 3100 end)"
    await connection.execute(population.encode())


def _cells() -> list[str]:
    return [town.GRID if (n, c) == (0, 2) else f"grid-{n}-{c}" for n in range(len(COMMUNITIES)) for c in range(3)]


async def _people(
    connection: database.Connection, chance: random.Random, seal: Seal, now: datetime, count: int
) -> Any:  # an async iterator of Somebody
    cells, squad = _cells(), teams()
    today = now.date()
    for number in range(count):
        drawn = Person.drawn(SEED, number)
        high, sweet = drawn.hypertensive, drawn.diabetic
        person = replace(drawn, hypertensive=high and chance.random() > TREATED, diabetic=sweet and chance.random() > TREATED)
        if high and chance.random() < 0.08:
            crisis = Episode(now - timedelta(days=chance.uniform(20, 330)), chance.uniform(8, 30))
            person = replace(person, crises=(crisis,))
        age = round(min(max(chance.gauss(66 if high or sweet else 48, 14), 19), 96))
        born = date(today.year - age, chance.randint(1, 12), chance.randint(1, 28))
        sex = "male" if chance.random() < 0.48 else "female"
        cell = number % len(cells)
        name = chance.choice(SURNAMES) + chance.choice(MEN if sex == "male" else WOMEN)
        resident = await residents.add(connection, name, sex, born, STATIONS[cell // 3][0], region=cells[cell])
        if chance.random() < 0.93:
            card = town.identity_number(born, sex, 10 + number % 90)
            try:
                async with connection.transaction():
                    await residents.identify(connection, seal, resident, {"id_card": card}, today, "system")
            except Refused:  # somebody of the same day has it
                pass
        known = {"sex": sex, "birth_date": born.isoformat(), "hypertension": high, "diabetes": sweet}
        since = now - timedelta(days=chance.uniform(30, 420))
        await facts.record(connection, resident, known, "system", since)
        await connection.execute("update resident set created_at = %s where resident = %s", (since, resident))
        doctor = team = None
        if chance.random() < 0.86:
            home = squad[cell % len(squad)][0]
            doctor, team = (town.DOCTOR, town.TEAM) if home == town.TEAM else (f"dr-{home[-2:]}", home)
            signed = max(since.date(), today - timedelta(days=chance.randint(20, 360)))
            until = signed + contracts.TERM
            await contracts.sign(connection, resident, doctor, signed, package="chronic" if high or sweet else "basic", until=until)
        cuff = await _own(connection, f"cuff-d-{number}", "blood_pressure", resident, since) if high else None
        meter = await _own(connection, f"meter-d-{number}", "glucose", resident, since) if sweet else None
        yield Somebody(resident, person, high, sweet, doctor, team, cell // 3, cuff, meter)


async def _own(connection: database.Connection, name: str, kind: str, resident: str, since: datetime) -> devices.DeviceRow:
    await devices.register(connection, name, kind, "home", None, None)
    await attribution.bind(connection, name, resident, since)
    return (await devices.by_name(connection, [name]))[name]


def _measured(who: Somebody, kiosks: Sequence[devices.DeviceRow], chance: random.Random, now: datetime) -> Iterator[readings.Candidate]:
    """What one person measured in a year: a cuff weekly, a meter weekly, the station now and then, everything around a crisis."""
    morning = now.replace(hour=0, minute=30) - timedelta(days=364) + timedelta(minutes=chance.uniform(0, 90))
    pressure = [(who.cuff, "home", morning + WEEK * week + timedelta(minutes=chance.uniform(-60, 60))) for week in range(52)]
    pressure = [one for one in pressure if one[0] is not None and chance.random() < 0.75]
    every = chance.uniform(50, 160)
    at = morning + timedelta(days=chance.uniform(0, every), hours=2)
    while at < now:
        pressure.append((kiosks[who.station], "kiosk", at))
        at += timedelta(days=chance.uniform(0.6, 1.4) * every)
    for crisis in who.person.crises:
        middle = crisis.start + timedelta(hours=crisis.hours / 2)
        pressure += [(who.cuff, "home", middle), (who.cuff, "home", middle + timedelta(minutes=2))]
    for device, setting, moment in pressure:
        if device is not None and moment < now - timedelta(hours=1):
            found = who.person.blood_pressure(moment)
            values: dict[str, float | str] = {"systolic": found.systolic, "diastolic": found.diastolic, "pulse": found.pulse}
            yield _candidate(device, "blood_pressure", setting, moment, values, [])
    for week in range(52) if who.meter is not None else ():
        moment = morning + WEEK * week - timedelta(hours=2)
        if chance.random() < 0.7 and who.meter is not None and moment < now - timedelta(hours=1):
            yield _candidate(who.meter, "glucose", "home", moment, {"glucose": who.person.glucose(moment)}, ["fasting"])


def _candidate(
    device: devices.DeviceRow, kind: Any, setting: Any, at: datetime, values: dict[str, float | str], flags: list[str]
) -> readings.Candidate:
    measurement = Measurement(
        device=device.device, kind=kind, record=f"{at:%Y%m%d%H%M%S}", measured_at=at, received_at=at, time_quality="synced",
        setting=setting, values=values, flags=flags, raw=json.dumps(values).encode().hex(),
    )  # fmt: skip
    return readings.Candidate(device, measurement, "record", at)


async def _year(
    connection: database.Connection, some: Sequence[Somebody], kiosks: Sequence[devices.DeviceRow], chance: random.Random, now: datetime
) -> int:  # fmt: skip
    owner: dict[int, Somebody] = {}
    candidates: list[readings.Candidate] = []
    for who in some:
        for one in _measured(who, kiosks, chance, now):
            owner[id(one.measurement)] = who
            candidates.append(one)
    entries = await readings.enter(connection, candidates)
    items = []
    for entry in entries:
        device = entry.candidate.device
        whose = owner.get(id(entry.candidate.measurement))  # a series break has another measurement: nobody's
        if whose is not None:
            stored = Stored(
                entry.number, entry.candidate.measurement, whose.resident, whose.resident, None, device.station, device.site, ()
            )
            items.append((stored, entry.candidate))
    await readings.write(connection, items, now)
    return len(items)


async def _lived_through(connection: database.Connection, everybody: Sequence[Somebody], chance: random.Random, now: datetime) -> int:
    """The cases of the year's crises: seen, called, ended; some referred up and come back."""
    lived = 0
    for who in everybody:
        if not who.person.crises or who.team is None or who.doctor is None:
            continue
        crisis = who.person.crises[0]
        begun = crisis.start + timedelta(hours=crisis.hours / 2)
        cursor = await connection.execute(
            "select measurement, measured_at, numbers from measurement where subject = %s and measured_at between %s and %s"
            " order by measured_at limit 2",
            (who.resident, begun - timedelta(minutes=1), begun + timedelta(minutes=5)),
        )
        pair = await cursor.fetchall()
        if len(pair) == 2 and pair[0]["numbers"][0] >= 180:
            await _closed_case(connection, who, pair, chance, now)
            lived += 1
    return lived


async def _closed_case(
    connection: database.Connection, who: Somebody, pair: Sequence[dict[str, Any]], chance: random.Random, now: datetime
) -> None:  # fmt: skip
    at = pair[1]["measured_at"]
    sentence = f"收缩压 {pair[0]['numbers'][0]:.0f},复测 {pair[1]['numbers'][0]:.0f},达到 180/110"
    explanation = {**DANGER, "zh": sentence, "en": f"systolic {pair[0]['numbers'][0]:.0f}, repeated {pair[1]['numbers'][0]:.0f}"}
    seen = at + timedelta(minutes=chance.choice([6, 14, 25, 48, 90, 170]))
    ended = seen + timedelta(hours=chance.uniform(2, 60))
    dismissed = chance.random() < 0.12
    state, what = ("dismissed", "dismiss") if dismissed else ("resolved", "resolve")
    cursor = await connection.execute(
        "insert into alert (subject, family, rule, pack, pack_digest, state, severity, why, opened_at, updated_at, ended_at, explanation)"
        " values (%s, %s, %s, %s, '', 'closed', %s, 'confirmed', %s, %s, %s, %s) returning alert",
        (who.resident, DANGER["family"], DANGER["rule"], DANGER["pack"], DANGER["severity"], at, ended, ended, Jsonb(explanation)),
    )
    alert = (await cursor.fetchone() or {})["alert"]
    for n, (row, word) in enumerate(zip(pair, ("pending", "firing"), strict=True), 1):
        await connection.execute(
            "insert into alert_log (alert, n, at, state, severity, why, measurement, explanation)"
            " values (%s, %s, %s, %s, 'P2', %s, %s, %s)",
            (alert, n, row["measured_at"], word, "opened" if n == 1 else "confirmed", row["measurement"], Jsonb(explanation)),
        )
    cursor = await connection.execute(
        "insert into care_case (subject, resident, team, routed_by, state, severity, opened_at, updated_at, acknowledged_at,"
        " acknowledged_by, claimed_by, last_human_at, paged_at, ended_at, outcome)"
        " values (%s, %s, %s, 'contract', %s, 'P2', %s, %s, %s, %s, %s, %s, %s, %s, %s) returning care_case",
        (who.resident, who.resident, who.team, state, at, ended, seen, who.doctor, who.doctor, ended, at, ended,
         "误差:袖带松" if dismissed else "已处理,两周内复查"),
    )  # fmt: skip
    case = (await cursor.fetchone() or {})["care_case"]
    await cases.join_alert(connection, case, alert)
    told = (
        (at, "system", "opened", None, "open", "", None), (at, "system", "paged", "open", "open", "", None),
        (seen, who.doctor, "claim", "open", "claimed", "", None),
        (seen + timedelta(minutes=4), who.doctor, "call", "claimed", "claimed", "已嘱休息后复测", "reached_measures"),
        (ended, who.doctor, what, "claimed", state, "已处理", None),
    )  # fmt: skip
    for moment, actor, did, before, after, why, coded in told:
        await cases.log(connection, case, moment, str(actor), did, before, after, why=why, coded=coded)
    await connection.execute(
        "insert into rung (care_case, page, level, role, severity, due_at, state, ended_at)"
        " values (%s, 1, 0, 'doctor', 'P2', %s, 'told', %s), (%s, 1, 1, 'deputy', 'P2', %s, %s, %s)",
        (case, at, at, case, at + timedelta(hours=2), "told" if seen > at + timedelta(hours=2) else "stopped", seen),
    )
    if not dismissed and chance.random() < 0.5:
        await _came_back(connection, who, case, seen, chance)


async def _came_back(connection: database.Connection, who: Somebody, case: int, at: datetime, chance: random.Random) -> None:
    """A referral that went its whole way, or stopped on it."""
    way = ["suggested", "accepted", "booked", "seen", "outcome", "down_suggested", "down_accepted", "community"]
    way = way[: chance.choice([4, 8, 8, 8])]
    moments = [at + timedelta(days=days) for days in (0, 0.02, 0.5, 2, 4, 6, 9, 23)]
    cursor = await connection.execute(
        "insert into referral (care_case, resident, state, urgency, hospital, reason, suggested_at, follow_up_due, hospital_id, seen_at,"
        " outcome, updated_at) values (%s, %s, %s, 'emergency', '市第一医院', '复测确认', %s, %s, %s, %s, %s, %s) returning referral",
        (
            case,
            who.resident,
            way[-1],
            at,
            (at + timedelta(days=14)).date(),
            town.HOSPITAL,
            moments[3],
            "调整用药后稳定",
            moments[len(way) - 1],
        ),
    )
    number = (await cursor.fetchone() or {})["referral"]
    for before, after, moment in zip([None, *way], way, moments, strict=False):
        await connection.execute(
            "insert into referral_log (referral, at, actor, from_state, to_state, why) values (%s, %s, %s, %s, %s, '')",
            (number, moment, "system" if before is None else who.doctor, before, after),
        )


async def _visited(connection: database.Connection, everybody: Sequence[Somebody], chance: random.Random, now: datetime) -> None:
    """The year's follow-ups: most of those with a chronic condition, most quarters."""
    rows = []
    for who in everybody:
        chronic = "hypertension" if who.hypertensive else "diabetes" if who.diabetic else None
        if chronic is None or who.team is None:
            continue
        eager = chance.random()
        for visit in range(4):
            if chance.random() < 0.55 + 0.45 * eager:
                at = now - timedelta(days=20 + 88 * visit + chance.uniform(0, 25))
                key = f"follow_up:{who.resident}:{chronic}:{visit}"
                rows.append((key, who.resident, who.team, chronic, at - WEEK, at, chance.choice(["visited", "done"]), at, who.doctor))
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "insert into task (key, kind, resident, team, role, reason, opened_at, due_at, state, outcome, ended_at, ended_by)"
            " values (%s, 'follow_up', %s, %s, 'family_doctor', %s, %s, %s, 'done', %s, %s, %s)",
            rows,
        )


async def _today(
    conninfo: str, connection: database.Connection, everybody: Sequence[Somebody], chance: random.Random, now: datetime, zone: str
) -> None:  # fmt: skip
    """What is open: measured just now, judged by the worker's own steps, and worked on by some."""
    worker = Worker(conninfo, steps(load({"YIZHAN_ZONE": zone})))
    sick = [one for one in everybody if one.cuff is not None and one.team is not None]
    own = [one for one in sick if one.team == town.TEAM]
    others = [one for one in sick if one.team != town.TEAM]
    chosen = [*chance.sample(own, min(9, len(own))), *chance.sample(others, min(36, len(others)))]
    payloads = []
    for order, who in enumerate(chosen):
        first = (chance.randint(181, 204), chance.randint(96, 118)) if order % 3 else (chance.randint(172, 179), chance.randint(110, 117))
        moments = (3, 1) if order % 4 else (1,)  # every fourth has not measured again yet
        payloads += [_message(who, (first[0] + 2 * n, first[1] + n), timedelta(minutes=ago)) for n, ago in enumerate(moments)]
    coming = [Incoming("mqtt", "yz/1/station-2/gateway-2/up/readings", payload, None) for payload in payloads]
    for start in range(0, len(coming), 20):
        await worker.process(coming[start : start + 20])
    await worker.close()
    await _worked_on(connection, {who.resident: who for who in chosen}, chance, zone)


def _message(who: Somebody, pressure: tuple[int, int], ago: timedelta) -> bytes:
    assert who.cuff is not None
    at = datetime.now(UTC) - ago
    values = {"systolic": pressure[0], "diastolic": pressure[1], "pulse": 84}
    one = {
        "device": who.cuff.device, "kind": "blood_pressure", "record": f"{at:%Y%m%d%H%M%S}", "measured_at": at.isoformat(),
        "received_at": at.isoformat(), "time_quality": "synced", "setting": "home", "values": values,
        "raw": json.dumps(values).encode().hex(),
    }  # fmt: skip
    body = {"v": 1, "boot": "district", "seq": int(at.timestamp() * 1000) % 10**9, "sent_at": at.isoformat(), "measurements": [one]}
    return json.dumps(body).encode()


async def _worked_on(connection: database.Connection, chosen: dict[str, Somebody], chance: random.Random, zone: str) -> None:
    """Other teams have begun their day; the town's own queue is left for whoever logs in, but for a few."""
    now = datetime.now(UTC)
    for row in await cases.queue(connection, None, 500):
        who = chosen.get(str(row["resident"]))
        if who is None or who.doctor is None or chance.random() < (0.75 if who.team == town.TEAM else 0.4):
            continue
        calendar = await staff.calendar(connection, row["team"], now, zone)
        await cases.act(connection, row["care_case"], row["version"], "claim", who.doctor, now, calendar)
        coded = chance.choice(["reached_well", "reached_measures", "reached_comes", "no_answer"])
        await cases.act(connection, row["care_case"], row["version"] + 1, "call", who.doctor, now, calendar, why="已联系", coded=coded)
        for one in await referrals.of_case(connection, row["care_case"]):
            if one["state"] != "suggested":
                continue
            number, version = one["referral"], one["version"]
            way = (("accept", "community"), ("book", "hospital"), ("see", "hospital"), ("report", "hospital"), ("suggest_down", "hospital"))
            for action, side in way[: chance.randint(0, 5)]:
                actor = who.doctor if side == "community" else "hosp-wu"
                await referrals.step(
                    connection, number, version, action, side, actor, now, calendar, hospital=town.HOSPITAL, booked_for=now + DAY,
                    why="高血压3级,调整用药" if action == "report" else "复测确认,建议专科评估", targets={"systolic": 130, "diastolic": 80},
                )  # fmt: skip
                version += 1
    await connection.commit()
