"""The HTTP API: every route × role has its verdict, every bad input its stable reason, every effect happens once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from api import accounts
from api.app import create_app
from tests.ingest.helpers import CUFF, FIELD_KEY, Clinic, measurement, message
from vitals.floor import database
from vitals.settings import Settings
from yizhan import town

pytestmark = pytest.mark.services

A, SEC, AUD, D, N, U, H, G, S, R = (
    "admin", "security", "audit", "doctor", "nurse", "supervisor", "hospital", "sentinel", "station", "resident",
)  # fmt: skip
ROLES = ("nobody", A, SEC, AUD, D, N, U, H, G, S, R)
EVERYBODY = set(ROLES)
SOMEBODY = EVERYBODY - {"nobody"}
TEAM = {D, N, U}

# every route and who gets past the door; a route that is missing here fails the test
VERDICTS: dict[str, set[str]] = {
    "POST /v1/checkins": {S},
    "DELETE /v1/checkins/{checkin}": {S},
    "POST /v1/checkins/{checkin}/measurements": {S},
    "POST /v1/checkins/{checkin}/symptoms": {S},
    "GET /v1/checkins/{checkin}/events": {S},
    "GET /v1/intake/{number}": SOMEBODY,
    "POST /v1/enrolments": {A},
    "POST /v1/enrolments/redeem": EVERYBODY,
    "POST /v1/gateways/{gateway}/revoke": {A},
    "POST /v1/gateways/{gateway}/pairings": {A},
    "POST /v1/gateways/{gateway}/discoveries": {A},
    "DELETE /v1/gateways/{gateway}/pairings/{device}": {A},
    "GET /v1/gateways/{gateway}/pairings/{command}": {A},
    "POST /v1/devices": {A},
    "GET /v1/devices": {A},
    "POST /v1/devices/claim": {A, R},
    "DELETE /v1/devices/{device}/binding": {A, R},
    "PUT /v1/devices/{device}/calibration": {A},
    "POST /v1/accounts": {A, SEC},
    "POST /v1/accounts/{account}/revoke": {A, SEC},
    "POST /v1/residents": {A},
    "GET /v1/residents": {A, *TEAM},
    "GET /v1/residents/{resident}": {A, *TEAM, H, R},
    "PUT /v1/residents/{resident}/facts": {A, *TEAM},
    "PUT /v1/residents/{resident}/parameters": {A, *TEAM},
    "PUT /v1/regions/{region}": {A},
    "PUT /v1/centres/{centre}": {A},
    "PUT /v1/hospitals/{hospital}": {A},
    "PUT /v1/teams/{team}": {A},
    "PUT /v1/staff/{person}": {A},
    "POST /v1/staff/{person}/leave": TEAM,
    "PUT /v1/staff/{person}/contacts": {A, *TEAM},
    "POST /v1/centres/{centre}/shifts": {A, U},
    "PUT /v1/calendar/{day}": {A},
    "POST /v1/residents/find": {S, A, *TEAM},
    "POST /v1/residents/{resident}/contracts": {A, *TEAM},
    "POST /v1/residents/{resident}/contracts/{contract}/end": {A, *TEAM},
    "POST /v1/residents/{resident}/guardians": {A, *TEAM},
    "PUT /v1/residents/{resident}/place": {A, *TEAM},
    "PUT /v1/residents/{resident}/identities": {A, *TEAM},
    "PUT /v1/parameters": {A},
    "GET /v1/packs": {A, *TEAM},
    "POST /v1/packs": {A},
    "DELETE /v1/packs/{pack_name}": {A},
    "GET /v1/residents/{resident}/series": {A, *TEAM, H, R},
    "POST /v1/measurements/{measurement}/attribution": {A, *TEAM},
    "POST /v1/devices/{device}/wearers": {A},
    "GET /v1/unclaimed": {A, *TEAM},
    "POST /v1/unclaimed/{measurement}/claim": {A, *TEAM},
    "GET /v1/queue": TEAM,
    "GET /v1/events": TEAM,
    "GET /v1/notices": TEAM,
    "GET /v1/cases/{number}": TEAM,
    "GET /v1/cases/{number}/chart.svg": TEAM,
    "POST /v1/cases/{number}/acknowledge": TEAM,
    "POST /v1/cases/{number}/claim": TEAM,
    "POST /v1/cases/{number}/release": TEAM,
    "POST /v1/cases/{number}/note": TEAM,
    "POST /v1/cases/{number}/call": TEAM,
    "POST /v1/cases/{number}/hand-over": TEAM,
    "POST /v1/cases/{number}/snooze": TEAM,
    "POST /v1/cases/{number}/refer": {D, U},
    "POST /v1/cases/{number}/resolve": {D, U},
    "POST /v1/cases/{number}/dismiss": {D, U},
    "GET /v1/referrals/{number}/evidence": {*TEAM, H},
    "POST /v1/referrals/{number}/receipt": {H},
    "GET /v1/residents/{resident}/consents": {A, *TEAM, H, R},
    "PUT /v1/residents/{resident}/consents": {*TEAM, R},
    "GET /fhir/metadata": {A, *TEAM, H, R},
    "GET /fhir/Patient/{resident}": {A, *TEAM, H, R},
    "GET /fhir/Observation": {A, *TEAM, H, R},
    "GET /console/referrals/{number}/evidence": {*TEAM, H},
    "GET /v1/hospitals": {*TEAM, H},
    "GET /v1/referrals": {*TEAM, H},
    "GET /v1/referrals/{number}": {*TEAM, H},
    "POST /v1/referrals/{number}/{action}": {D, U, H},
    "GET /v1/tasks": {*TEAM, H, G},
    "GET /v1/tasks/{number}": {*TEAM, H, G},
    "POST /v1/tasks/{number}/finish": {*TEAM, H, G},
    "POST /v1/reports": {G},
    "GET /v1/indicators": {A, *TEAM},
    "GET /v1/indicators/{number}": TEAM,
    "GET /v1/residents/{resident}/accesses": {AUD, R},
    "POST /v1/residents/{resident}/break-glass": {D, U},
    "GET /v1/break-glass": {AUD},
    "POST /v1/break-glass/{number}/review": {AUD},
    "GET /v1/health": EVERYBODY,
    "GET /metrics": EVERYBODY,
    "GET /": SOMEBODY,
    "GET /console/login": EVERYBODY,
    "POST /console/login": EVERYBODY,
    "GET /console/oidc": EVERYBODY,
    "GET /console/oidc/back": EVERYBODY,
    "POST /console/logout": SOMEBODY,
    "POST /console/language": SOMEBODY,
    "GET /console/second-factor": SOMEBODY,
    "POST /console/second-factor": SOMEBODY,
    "GET /console/queue": TEAM,
    "GET /console/queue/rows": TEAM,
    "GET /console/cases/{number}": TEAM,
    "POST /console/cases/{number}/{action}": TEAM,
    "GET /console/referrals": {*TEAM, H},
    "GET /console/referrals/{number}": {*TEAM, H},
    "POST /console/referrals/{number}/{action}": {*TEAM, H},
    "GET /console/work": {*TEAM, H, G},
    "GET /console/tasks/{number}": {*TEAM, H, G},
    "POST /console/tasks/{number}/finish": {*TEAM, H, G},
    "POST /console/reports": {G},
    "GET /console/oversight": {AUD},
    "POST /console/oversight/{number}": {AUD},
    "GET /console/accounts": {A, SEC},
    "POST /console/accounts": {A, SEC},
    "POST /console/accounts/{account_id}/revoke": {A, SEC},
    "GET /console/indicators": {A, *TEAM},
    "GET /console/indicators/{number}": TEAM,
    "GET /console/stations": {A, *TEAM},
    "GET /console/packs": {A, *TEAM},
    "GET /console/residents": TEAM,
    "GET /console/residents/{resident}": {*TEAM, H, R},
    "POST /console/residents/{resident}/consents": {*TEAM, R},
}


def behind(conninfo: str) -> str:
    """The same database, as the API's own role."""
    return conninfo.replace("yizhan:application-password", "yizhan_api:api-password")


class Http:
    """The application over a clinic, and one client for each role."""

    def __init__(self, app: FastAPI, clinic: Clinic, tokens: dict[str, str]) -> None:
        self.app, self.clinic, self.tokens = app, clinic, tokens

    async def ask(self, role: str, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role in self.tokens else {}
        headers |= options.pop("headers", {})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
            if body is not None:
                options["json"] = body
            return await client.request(method, path, headers=headers, **options)

    async def applied(self, role: str, answer: httpx.Response) -> str:
        """Let the worker apply what was accepted; what became of it."""
        assert answer.status_code == 202, answer.text
        await self.clinic.idle()
        return str((await self.ask(role, "GET", f"/v1/intake/{answer.json()['id']}")).json()["result"])


@pytest.fixture
async def http(clinic: Clinic) -> AsyncIterator[Http]:
    app = create_app(Settings(api_database_url=behind(clinic.conninfo), field_key=FIELD_KEY))  # type: ignore[arg-type]
    resident = await clinic.resident()
    async with await database.connect(clinic.conninfo) as connection:
        staffed = {login: person for person, *_, login in reversed(town.PERSONNEL)}  # the first of each login's people
        refers = {A: None, SEC: None, AUD: None, S: town.GATEWAY, R: resident, **staffed}
        tokens = {role: (await accounts.create(connection, role, refers[role]))[1] for role in refers}
        await connection.commit()
    async with app.router.lifespan_context(app):
        yield Http(app, clinic, tokens)


def routes(app: FastAPI) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def walk(items: Any) -> None:
        for route in items:
            if isinstance(route, APIRoute):
                found.extend((method, route.path) for method in route.methods or ())
            elif hasattr(route, "original_router"):
                walk(route.original_router.routes)
            elif hasattr(route, "routes") and route.routes and not hasattr(route, "app"):
                walk(route.routes)

    walk(app.routes)
    return found


async def test_every_route_has_a_verdict_for_every_role(http: Http) -> None:
    served = {f"{method} {path}" for method, path in routes(http.app)}
    assert served == set(VERDICTS)
    for cell, allowed in VERDICTS.items():
        method, path = cell.split(" ")
        if path.endswith("/events"):
            continue  # an endless stream; its door is the same dependency, tried below
        for name in re.findall("{([a-z_]+)}", path):
            path = path.replace("{" + name + "}", "0" if name in ("number", "measurement", "contract") else "nothing")
        for role in ROLES:
            answer = await http.ask(role, method, path, None if method == "GET" else {})
            if role in allowed:
                assert answer.status_code not in (401, 403) or path == "/console/login", f"{role} must pass {cell}: {answer.text}"
            elif role == "nobody":
                login = answer.headers.get("location") == "/console/login"
                assert answer.status_code == 401 or login, f"{cell} is open to the world"
            else:
                assert answer.status_code == 403, f"{role} must not pass {cell}: {answer.status_code}"
    for path, refused in (("/v1/events", (S, R)), ("/v1/checkins/c-1/events", (A, D, R))):
        for role in refused:
            assert (await http.ask(role, "GET", path)).status_code == 403


async def test_what_is_anothers_does_not_exist(http: Http) -> None:
    """A doctor of another team, a resident asking for a neighbour: the answer is the one for nobody at all."""
    await http.clinic.send(message(measurement(186, 112)))
    mine, neighbour = await http.clinic.resident(), await http.clinic.resident(town.PEOPLE[1][3])
    await http.clinic.run("insert into team values ('other', '别的团队', 'centre')")
    await http.clinic.run("insert into staff values ('dr-other', '别的医生', 'other')")
    async with await database.connect(http.clinic.conninfo) as connection:
        http.tokens["stranger"] = (await accounts.create(connection, "doctor", "dr-other"))[1]
        await connection.commit()
    number = await http.clinic.value("select care_case from care_case")
    assert (await http.ask(D, "GET", f"/v1/cases/{number}")).status_code == 200
    for path in (
        f"/v1/cases/{number}",
        f"/v1/residents/{mine}",
        f"/v1/residents/{mine}/series?metric=systolic",
        f"/v1/cases/{number}/chart.svg",
    ):
        assert (await http.ask("stranger", "GET", path)).status_code == 404
    assert (await http.ask("stranger", "POST", f"/v1/cases/{number}/acknowledge", {"version": 1})).status_code == 404
    assert (await http.ask("stranger", "GET", "/v1/queue")).json() == []
    assert (await http.ask(R, "GET", f"/v1/residents/{mine}")).status_code == 200
    assert (await http.ask(R, "GET", f"/v1/residents/{neighbour}")).status_code == 404
    assert (await http.ask(R, "GET", "/v1/residents/r-nobody")).status_code == 404


async def test_what_no_table_could_hold_is_not_valid(http: Http) -> None:
    assert (await http.ask(D, "GET", "/v1/residents/%00")).status_code == 422
    assert (await http.ask(D, "GET", "/v1/cases/99999999999999999999")).status_code == 404
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await http.ask("nobody", "POST", "/console/login", content=b"login=%00x&password=%00", headers=form)).status_code == 403


async def test_a_case_is_referred_once_on_whichever_page_the_doctor_does_it(http: Http) -> None:
    await http.clinic.send(message(measurement(186, 112, ago=timedelta(minutes=2))), message(measurement(188, 113)))
    row = (await http.ask(D, "GET", "/v1/queue")).json()[0]
    (suggested,) = (await http.ask(D, "GET", "/v1/referrals")).json()
    accept = {"version": suggested["version"], "hospital": town.HOSPITAL, "why": "复测确认"}
    assert (await http.ask(H, "GET", "/v1/referrals")).json() == [], "not sent yet"
    assert (await http.ask(D, "POST", f"/v1/referrals/{suggested['referral']}/accept", accept)).status_code == 204
    assert len((await http.ask(H, "GET", "/v1/referrals")).json()) == 1
    assert (await http.ask(D, "POST", f"/v1/cases/{row['care_case']}/claim", {"version": row["version"]})).status_code == 204
    again = {"version": row["version"] + 1, "hospital": town.HOSPITAL, "why": "复测确认"}
    answer = await http.ask(D, "POST", f"/v1/cases/{row['care_case']}/refer", again)
    assert (answer.status_code, answer.json()["reason"]) == (409, "already_referred")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic YTpi"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}, 401),
        ({"Cookie": "yizhan_session=yz_wrong"}, 401),
    ],
)
async def test_nobody_without_a_live_token(http: Http, headers: dict[str, str], status: int) -> None:
    answer = await http.ask("nobody", "GET", "/v1/queue", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (await http.ask("nobody", "GET", f"/v1/queue?token={http.tokens[D]}")).status_code == 401


async def test_who_asks_too_often_waits_and_nobody_else_does(http: Http) -> None:
    hurried = create_app(Settings(api_database_url=behind(http.clinic.conninfo), field_key=FIELD_KEY, api_rate=2))  # type: ignore[arg-type]
    async with hurried.router.lifespan_context(hurried):
        strict = Http(hurried, http.clinic, http.tokens)
        answers = await asyncio.gather(*(strict.ask(AUD, "GET", "/v1/break-glass") for _ in range(20)))
        late = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert (await strict.ask(D, "GET", "/v1/queue")).status_code == 200
    assert (late[0].json()["reason"], late[0].headers["retry-after"]) == ("too_many_requests", "1")
    tries = [(await http.ask("nobody", "POST", "/v1/enrolments/redeem", {"code": "AAAA-BBBBBBBB"})).status_code for _ in range(31)]
    assert tries == [403] * 30 + [429]


async def test_an_account_is_made_for_a_password_for_a_name_outside_or_for_a_token(http: Http) -> None:
    for more, status in (
        ({"login": "zhang@hospital", "external": True}, 201), ({"login": "zhang@hospital", "external": True}, 409),
        ({"login": "zhang", "password": "a long enough one"}, 201), ({}, 201), ({"login": "zhang2"}, 409), ({"external": True}, 409),
        ({"login": "a b", "external": True}, 422), ({"login": "zhang3", "password": "short"}, 422),
    ):  # fmt: skip
        answer = await http.ask(SEC, "POST", "/v1/accounts", {"role": "doctor", "refers_to": town.DOCTOR, **more})
        assert answer.status_code == status, (more, answer.text)
    known = await http.clinic.rows("select login, external, password is null as open from account where refers_to = %s", town.DOCTOR)
    assert {"login": "zhang@hospital", "external": True, "open": True} in known


async def test_a_revoked_account_is_nobody(http: Http) -> None:
    account = await http.clinic.value("select account from account where role = 'doctor'")
    assert (await http.ask(A, "POST", f"/v1/accounts/{account}/revoke")).status_code == 204
    assert (await http.ask(D, "GET", "/v1/queue")).status_code == 401


BODY = b'{"resident": "r-1"}'


@pytest.mark.parametrize(
    ("content", "kind", "status", "reason"),
    [
        (b"", "application/json", 422, "not_valid"),
        (b"\0", "application/json", 400, "bad_json"),
        (b'{"resident": ', "application/json", 400, "bad_json"),
        (b"\xff\xfe", "application/json", 400, "bad_json"),
        (b'{"resident": "a", "resident": "b"}', "application/json", 400, "duplicate_key"),
        (b'{"resident": NaN}', "application/json", 400, "bad_json"),
        (b'{"resident": "\\ud800"}', "application/json", 400, "bad_json"),
        (b'{"resident": "a\\u0000b"}', "application/json", 400, "bad_json"),
        (b"[" * 20_000, "application/json", 400, "bad_json"),
        (b'{"resident": "a/b"}', "application/json", 422, "not_valid"),
        (b'{"resident": "r-1", "is_admin": true}', "application/json", 422, "not_valid"),
        (b"[]", "application/json", 422, "not_valid"),
        (BODY, "text/plain", 415, "unsupported_media_type"),
        (b"x" * 100_000, "application/json", 413, "body_too_large"),
        (BODY, "application/json", 404, "unknown_resident"),
    ],
)
async def test_a_bad_body_has_a_stable_reason_and_is_not_echoed(http: Http, content: bytes, kind: str, status: int, reason: str) -> None:
    answer = await http.ask(S, "POST", "/v1/checkins", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert "is_admin" not in answer.text or "extra_forbidden" in answer.text
    assert "r-1" not in answer.text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("metric=systolic", 200),
        ("metric=mood", 422),
        ("", 422),
        ("metric=systolic&limit=0", 422),
        ("metric=systolic&limit=1000000000", 422),
        ("metric=systolic&since=2026-11-22T00:00:00", 422),
        ("metric=systolic&since=2026-02-30T00:00:00Z", 422),
        ("metric=systolic&since=2026-11-22T00:00:00Z&until=2026-11-21T00:00:00Z", 422),
        ("metric=systolic&since=1926-11-22T00:00:00Z", 422),
    ],
)
async def test_a_series_is_asked_for_within_reason(http: Http, query: str, status: int) -> None:
    await http.clinic.send(message(measurement(133, 84)))
    answer = await http.ask(R, "GET", f"/v1/residents/{await http.clinic.resident()}/series?{query}")
    assert answer.status_code == status
    if status == 200:
        assert [point["value"] for point in answer.json()["points"]] == [133]


async def check_in(http: Http) -> str:
    answer = await http.ask(S, "POST", "/v1/checkins", {"resident": await http.clinic.resident()})
    assert answer.status_code == 202
    return str(answer.json()["checkin"])


ENTRY = {"device": town.MANUAL, "kind": "blood_pressure", "setting": "manual", "values": {"systolic": 190, "diastolic": 112}}


async def test_the_kiosk_enters_a_measurement_which_is_weak_and_never_silent(http: Http) -> None:
    checkin = await check_in(http)
    path = f"/v1/checkins/{checkin}"  # usable at once, before the worker applied it
    answer = await http.ask(S, "POST", f"{path}/measurements", ENTRY, headers={"Idempotency-Key": "key-00000001"})
    again = await http.ask(S, "POST", f"{path}/measurements", ENTRY, headers={"Idempotency-Key": "key-00000001"})
    other = await http.ask(S, "POST", f"{path}/measurements", ENTRY | {"flags": ["x"]}, headers={"Idempotency-Key": "key-00000001"})
    assert answer.json() == again.json()
    assert (other.status_code, other.json()["reason"]) == (409, "idempotency_conflict")
    assert await http.applied(S, answer) == "applied"
    row = (await http.clinic.rows("select subject, setting, weak, source from measurement"))[0]
    assert row["subject"] == await http.clinic.resident()
    assert (row["setting"], row["weak"]) == ("manual", ["setting:manual"])
    assert ((await http.clinic.alert()) or {})["state"] == "pending"
    advice = (await http.clinic.rows("select body from outbox where kind = 'advice'"))[0]["body"]
    assert (advice["next"], advice["checkin"]) == ("rest_and_repeat", checkin)
    assert "chest_tightness" in advice["ask_symptoms"]
    assert {value["metric"]: value["value"] for value in advice["received"]} == {"systolic": 190, "diastolic": 112}
    asked = await http.ask(S, "POST", f"{path}/symptoms", {"answers": {"chest_tightness": "yes", "eye_pain": "not_asked"}})
    assert await http.applied(S, asked) == "applied"
    assert ((await http.clinic.alert()) or {})["severity"] == "P1"
    out = await http.ask(S, "DELETE", path)
    assert await http.applied(S, out) == "applied"
    late = await http.ask(S, "POST", f"{path}/measurements", ENTRY)
    assert (late.status_code, late.json()["reason"]) == (409, "checkin_over")


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"device": "nothing"}, 404, "unknown_device"),
        ({"device": CUFF}, 404, "unknown_device"),
        ({"values": {"mood": 3}}, 422, "unknown_metric"),
        ({"values": {"systolic": -3}}, 422, "impossible_value"),
        ({"values": {"systolic": "high"}}, 422, "unknown_metric"),
        ({"values": {}}, 422, "not_valid"),
        ({"setting": "home"}, 422, "not_valid"),
        ({"measured_at": "2026-11-22T08:00:00"}, 422, "not_valid"),
    ],
)
async def test_an_entry_that_cannot_be_is_refused(http: Http, change: dict[str, Any], status: int, reason: str) -> None:
    answer = await http.ask(S, "POST", f"/v1/checkins/{await check_in(http)}/measurements", ENTRY | change)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


async def test_a_wrong_clock_at_the_kiosk_is_no_reason_to_refuse(http: Http) -> None:
    answer = await http.ask(S, "POST", f"/v1/checkins/{await check_in(http)}/measurements", ENTRY | {"measured_at": "1970-01-01T00:00:00Z"})
    assert await http.applied(S, answer) == "applied"
    assert await http.clinic.value("select time_quality from measurement") == "untrusted"


async def test_the_doctor_handles_a_case_and_a_double_click_does_nothing(http: Http) -> None:
    await http.clinic.send(message(measurement(186, 112, ago=timedelta(minutes=2))), message(measurement(188, 113)))
    row = (await http.ask(D, "GET", "/v1/queue")).json()[0]
    path, version = f"/v1/cases/{row['care_case']}", row["version"]
    early = await http.ask(D, "POST", f"{path}/resolve", {"version": version, "why": "x"})
    assert (early.status_code, early.json()["reason"]) == (409, "wrong_state")
    assert (await http.ask(D, "POST", f"{path}/acknowledge", {"version": version})).status_code == 204
    twice = await http.ask(D, "POST", f"{path}/acknowledge", {"version": version})
    assert (twice.status_code, twice.json()["reason"]) == (412, "stale_version")
    assert (await http.ask(D, "POST", f"{path}/claim", {"version": version + 1})).status_code == 204
    refer = {"version": version + 2, "hospital": town.HOSPITAL, "why": "复测确认"}
    assert (await http.ask(D, "POST", f"{path}/refer", refer)).status_code == 201
    first = await http.ask(D, "POST", f"{path}/resolve", {"version": version + 3, "why": "已转诊"})
    second = await http.ask(D, "POST", f"{path}/resolve", {"version": version + 3, "why": "已转诊"})
    await http.clinic.idle()
    assert {await http.clinic.value("select result from intake where id = %s", a.json()["id"]) for a in (first, second)} == {
        "applied",
        "refused:stale_version",
    }
    view = (await http.ask(D, "GET", path)).json()
    assert (view["case"]["state"], view["alerts"][0]["state"]) == ("resolved", "closed")
    assert [entry["what"] for entry in view["log"]] == [
        "opened",
        "alert",
        "alert",
        "paged",
        "acknowledge",
        "claim",
        "refer",
        "resolve",
    ]
    assert view["measurements"][0]["raw"] == "1e00"
    assert (await http.ask(D, "GET", "/v1/queue")).json() == []
    await http.clinic.send(message(measurement(190, 112)))
    new = (await http.ask(D, "GET", "/v1/queue")).json()
    assert [(case["care_case"] != row["care_case"], case["alerts"][0]["state"]) for case in new] == [(True, "pending")]


async def test_an_enrolment_code_works_once_and_guessing_locks_it(http: Http) -> None:
    async def code(gateway: str) -> str:
        answer = await http.ask(A, "POST", "/v1/enrolments", {"gateway": gateway, "site": "station-9"})
        return str(answer.json()["code"])

    async def redeem(text: str) -> int:
        return (await http.ask("nobody", "POST", "/v1/enrolments/redeem", {"code": text})).status_code

    good = await code("gateway-7")
    answer = await http.ask("nobody", "POST", "/v1/enrolments/redeem", {"code": good.lower()})
    credential = answer.json()
    assert (answer.status_code, credential["user"], len(credential["password"]) >= 24) == (201, "gateway-7", True)
    assert credential["topics"]["up"][0] == "yz/1/station-9/gateway-7/up/readings"
    assert await redeem(good) == 403
    other = await code("gateway-8")
    for _ in range(5):
        assert await redeem(other[:5] + "AAAAAAAA") == 403
    assert await redeem(other) == 403, "locked after five tries"
    late = await code("gateway-9")
    await http.clinic.run("update enrolment set expires_at = now() - interval '1 second' where used_at is null")
    assert await redeem(late) == 403
    assert await redeem("ZZZZ-ZZZZZZZZ") == 403
    assert (await http.ask(A, "POST", "/v1/gateways/gateway-7/revoke")).status_code == 204
    assert (await http.ask(A, "POST", "/v1/gateways/gateway-7/revoke")).status_code == 404


async def test_a_resident_claims_a_device_with_its_code(http: Http) -> None:
    made = await http.ask(A, "POST", "/v1/devices", {"device": "band-1", "kind": "heart_rate", "setting": "wearable"})
    assert made.status_code == 201
    assert (await http.ask(A, "POST", "/v1/devices", {"device": "band-1", "kind": "heart_rate", "setting": "wearable"})).status_code == 409
    answer = await http.ask(R, "POST", "/v1/devices/claim", {"code": made.json()["code"]})
    assert await http.applied(R, answer) == "applied"
    assert (await http.ask(R, "POST", "/v1/devices/claim", {"code": made.json()["code"]})).status_code == 403
    neighbour = await http.clinic.resident(town.PEOPLE[1][3])
    assert (await http.ask(R, "POST", "/v1/devices/claim", {"code": "AAAA-BBBBBBBB", "resident": neighbour})).status_code == 403
    listed = {row["device"]: row["resident"] for row in (await http.ask(A, "GET", "/v1/devices")).json()}
    assert listed["band-1"] == await http.clinic.resident()
    assert (await http.ask(R, "DELETE", f"/v1/devices/{town.PEOPLE[1][3]}/binding")).status_code == 404
    assert await http.applied(R, await http.ask(R, "DELETE", "/v1/devices/band-1/binding")) == "applied"


async def test_a_new_resident_has_a_name_only_where_it_belongs(http: Http) -> None:
    name = "阿卜杜拉·买买提𠮷"
    answer = await http.ask(A, "POST", "/v1/residents", {"name": name, "sex": "male", "birth_date": "1950-02-03", "doctor": town.DOCTOR})
    resident = answer.json()["resident"]
    await http.clinic.idle()
    assert (await http.ask(D, "GET", f"/v1/residents/{resident}")).json()["name"] == name
    facts = await http.clinic.rows("select fact, value from subject_fact where subject = %s", resident)
    assert {row["fact"]: row["value"] for row in facts} == {"sex": "male", "birth_date": "1950-02-03"}
    told = await http.ask(D, "PUT", f"/v1/residents/{resident}/facts", {"hypertension": True})
    assert await http.applied(D, told) == "applied"


async def test_the_description_is_complete(http: Http) -> None:
    document = (await http.ask("nobody", "GET", "/openapi.json")).json()
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == {cell for cell in VERDICTS if "/v1/" in cell or "/metrics" in cell or "/fhir/" in cell}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path} says nothing about itself"
            assert "4XX" in operation["responses"]
            public = f"{method.upper()} {path}" in {c for c, who in VERDICTS.items() if who == EVERYBODY}
            assert public or operation.get("security"), f"{method} {path} does not say that it needs a token"


async def test_the_console_takes_no_orders_from_another_site(http: Http) -> None:
    await http.clinic.send(message(measurement(186, 112)))
    answer = await http.ask(
        "nobody", "POST", "/console/cases/1/acknowledge", content=b"version=1",
        headers={"Cookie": f"yizhan_session={http.tokens[D]}", "Origin": "https://elsewhere.example"},
    )  # fmt: skip
    assert (answer.status_code, answer.json()["reason"]) == (403, "foreign_origin")


async def test_without_a_database_the_answer_is_come_back_later(http: Http) -> None:
    app = create_app(Settings(database_url="postgresql://nobody:x@127.0.0.1:1/none", database_pool=1, field_key=FIELD_KEY))  # type: ignore[arg-type]
    async with app.router.lifespan_context(app):
        away = Http(app, http.clinic, {})
        answer = await away.ask("nobody", "GET", "/v1/health")
    assert (answer.status_code, answer.json()["reason"], answer.headers["retry-after"]) == (503, "unavailable", "2")


def test_nothing_of_a_person_is_in_the_metrics() -> None:
    from prometheus_client import generate_latest

    text = generate_latest().decode()
    assert not any(person[0] in text for person in town.PEOPLE)
    assert json.dumps(text).find("cuff-") == -1


async def test_a_pack_is_refused_with_its_lines_or_put_in_force_and_listed(http: Http) -> None:
    from rules import pack
    from tests.rules.test_in_force import stricter

    refused = await http.ask(A, "POST", "/v1/packs", {"text": stricter().replace("within: 15m", "within: soon")})
    assert refused.status_code == 422
    assert refused.json()["reason"] == "bad_pack"
    assert "line " in refused.json()["detail"]
    assert (await http.ask(A, "POST", "/v1/packs", {"text": stricter(signed=False)})).json()["reason"] == "not_signed_off"
    accepted = await http.ask(A, "POST", "/v1/packs", {"text": stricter()})
    assert accepted.status_code == 202
    await http.clinic.idle()
    told = (await http.ask(D, "GET", "/v1/packs")).json()
    mine = next(one for one in told["in_force"] if one["pack"] == "cn.nbphs3.htn")
    assert (mine["version"], mine["shipped"], mine["signed_off"]) == ("1.2.0", False, True)
    assert mine["parameters"][0] | {"value": 0} == {
        "name": "danger_systolic", "value": 0, "unit": "mm[Hg]", "low": 150, "high": 180, "levels": ["centre", "resident"],
    }  # fmt: skip
    assert [one["version"] for one in told["history"]] == ["1.2.0"]
    resident = await http.clinic.resident()
    body = {"pack": "cn.nbphs3.htn", "name": "danger_systolic", "value": 155}
    assert (await http.ask(D, "PUT", f"/v1/residents/{resident}/parameters", body)).status_code == 202
    assert (await http.ask(D, "PUT", "/v1/residents/r-nobody/parameters", body)).status_code == 404
    await http.clinic.send(message(measurement(156, 80)))
    assert await http.clinic.value("select count(*) from alert where family = 'bp_danger'") == 1
    assert (await http.ask(A, "DELETE", "/v1/packs/cn.nbphs3.htn")).status_code == 202
    await http.clinic.idle()
    told = (await http.ask(D, "GET", "/v1/packs")).json()
    assert {one["digest"] for one in told["in_force"]} == {pack.load_named(name).digest for name in pack.shipped()}


async def test_the_board_of_stations_tells_who_was_heard_and_what_could_not_be_read(http: Http) -> None:
    await http.clinic.send(message(measurement(133, 84)), b"not json")
    page = (await http.ask(N, "GET", "/console/stations")).text
    assert "清河智慧健康驿站" in page
    assert "cuff-kiosk-1" in page
    assert "not_json" in page
    assert page.count("—</td>") == 0, "it was heard, and what it sent could not be read"
    packs = (await http.ask(N, "GET", "/console/packs")).text
    assert "cn.nbphs3.htn" in packs
    assert "htn.danger" in packs
