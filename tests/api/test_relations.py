"""Every route about a person × every relation to that person: the verdict holds with both walls, with the database's alone, with ours alone.

A verdict is about one person, 王秀兰: her readings, her case, her referral, her tasks. "No" means that the answer says nothing of her and
that nothing of hers moved. What each role may do at all is tabled in `test_http.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI, Request

from api import accounts, fhir, looked, oversight, packs, pages, people, places
from api.app import create_app
from care import consents, indicators, residents, staff
from care.indicator import quarter_of
from tests.api.test_http import VERDICTS, Http, behind, routes
from tests.ingest.helpers import FIELD_KEY, Clinic, measurement, message
from vitals.errors import Refused
from vitals.floor import database
from vitals.settings import Settings
from yizhan import town

pytestmark = pytest.mark.services

TEAM = {"signed", "nurse", "cover", "supervisor"}
DECIDE = {"signed", "cover", "supervisor"}
SELF = {"self", "guardian"}
SEE = {*TEAM, "glass", "hospital", *SELF, "admin"}  # what the database lets an account read of a person, whichever route asks
NAMED = {*SEE, "sentinel"}  # and who lives where: a sentinel knows the names of their grid cell
RELATIONS = {*SEE, "other_supervisor", "other_doctor", "other_hospital", "sentinel", "other_sentinel", "stranger", "station",
             "other_station", "security", "audit"}  # fmt: skip


class Cell(NamedTuple):
    """body: what is sent, with {version} of the thing; may: the relations that get through; wall: those the database alone lets through."""

    may: set[str]
    body: dict[str, Any] | None = None
    wall: set[str] | None = None


def reads(may: set[str], wall: set[str] = SEE) -> Cell:
    return Cell(may, None, may | wall)


WHY = {"version": "{version}", "why": "because"}
FORM = {"version": "{version}", "why": "because"}
TABLE: dict[str, Cell] = {
    "GET /v1/residents": reads({*TEAM, "admin"}, NAMED),
    "GET /v1/residents/{resident}": reads({*TEAM, "glass", "hospital", *SELF, "admin"}, NAMED),
    "GET /v1/residents/{resident}/series": reads({*TEAM, "glass", "hospital", *SELF, "admin"}),
    "PUT /v1/residents/{resident}/facts": Cell({*TEAM, "glass", "admin"}, {"hypertension": True}),
    "PUT /v1/residents/{resident}/parameters": Cell(
        {*TEAM, "glass", "admin"}, {"pack": "cn.nbphs3.htn", "name": "danger_systolic", "value": 170}
    ),
    "GET /v1/residents/{resident}/accesses": reads({*SELF, "audit"}),
    "POST /v1/residents/{resident}/break-glass": Cell(
        {*DECIDE, "glass", "other_doctor", "other_supervisor"}, {"why": "found unconscious"}
    ),
    "POST /v1/residents/{resident}/contracts": Cell({*TEAM, "glass", "admin"}, {"doctor": town.DOCTOR}),
    "POST /v1/residents/{resident}/contracts/{contract}/end": Cell({*TEAM, "glass", "admin"}, {"why": "moved"}),
    "POST /v1/residents/{resident}/guardians": Cell({*TEAM, "glass", "admin"}, {"guardian": "{neighbour}", "relation": "son"}),
    "PUT /v1/residents/{resident}/place": Cell(
        {*TEAM, "glass", "admin"}, {"region": town.GRID, "tier": "yellow"}, {*TEAM, "glass", "admin", "sentinel"}
    ),
    "PUT /v1/residents/{resident}/identities": Cell({*TEAM, "glass", "admin"}, {"numbers": {"phone": "13900000009"}}),
    "POST /v1/residents/find": Cell({*TEAM, "glass", "admin", "station", "other_station"}, {"kind": "id_card", "number": "{card}"}),
    "POST /v1/measurements/{measurement}/attribution": Cell({*TEAM, "glass", "admin"}, {"resident": None, "why": "the spouse's"}),
    "GET /v1/unclaimed": reads({*TEAM, "admin"}, {*TEAM, "admin"}),
    "POST /v1/unclaimed/{unclaimed}/claim": Cell({*TEAM, "admin"}, {"resident": "{resident}"}),
    "GET /v1/queue": reads(set(TEAM)),
    "GET /v1/notices": reads({"signed"}, set(TEAM)),
    "GET /v1/cases/{case}": reads(set(TEAM)),
    "GET /v1/cases/{case}/chart.svg": reads(set(TEAM)),
    "POST /v1/cases/{case}/acknowledge": Cell(TEAM, {"version": "{version}"}),
    "POST /v1/cases/{case}/claim": Cell(TEAM, {"version": "{version}"}),
    "POST /v1/cases/{case}/release": Cell(TEAM, WHY),
    "POST /v1/cases/{case}/note": Cell(TEAM, WHY),
    "POST /v1/cases/{case}/call": Cell(TEAM, {"version": "{version}", "outcome": "reached_well"}),
    "POST /v1/cases/{case}/hand-over": Cell(TEAM, {**WHY, "to": "dr-two"}),
    "POST /v1/cases/{case}/snooze": Cell(TEAM, {**WHY, "until": "{tomorrow}"}),
    "POST /v1/cases/{case}/refer": Cell(DECIDE, {**WHY, "hospital": town.HOSPITAL}),
    "POST /v1/cases/{case}/resolve": Cell(DECIDE, WHY),
    "POST /v1/cases/{case}/dismiss": Cell(DECIDE, WHY),
    "GET /v1/indicators/{indicator}": reads(set(TEAM)),
    "GET /v1/referrals/{referral}/evidence": reads({*TEAM, "hospital"}),
    "POST /v1/referrals/{referral}/receipt": Cell({"hospital"}, {"digest": "{digest}"}, {"hospital"}),
    "GET /console/referrals/{referral}/evidence": reads({*TEAM, "hospital"}),
    "GET /v1/residents/{resident}/consents": reads({*TEAM, "glass", "hospital", *SELF, "admin"}),
    "PUT /v1/residents/{resident}/consents": Cell({*TEAM, "glass", "self"}, {"purpose": "notify", "given": True}),
    "GET /fhir/Patient/{resident}": reads({*TEAM, "glass", "hospital", *SELF, "admin"}, NAMED),
    "GET /fhir/Observation": reads({*TEAM, "glass", "hospital", *SELF, "admin"}),
    "GET /v1/referrals": reads({*TEAM, "hospital"}),
    "GET /v1/referrals/{referral}": reads({*TEAM, "hospital"}),
    "POST /v1/referrals/{referral}/see": Cell({*DECIDE, "hospital"}, {"version": "{version}"}),
    "POST /v1/referrals/{referral}/cancel": Cell({*DECIDE, "hospital"}, WHY),
    "GET /v1/tasks": reads({*TEAM, "hospital", "sentinel"}, NAMED),
    "GET /v1/tasks/{task}": reads(TEAM, NAMED),
    "GET /v1/tasks/{answer}": reads({*TEAM, "hospital"}, NAMED),
    "GET /v1/tasks/{check}": reads({*TEAM, "sentinel"}, NAMED),
    "POST /v1/tasks/{task}/finish": Cell(TEAM, {"version": "{version}", "outcome": "called"}, {*TEAM, "hospital", "sentinel"}),
    "POST /v1/tasks/{check}/finish": Cell({*TEAM, "sentinel"}, {"version": "{version}", "outcome": "visited"}, {*TEAM, "sentinel", "hospital"}),
    "POST /v1/reports": Cell({"sentinel"}, {"resident": "{resident}", "kind": "unstable", "note": "{unique}"}, {*TEAM, "sentinel", "hospital", "glass"}),
    "DELETE /v1/devices/{device}/binding": Cell({"self", "admin"}),
    "POST /v1/checkins": Cell({"station", "other_station"}, {"resident": "{resident}"}),
    "DELETE /v1/checkins/{checkin}": Cell({"station"}),
    "POST /v1/checkins/{checkin}/symptoms": Cell({"station"}, {"answers": {"chest_tightness": "no"}}),
    "POST /v1/checkins/{checkin}/measurements": Cell(
        {"station"}, {"device": town.MANUAL, "kind": "blood_pressure", "setting": "manual", "values": {"systolic": 150, "diastolic": 90}}
    ),
    "GET /console/queue": reads(set(TEAM)),
    "GET /console/queue/rows": reads(set(TEAM)),
    "GET /console/cases/{case}": reads(set(TEAM)),
    "POST /console/cases/{case}/note": Cell(TEAM, FORM),
    "GET /console/referrals": reads({*TEAM, "hospital"}),
    "GET /console/referrals/{referral}": reads({*TEAM, "hospital"}),
    "POST /console/referrals/{referral}/see": Cell({*DECIDE, "hospital"}, FORM),
    "GET /console/work": reads({*TEAM, "hospital", "sentinel"}, NAMED),
    "GET /console/tasks/{task}": reads(TEAM, NAMED),
    "POST /console/tasks/{task}/finish": Cell(TEAM, {"version": "{version}", "outcome": "called"}, {*TEAM, "hospital", "sentinel"}),
    "POST /console/reports": Cell(
        {"sentinel"}, {"resident": "{resident}", "kind": "unstable", "note": "{unique}"}, {*TEAM, "sentinel", "hospital", "glass"}
    ),
    "GET /console/indicators/{indicator}": reads(set(TEAM)),
    "GET /console/residents": reads(set(TEAM), NAMED),
    "GET /console/residents/{resident}": reads({*TEAM, "glass", "hospital", *SELF}, NAMED),
    "POST /console/residents/{resident}/consents": Cell({*TEAM, "glass", "self"}, {"purpose": "notify", "given": "yes"}),
}  # fmt: skip
# routes that are about no person in particular, or whose person is the asker's own: their verdicts are by role alone
BY_ROLE = {
    "GET /v1/checkins/{checkin}/events", "GET /v1/intake/{number}", "GET /v1/events", "POST /v1/enrolments", "POST /v1/enrolments/redeem",
    "POST /v1/gateways/{gateway}/revoke", "POST /v1/gateways/{gateway}/pairings", "POST /v1/gateways/{gateway}/discoveries",
    "DELETE /v1/gateways/{gateway}/pairings/{device}", "GET /v1/gateways/{gateway}/pairings/{command}", "POST /v1/devices",
    "GET /v1/devices", "POST /v1/devices/claim", "POST /v1/devices/{device}/wearers", "POST /v1/accounts",
    "POST /v1/accounts/{account}/revoke", "POST /v1/residents", "PUT /v1/parameters", "GET /v1/packs", "PUT /v1/regions/{region}", "PUT /v1/centres/{centre}", "PUT /v1/hospitals/{hospital}", "PUT /v1/teams/{team}",
    "PUT /v1/staff/{person}", "POST /v1/staff/{person}/leave", "PUT /v1/staff/{person}/contacts", "POST /v1/centres/{centre}/shifts",
    "PUT /v1/devices/{device}/calibration",
    "PUT /v1/calendar/{day}", "GET /console/oversight",
    "POST /console/oversight/{number}",
    "GET /console/accounts",
    "POST /console/accounts",
    "POST /console/accounts/{account_id}/revoke",
    "GET /console/stations", "GET /console/packs", "GET /fhir/metadata", "GET /v1/indicators", "GET /console/indicators", "POST /v1/packs",
    "DELETE /v1/packs/{pack_name}", "GET /v1/hospitals", "GET /v1/break-glass", "POST /v1/break-glass/{number}/review", "GET /v1/health",
    "GET /metrics", "GET /", "GET /console/login", "POST /console/login", "GET /console/oidc", "GET /console/oidc/back", "POST /console/logout", "POST /console/language",
    "GET /console/second-factor", "POST /console/second-factor",
}  # fmt: skip
PERSONS = (
    "resident_identity",
    "resident_log",
    "consent",
    "care_case",
    "case_log",
    "referral",
    "referral_log",
    "task",
    "task_log",
    "contract",
    "guardian",
    "intake",
    "resident",
    "rung",
)


def test_every_route_is_in_one_of_the_tables() -> None:
    def plain(cell: str) -> str:
        for name in ("case", "referral", "task", "answer", "check", "indicator"):
            cell = cell.replace("{" + name + "}", "{number}")
        cell = cell.replace("{unclaimed}", "{measurement}")
        head, _, action = cell.rpartition("/")
        generic = head.startswith(("POST /v1/referrals/", "POST /console/referrals/", "POST /console/cases/"))
        return f"{head}/{{action}}" if generic and action != "receipt" else cell

    assert {plain(cell) for cell in TABLE} | BY_ROLE == set(VERDICTS)


class Street(NamedTuple):
    """One person with everything that routes may be asked about, and everybody who stands in some relation to her."""

    http: Http
    owner: database.Connection  # to set things back, and to see what moved
    names: dict[str, str]
    leaks: tuple[str, ...]

    async def value(self, query: str) -> str:
        row = await (await self.owner.execute(query.encode())).fetchone()
        return str(next(iter(row.values()))) if row is not None else ""


@asynccontextmanager
async def street(clinic: Clinic, app: FastAPI) -> AsyncIterator[Street]:
    now = datetime.now(UTC)
    resident, neighbour = await clinic.resident(), await clinic.resident(town.PEOPLE[1][3])
    guardian = await clinic.resident(town.PEOPLE[2][3])
    await clinic.send(message(measurement(186, 112, ago=timedelta(minutes=2))), message(measurement(188, 113)))
    await clinic.send(message(measurement(131, 81, device=town.KIOSK_CUFF, setting="kiosk")))
    check_in = {"checkin": "c-1", "station": town.GATEWAY, "resident": resident}
    assert await clinic.submit("checkin", check_in, resident) == "applied"
    case = await clinic.value("select care_case from care_case where resident = %s", resident)
    async with await database.connect(clinic.conninfo) as connection:
        await staff.add_centre(connection, "centre-2", "别的中心", town.DISTRICT)
        await staff.add_team(connection, "team-2", "别的团队", "centre-2")
        await staff.add_hospital(connection, "hospital-2", "别的医院", town.DISTRICT)
        for person, role, place in (("dr-two", "family_doctor", "team-2"), ("dr-cover", "family_doctor", "team-2"),
                                    ("dr-glass", "family_doctor", "team-2")):  # fmt: skip
            await staff.add(connection, person, person, "team-2", role, place)
        for person, role, place in (("sup-two", "supervisor", "centre-2"), ("hosp-two", "hospital", "hospital-2"),
                                    ("sent-two", "sentinel", "street-qinghe")):  # fmt: skip
            await staff.add(connection, person, person, None, role, place)
        await staff.leave(connection, town.DOCTOR, "dr-cover", now - timedelta(days=1), now + timedelta(days=1))
        await residents.guard(connection, resident, guardian, "daughter", now.date(), "test")
        await consents.record(connection, resident, "notify", True, now, resident, "paper")
        await connection.execute("insert into gateway (gateway, site, password_hash) values ('gateway-2', %s, 'x')", (town.SITE,))
        people = {
            "signed": ("doctor", town.DOCTOR), "nurse": ("nurse", "nurse-zhao"), "cover": ("doctor", "dr-cover"),
            "supervisor": ("supervisor", "duty-sun"), "other_supervisor": ("supervisor", "sup-two"), "other_doctor": ("doctor", "dr-two"),
            "glass": ("doctor", "dr-glass"), "hospital": ("hospital", "hosp-wu"), "other_hospital": ("hospital", "hosp-two"),
            "sentinel": ("sentinel", "sentinel-he"), "other_sentinel": ("sentinel", "sent-two"), "self": ("resident", resident),
            "guardian": ("resident", guardian), "stranger": ("resident", neighbour), "station": ("station", town.GATEWAY),
            "other_station": ("station", "gateway-2"), "admin": ("admin", None), "security": ("security", None), "audit": ("audit", None),
        }  # fmt: skip
        made = {relation: await accounts.create(connection, role, person) for relation, (role, person) in people.items()}
        await connection.execute(
            "insert into break_glass (account, resident, why, at, until) values (%s, %s, 'test', now(), now() + interval '1 hour')",
            (made["glass"][0], resident),
        )
        await connection.execute(
            "update referral set state = 'accepted', hospital_id = %s, hospital = 'x' where care_case = %s", (town.HOSPITAL, case)
        )
        for key, role, place in (("task", "family_doctor", None), ("answer", "hospital", town.HOSPITAL), ("check", "sentinel", town.GRID)):
            await connection.execute(
                "insert into task (key, kind, resident, team, role, place, opened_at, due_at)"
                " values (%s, 'home_check', %s, %s, %s, %s, now(), now())",
                (key, resident, town.TEAM, role, place),
            )
        await connection.execute(
            "insert into notice (care_case, staff, severity, body, try_at, created_at) values (%s, %s, 'P2', '王秀兰', now(), now())",
            (case, town.DOCTOR),
        )
        await connection.commit()
    numbers = await clinic.rows("select key, task from task where key in ('task', 'answer', 'check')")
    async with await database.connect(clinic.conninfo) as connection:  # as if the quarter were over
        await indicators.publish(connection, indicators.quarter(quarter_of((now + timedelta(hours=8)).date()), "Asia/Shanghai"), now)
        await connection.commit()
    names = {row["key"]: str(row["task"]) for row in numbers} | {
        "resident": resident, "neighbour": neighbour, "card": town.identity_number(town.PEOPLE[0][2], town.PEOPLE[0][1], 1),
        "contract": str(await clinic.value("select contract from contract where resident = %s", resident)), "case": str(case), "checkin": "c-1", "device": town.PEOPLE[0][3],
        "referral": str(await clinic.value("select referral from referral")),
        "indicator": str(await clinic.value("select indicator from indicator where code = 'htn_controlled' and level = 'team'")),
        "measurement": str(await clinic.value("select min(measurement) from measurement where subject = %s", resident)),
        "unclaimed": str(await clinic.value("select measurement from measurement where subject like 'device:%%'")),
    }  # fmt: skip
    async with app.router.lifespan_context(app), await database.connect(clinic.conninfo, autocommit=True) as owner:
        http = Http(app, clinic, {relation: token for relation, (_, token) in made.items()})
        here = Street(http, owner, names, (resident, "王秀兰", "188", f'"measurement":{names["unclaimed"]}'))
        await http.ask("signed", "GET", f"/v1/residents/{resident}")  # a look that the record of looks shows
        await http.ask("signed", "GET", f"/v1/referrals/{names['referral']}/evidence")
        names["digest"] = await here.value("select digest from evidence")
        yield here


RESET = """
update care_case set state = 'claimed', claimed_by = 'dr-zhang', team = 'team-qinghe', ended_at = null, acknowledged_at = '2026-01-01';
update referral set state = 'rejected' where referral <> {referral};
update referral set state = 'accepted' where referral = {referral};
update task set state = 'open', ended_at = null where key in ('task', 'answer', 'check');
delete from guardian where guardian = '{neighbour}';
delete from break_glass where why <> 'test';
delete from rung where task in (select task from task where kind = 'report');
delete from task_log where task in (select task from task where kind = 'report');
delete from task where kind = 'report';
"""
VERSIONS = {
    "cases": "select version from care_case where care_case = {case}",
    "tasks/{task}": "select version from task where task = {task}",
    "tasks/{check}": "select version from task where task = {check}",
    "referrals": "select version from referral where referral = {referral}",
}


def filled(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(each, names) for key, each in value.items()}
    if isinstance(value, str) and value == "{version}":
        return int(names["version"])
    return value.format(**names) if isinstance(value, str) else value


async def asked(here: Street, relation: str, cell: str, body: dict[str, Any] | None, turn: int) -> httpx.Response:
    names = here.names | {"tomorrow": (datetime.now(UTC) + timedelta(days=1)).isoformat(), "unique": f"note {turn}", "version": "1"}
    for part, query in VERSIONS.items():
        if f"/{part}" in cell:
            names["version"] = await here.value(query.format(**names))
    method, path = cell.split(" ")
    if cell.endswith("/series"):
        path += "?metric=systolic"
    if cell.endswith("/Observation"):
        path += f"?patient={names['resident']}"
    if path.startswith("/console") and body is not None:
        fields = {name: str(value) for name, value in filled(body, names).items()}
        return await here.http.ask(relation, method, path.format(**names), data=fields)
    return await here.http.ask(relation, method, path.format(**names), filled(body, names))


async def state_of(here: Street) -> str:
    one = " || ".join(f"(select coalesce(md5(string_agg(t::text, '' order by t::text)), '') from {name} t)" for name in PERSONS)
    return await here.value(f"select {one}")


PARTS = 4  # of each wall's test: none of them takes long


async def judge(here: Street, part: int, *, wall_alone: bool) -> None:
    wrong: list[str] = []
    for turn, (cell, row) in list(enumerate(TABLE.items()))[part::PARTS]:
        may = row.wall if wall_alone and row.wall is not None else row.may
        for relation in sorted(RELATIONS):
            await here.owner.execute(RESET.format(**here.names).encode())
            if cell.endswith("/refer"):
                await here.owner.execute("update referral set state = 'rejected'")
            before = await state_of(here) if relation not in may else ""
            answer = await asked(here, relation, cell, row.body, turn)
            told = [one for one in here.leaks if one in answer.text.replace(" ", "")]
            refused = answer.status_code in (401, 403, 404)
            if answer.status_code >= 500:
                wrong.append(f"{relation}: {cell} → {answer.status_code}")
            elif relation not in may and ((told and not (row.body and relation in NAMED)) or (await state_of(here)) != before):
                wrong.append(f"{relation} got through {cell}: {answer.status_code} {told}")
            elif relation in row.may and (refused or answer.status_code == 422 or (cell.startswith("GET") and not told)):
                wrong.append(f"{relation} must get through {cell}: {answer.status_code} {answer.text[:100]}")
    assert not wrong, "\n".join(wrong)


def application(**settings: Any) -> FastAPI:
    return create_app(Settings(field_key=FIELD_KEY, api_rate=1000, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", range(PARTS))
async def test_both_walls(clinic: Clinic, part: int) -> None:
    async with street(clinic, application(api_database_url=behind(clinic.conninfo))) as here:
        await judge(here, part, wall_alone=False)


@pytest.mark.parametrize("part", range(PARTS))
async def test_our_checks_alone(clinic: Clinic, part: int) -> None:
    """With the owner's connection, before which the database has no wall."""
    async with street(clinic, application(database_url=clinic.conninfo)) as here:
        await judge(here, part, wall_alone=False)


@pytest.mark.parametrize("part", range(PARTS))
async def test_the_database_alone(clinic: Clinic, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every role passes every door, every team and place is everybody's, everybody may see everybody: the database still says no."""
    app = application(api_database_url=behind(clinic.conninfo))
    _open_every_door(app)

    async def anybody(connection: database.Connection, _account: accounts.Account, resident: str) -> dict[str, Any]:
        found = await residents.get(connection, resident)
        if found is None:
            raise Refused("unknown_resident")
        looked.at(resident)
        return found

    for room in (people, pages, places, oversight, packs, fhir):
        monkeypatch.setattr(room, "may_see", anybody)
    true_account = accounts.by_token

    async def of_all_teams(connection: database.Connection, token: str, *, used: bool = True) -> accounts.Account | None:
        found = await true_account(connection, token, used=used)
        every = {"teams": (town.TEAM, "team-2", "centre"), "places": (town.HOSPITAL, "hospital-2", town.GRID, "street-qinghe")}
        return found._replace(**every) if found is not None else None

    monkeypatch.setattr(accounts, "by_token", of_all_teams)
    async with street(clinic, app) as here:
        await judge(here, part, wall_alone=True)


def _open_every_door(app: FastAPI) -> None:
    def whoever(request: Request) -> accounts.Account:
        found: accounts.Account = request.state.account
        return found

    def walk(dependant: Any) -> None:
        for one in dependant.dependencies:
            call: Callable[..., Any] | None = one.call
            if call is not None and hasattr(call, "roles"):
                app.dependency_overrides[call] = whoever
            walk(one)

    for route in _routes(app):
        walk(route.dependant)
    assert len(app.dependency_overrides) > 5


def _routes(app: FastAPI) -> list[Any]:
    found: list[Any] = []

    def into(items: Any) -> None:
        for route in items:
            if hasattr(route, "dependant"):
                found.append(route)
            elif hasattr(route, "original_router"):
                into(route.original_router.routes)

    into(app.routes)
    assert len(found) >= len({path for _, path in routes(app)})
    return found
