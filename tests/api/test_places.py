"""The registers over HTTP: a place is settled, a card finds a person at a station, who is away is covered, who signs is theirs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from api import accounts
from tests.api.test_http import AUD, A, D, Http, N, R, S, U, http  # noqa: F401  a fixture
from tests.ingest.helpers import measurement, message
from vitals.floor import database
from yizhan import town

pytestmark = pytest.mark.services


async def test_a_card_finds_a_person_at_a_station_and_tells_nobody_else(http: Http) -> None:  # noqa: F811
    who = await http.clinic.resident()
    card = {"kind": "id_card", "number": town.identity_number(town.PEOPLE[0][2], town.PEOPLE[0][1], 1)}
    assert (await http.ask(S, "POST", "/v1/residents/find", card)).json() == {"residents": [who]}
    checked_in = await http.ask(S, "POST", "/v1/checkins", {"resident": who})
    assert checked_in.status_code == 202
    assert (await http.ask(D, "POST", "/v1/residents/find", card)).json() == {"residents": [who]}
    assert (await http.ask(R, "POST", "/v1/residents/find", card)).status_code == 403
    wrong = {"kind": "id_card", "number": card["number"][:-1] + ("1" if card["number"][-1] != "1" else "2")}
    assert (await http.ask(S, "POST", "/v1/residents/find", wrong)).json()["reason"] == "bad_id_number"
    looks = (await http.ask(AUD, "GET", f"/v1/residents/{who}/accesses")).json()
    assert {"POST /v1/residents/find"} <= {look["what"] for look in looks}, "whoever was found is told that somebody looked"
    taken = {"numbers": {"id_card": card["number"]}}
    neighbour = await http.clinic.resident(town.PEOPLE[1][3])
    assert (await http.ask(N, "PUT", f"/v1/residents/{neighbour}/identities", taken)).json()["reason"] == "identity_taken"
    assert (await http.ask(N, "PUT", f"/v1/residents/{neighbour}/identities", {"numbers": {"phone": "13911112222"}})).status_code == 204
    assert (await http.ask(S, "POST", "/v1/residents/find", {"kind": "phone", "number": "13911112222"})).json() == {
        "residents": [neighbour]
    }


async def test_an_administrator_settles_a_centre_and_its_first_team(http: Http) -> None:  # noqa: F811
    for path, body in (
        ("regions/grid-new", {"parent": "community-qinghe", "level": "grid", "name": "第九网格"}),
        ("centres/centre-new", {"name": "新中心", "region": town.DISTRICT, "opens": "07:30:00", "closes": "16:00:00"}),
        ("teams/team-new", {"name": "新团队", "centre": "centre-new"}),
        ("hospitals/hospital-new", {"name": "新医院", "region": town.DISTRICT}),
        ("staff/dr-new", {"name": "新医生", "team": "team-new", "role": "family_doctor", "place": "team-new"}),
        ("staff/dr-new/contacts", {"contacts": [{"kind": "wecom", "address": "wecombot://key"}]}),
        ("calendar/2026-10-01", {"works": False, "name": "国庆节"}),
    ):
        assert (await http.ask(A, "PUT", f"/v1/{path}", body)).status_code == 204, path
    assert (await http.ask(A, "PUT", "/v1/staff/dr-x", {"name": "x", "role": "nurse", "place": "nowhere"})).status_code == 404
    assert (await http.ask(A, "PUT", "/v1/regions/r-x", {"parent": "nowhere", "level": "grid", "name": "x"})).status_code == 422
    who = await http.clinic.resident()
    signed = await http.ask(A, "POST", f"/v1/residents/{who}/contracts", {"doctor": "dr-new", "package": "chronic"})
    assert signed.status_code == 201
    assert (await http.ask(D, "GET", f"/v1/residents/{who}")).status_code == 404, "she is another team's now"
    async with await database.connect(http.clinic.conninfo) as connection:
        http.tokens["new"] = (await accounts.create(connection, "doctor", "dr-new"))[1]
        await connection.commit()
    assert (await http.ask("new", "GET", f"/v1/residents/{who}")).json()["doctor"] == "dr-new"
    assert (await http.ask("new", "PUT", f"/v1/residents/{who}/place", {"region": "grid-new", "tier": "red"})).status_code == 204
    sealed = await http.clinic.value("select sealed from contact where staff = 'dr-new'")
    assert b"wecombot" not in bytes(sealed)


async def test_who_is_away_is_covered_from_then_until_then(http: Http) -> None:  # noqa: F811
    await http.clinic.send(message(measurement(186, 112)))
    for path, body in (
        ("teams/team-two", {"name": "二队", "centre": town.CENTRE}),
        ("staff/dr-two", {"name": "二医生", "team": "team-two", "role": "family_doctor", "place": "team-two"}),
    ):
        await http.ask(A, "PUT", f"/v1/{path}", body)
    async with await database.connect(http.clinic.conninfo) as connection:
        http.tokens["two"] = (await accounts.create(connection, "doctor", "dr-two"))[1]
        await connection.commit()
    assert (await http.ask("two", "GET", "/v1/queue")).json() == []
    now = datetime.now(UTC)
    away = {"cover": "dr-two", "since": (now - timedelta(hours=1)).isoformat(), "until": (now + timedelta(days=3)).isoformat()}
    assert (await http.ask("two", "POST", f"/v1/staff/{town.DOCTOR}/leave", away)).status_code == 404, "nobody sends a colleague on leave"
    assert (await http.ask(D, "POST", f"/v1/staff/{town.DOCTOR}/leave", away)).status_code == 204
    assert len((await http.ask("two", "GET", "/v1/queue")).json()) == 1
    backwards = away | {"until": (now - timedelta(days=3)).isoformat()}
    assert (await http.ask(U, "POST", f"/v1/staff/{town.DOCTOR}/leave", backwards)).json()["reason"] == "bad_range"
    shift = {"staff": "dr-two", "since": now.isoformat(), "until": (now + timedelta(hours=8)).isoformat()}
    assert (await http.ask(U, "POST", f"/v1/centres/{town.CENTRE}/shifts", shift)).status_code == 204
    assert (await http.ask(U, "POST", "/v1/centres/centre-nowhere/shifts", shift)).status_code == 404


async def test_a_guardian_sees_from_the_day_they_are_recorded(http: Http) -> None:  # noqa: F811
    who, neighbour = await http.clinic.resident(), await http.clinic.resident(town.PEOPLE[1][3])
    assert (await http.ask(R, "GET", f"/v1/residents/{neighbour}")).status_code == 404
    body = {"guardian": who, "relation": "wife"}
    assert (await http.ask(N, "POST", f"/v1/residents/{neighbour}/guardians", body)).status_code == 204
    assert (await http.ask(R, "GET", f"/v1/residents/{neighbour}")).status_code == 200
    assert (await http.ask(N, "POST", f"/v1/residents/{neighbour}/guardians", body | {"guardian": neighbour})).status_code == 404
    number = await http.clinic.value("select contract from contract where resident = %s", neighbour)
    await http.clinic.run("update contract set during = daterange(current_date - 9, null) where contract = %s", number)
    assert (await http.ask(N, "POST", f"/v1/residents/{neighbour}/contracts/{number}/end", {"why": "moved"})).status_code == 204
    assert (await http.ask(N, "GET", f"/v1/residents/{neighbour}")).status_code == 404, "nobody of ours any more"
