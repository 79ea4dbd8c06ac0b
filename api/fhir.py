"""FHIR R4, read only, and what goes to the hospital with a referral: as a bundle, as a page to print, with a receipt."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from markupsafe import Markup
from pydantic import AwareDatetime, BaseModel, Field

from api import chart, referrals
from api.accounts import TEAM_ROLES, Account
from api.render import page
from api.stations import Strict
from api.who import Database, Hospital, PersonOrCommunity, PersonOrStaff, ReferralSide, Zone, may_see
from care import consents, evidence, fhir
from ingest import readings
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection

router = APIRouter()
FHIR = "application/fhir+json"
FHIR_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {FHIR: {"schema": {"type": "object"}}}}}


class Receipt(BaseModel):
    referral: int
    digest: str
    received_at: datetime
    received_by: str


class Taken(Strict):
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="as the bundle's ETag gives it: proof of what was received")


class Said(Strict):
    purpose: Literal["hospital", "guardian", "notify"]
    given: bool
    channel: Literal["console", "kiosk", "paper", "app"] = "app"


class ConsentView(BaseModel):
    purpose: str
    given: bool
    at: datetime | None = Field(description="null: never asked")
    by: str | None
    channel: str | None


def _answer(resource: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(resource, headers=headers, media_type=FHIR)


@router.get("/fhir/metadata", tags=["fhir"], responses=FHIR_ANSWER, response_class=Response)
async def metadata(_account: PersonOrStaff) -> Response:
    """What can be asked here."""
    read, search = {"code": "read"}, {"code": "search-type"}
    parameters = [{"name": "patient", "type": "reference"}, {"name": "code", "type": "token"}, {"name": "date", "type": "date"}]
    resources = [{"type": "Patient", "interaction": [read]}, {"type": "Observation", "interaction": [search], "searchParam": parameters}]
    return _answer({
        "resourceType": "CapabilityStatement", "status": "active", "date": "2026-11-26", "kind": "instance", "fhirVersion": "4.0.1",
        "format": ["json"], "implementation": {"description": "yizhan"}, "rest": [{"mode": "server", "resource": resources}],
    })  # fmt: skip


@router.get("/fhir/Patient/{resident}", tags=["fhir"], responses=FHIR_ANSWER, response_class=Response)
async def patient(resident: str, account: PersonOrStaff, connection: Database) -> Response:
    """One person."""
    return _answer(fhir.patient(await may_see(connection, account, resident)))


@router.get("/fhir/Observation", tags=["fhir"], responses=FHIR_ANSWER, response_class=Response)
async def observations(
    account: PersonOrStaff, connection: Database, patient: Annotated[str, Query(examples=["r-5f0c2a9b7d3e4f61"])],
    code: Annotated[str | None, Query(description="LOINC, with or without its system", max_length=100)] = None,
    since: Annotated[AwareDatetime | None, Query(description="default: thirty days ago")] = None,
    count: Annotated[int, Query(alias="_count", ge=1, le=1000)] = 200,
) -> Response:  # fmt: skip
    """A person's observations, newest first."""
    who = patient.removeprefix("Patient/")
    await may_see(connection, account, who)
    now = datetime.now(UTC)
    start = since or now - evidence.SPAN
    if not start < now:
        raise BadInput("bad_range")
    rows = await readings.of_subject(connection, who, start, now + chart.MARGIN, 1000)
    found = [one for row in reversed(rows) for one in fhir.observations(row)]
    if code is not None:
        found = [one for one in found if one["code"]["coding"][0]["code"] == code.rpartition("|")[2]]
    return _answer(fhir.bundle("searchset", found[:count], now))


@router.get("/v1/referrals/{number}/evidence", tags=["referrals"], responses=FHIR_ANSWER, response_class=Response)
async def bundle(number: int, account: ReferralSide, connection: Database) -> Response:
    """The evidence pack of an accepted referral: made once, the same for ever. Its digest, the ETag, is what a receipt is given for."""
    referral = await referrals.seen(connection, account, number)
    made = await evidence.pack(connection, referral, datetime.now(UTC), account.actor)
    return _answer(made["bundle"], {"ETag": f'"{made["digest"]}"'})


@router.post("/v1/referrals/{number}/receipt", tags=["referrals"])
async def receipt(number: int, body: Taken, account: Hospital, connection: Database) -> Receipt:
    """The hospital has the pack. However often it says so, there is one receipt."""
    await referrals.seen(connection, account, number)
    return Receipt(**await evidence.receive(connection, number, body.digest, account.actor, datetime.now(UTC)))


@router.get("/console/referrals/{number}/evidence", include_in_schema=False)
async def printable(number: int, request: Request, account: ReferralSide, connection: Database, zone: Zone) -> Response:
    """The same, to read and to print."""
    referral, now = await referrals.seen(connection, account, number), datetime.now(UTC)
    made = await evidence.pack(connection, referral, now, account.actor)
    of = await evidence.gathered(connection, referral, made["made_at"])
    svg = chart.blood_pressure(of["month"], {}, zone)
    return page(request, "evidence.html", referral=referral, made=made, of=of, chart=Markup(svg))  # noqa: S704  our own SVG, escaped


@router.get("/v1/residents/{resident}/consents", tags=["residents"])
async def said(resident: str, account: PersonOrStaff, connection: Database) -> list[ConsentView]:
    """What the person agreed to and took back."""
    await may_see(connection, account, resident)
    return [ConsentView(**row) for row in await consents.of_resident(connection, resident)]


@router.put("/v1/residents/{resident}/consents", tags=["residents"], status_code=204)
async def say(resident: str, body: Said, account: PersonOrCommunity, connection: Database) -> None:
    """Give or take back a consent; it holds from the next question on. By the person, or by the team that wrote down what they said."""
    await recorded(connection, account, resident, body.purpose, body.given, body.channel)


def may_say(account: Account, resident: str) -> bool:
    """Whose word on a consent is taken: the person's, or the team's that wrote down what they said; a guardian looks, and does not sign."""
    return account.role in TEAM_ROLES or (account.role == "resident" and account.refers_to == resident)


async def recorded(connection: Connection, account: Account, resident: str, purpose: str, given: bool, channel: str) -> None:
    """The same for the API and the console. Raises Refused `unknown_resident`, `forbidden`."""
    await may_see(connection, account, resident)
    if not may_say(account, resident):
        raise Refused("forbidden")
    await consents.record(connection, resident, purpose, given, datetime.now(UTC), account.actor, channel)
