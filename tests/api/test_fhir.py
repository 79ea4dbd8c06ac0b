"""What goes to the hospital: a bundle that FHIR's own model accepts, made once, taken with one receipt; and consent that acts at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.patient import Patient

from api.accounts import Account
from api.who import may_see
from care import consents, notices, residents, staff
from care.identity import Seal
from tests.api.test_http import A, D, H, Http, R, http  # noqa: F401  a fixture
from tests.ingest.helpers import FIELD_KEY, measurement, message
from vitals.errors import Refused
from vitals.floor import database
from yizhan import town

pytestmark = pytest.mark.services


async def referred(http: Http) -> int:  # noqa: F811
    """A danger, confirmed, and the referral that a doctor accepted."""
    await http.clinic.send(message(measurement(186, 112, ago=timedelta(minutes=2))), message(measurement(188, 113)))
    (suggested,) = (await http.ask(D, "GET", "/v1/referrals")).json()
    accept = {"version": suggested["version"], "hospital": town.HOSPITAL, "why": "复测确认"}
    assert (await http.ask(D, "POST", f"/v1/referrals/{suggested['referral']}/accept", accept)).status_code == 204
    number: int = suggested["referral"]
    return number


async def test_the_pack_is_fhir_the_same_for_ever_and_taken_once(http: Http) -> None:  # noqa: F811
    await http.clinic.send(message(measurement(186, 112, ago=timedelta(minutes=2))), message(measurement(188, 113)))
    calibration = f"/v1/devices/{town.PEOPLE[0][3]}/calibration"
    assert (await http.ask(A, "PUT", calibration, {"on": "2999-01-01"})).status_code == 422
    assert (await http.ask(A, "PUT", calibration, {"on": "2026-03-02"})).status_code == 204
    (suggested,) = (await http.ask(D, "GET", "/v1/referrals")).json()
    path = f"/v1/referrals/{suggested['referral']}"
    assert (await http.ask(D, "GET", f"{path}/evidence")).json()["reason"] == "not_sent"
    accept = {"version": suggested["version"], "hospital": town.HOSPITAL, "why": "复测确认"}
    await http.ask(D, "POST", f"{path}/accept", accept)
    answer = await http.ask(H, "GET", f"{path}/evidence")
    assert answer.headers["content-type"] == "application/fhir+json"
    found: Any = Bundle.model_validate_json(answer.text)
    kinds = [entry.resource.get_resource_type() for entry in found.entry]
    assert {"Patient", "ServiceRequest", "Consent", "Condition", "Device", "Observation"} <= set(kinds)
    pressures = [entry.resource for entry in found.entry if entry.resource.get_resource_type() == "Observation"
                 and entry.resource.code.coding[0].code == "85354-9"]  # fmt: skip
    assert sorted(float(one.component[0].valueQuantity.value) for one in pressures) == [186, 188]
    assert {extension.valueString for extension in pressures[0].extension if extension.url.endswith("raw")} == {"1e00"}
    await http.clinic.send(message(measurement(121, 71)))
    again = await http.ask(D, "GET", f"{path}/evidence")
    assert again.json() == answer.json(), "what was handed over does not change"
    digest = answer.headers["etag"].strip('"')
    assert (await http.ask(H, "POST", f"{path}/receipt", {"digest": "0" * 64})).status_code == 404
    first, second = [(await http.ask(H, "POST", f"{path}/receipt", {"digest": digest})).json() for _ in range(2)]
    assert first == second
    assert first["received_by"] == "hosp-wu"
    page = await http.ask(D, "GET", f"/console/referrals/{suggested['referral']}/evidence")
    assert all(words in page.text for words in ("186", "188", "1e00", "hosp-wu", "2026-03-02"))


async def test_a_person_and_their_readings_as_fhir(http: Http) -> None:  # noqa: F811
    who = await http.clinic.resident()
    await http.clinic.send(message(measurement(133, 84), measurement(131, 83)))
    person: Any = Patient.model_validate_json((await http.ask(R, "GET", f"/fhir/Patient/{who}")).text)
    assert (person.gender, str(person.birthDate)) == ("female", "1957-03-14")
    found: Any = Bundle.model_validate_json((await http.ask(R, "GET", f"/fhir/Observation?patient=Patient/{who}&code=85354-9")).text)
    assert found.total == 2
    pulse = json.loads((await http.ask(D, "GET", f"/fhir/Observation?patient={who}&code=http://loinc.org|8867-4")).text)
    assert {entry["resource"]["valueQuantity"]["value"] for entry in pulse["entry"]} == {70}
    CapabilityStatement.model_validate_json((await http.ask(R, "GET", "/fhir/metadata")).text)
    assert (await http.ask(R, "GET", "/fhir/Patient/r-nobody")).status_code == 404


async def test_a_consent_taken_back_acts_with_the_next_question(http: Http) -> None:  # noqa: F811
    number, who = await referred(http), await http.clinic.resident()
    assert (await http.ask(H, "GET", f"/v1/residents/{who}/series?metric=systolic")).status_code == 200
    assert [one["at"] for one in (await http.ask(R, "GET", f"/v1/residents/{who}/consents")).json()] == [None] * 3
    take_back = {"purpose": "hospital", "given": False}
    assert (await http.ask(R, "PUT", f"/v1/residents/{who}/consents", take_back)).status_code == 204
    assert (await http.ask(H, "GET", f"/v1/residents/{who}/series?metric=systolic")).status_code == 404
    assert (await http.ask(H, "GET", f"/fhir/Patient/{who}")).status_code == 404
    assert (await http.ask(H, "GET", f"/v1/referrals/{number}/evidence")).status_code in (404, 409)
    assert (await http.ask(D, "GET", f"/v1/residents/{who}")).status_code == 200, "who looks after her still does"
    given = {"purpose": "hospital", "given": True, "channel": "paper"}
    assert (await http.ask(D, "PUT", f"/v1/residents/{who}/consents", given)).status_code == 204
    assert (await http.ask(H, "GET", f"/v1/residents/{who}/series?metric=systolic")).status_code == 200
    rows = await http.clinic.rows("select given, by, channel from consent order by consent")
    assert [(row["given"], row["channel"]) for row in rows] == [(False, "app"), (True, "paper")], "nothing said is lost"
    assert (await http.ask(A, "PUT", f"/v1/residents/{who}/consents", given)).status_code == 403


async def test_who_does_not_want_to_be_told_is_not_and_guardians_go_blind(http: Http) -> None:  # noqa: F811
    who, guardian = await http.clinic.resident(), await http.clinic.resident(town.PEOPLE[1][3])
    now = datetime.now(UTC)
    async with await database.connect(http.clinic.conninfo) as connection:
        await residents.guard(connection, who, guardian, "son", now.date(), "test")
        daughter = Account("x", "resident", guardian)
        assert (await may_see(connection, daughter, who))["resident"] == who
        await consents.record(connection, who, "guardian", False, now, who, "app")
        with pytest.raises(Refused):
            await may_see(connection, daughter, who)
        cursor = await connection.execute(
            "insert into care_case (subject, resident, team, routed_by, state, severity, opened_at, updated_at)"
            " values (%s, %s, %s, 'contract', 'open', 'P1', now(), now()) returning care_case",
            (who, who, town.TEAM),
        )
        case = (await cursor.fetchone() or {})["care_case"]
        cursor = await connection.execute(
            "insert into rung (care_case, page, level, role, severity, due_at, state) values (%s, 1, 0, 'doctor', 'P1', now(), 'told')"
            " returning *",
            (case,),
        )
        rung = (await cursor.fetchone() or {}) | {"resident": who}
        (told,) = await notices.put(connection, rung, [], now)
        await staff.set_contacts(connection, Seal(FIELD_KEY), [("sms", "sms://nobody")], resident=who)
        await consents.record(connection, who, "notify", False, now, who, "app")
        assert await notices.claim(connection, Seal(FIELD_KEY), told, now + timedelta(seconds=1)) is None
        row = await (await connection.execute("select state from notice where notice = %s", (told,))).fetchone()
        assert row == {"state": "stopped"}
