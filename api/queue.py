"""The doctor's queue: look, acknowledge, claim, refer, resolve; and hear of it as it happens."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from api import chart
from api.accounts import Account
from api.events import QUEUE_LIMIT, account_lives, queue_stream
from api.stations import Accepted, Strict
from api.who import Database, Doctor, DoctorOrAdmin
from care import cases
from care.case import CaseState, next_state
from ingest import intake, readings
from rules import alerts
from vitals.errors import Refused
from vitals.floor.database import Connection

router = APIRouter(prefix="/v1", tags=["queue"])

Why = Annotated[str, Field(min_length=1, max_length=1000)]


class AlertView(BaseModel):
    alert: int
    family: str = Field(examples=["bp_danger"])
    state: str = Field(examples=["pending"])
    severity: str = Field(examples=["P2"])
    why: str
    deadline: datetime | None
    explanation: dict[str, Any]


class CaseRow(BaseModel):
    """One line of the queue."""

    care_case: int
    subject: str
    resident: str | None
    resident_name: str | None
    sex: str | None
    birth_date: date | None
    team: str
    state: CaseState
    severity: str
    version: int = Field(description="send it back with an action; a stale one is refused with 412")
    opened_at: datetime
    updated_at: datetime
    ack_due_at: datetime | None
    claimed_by: str | None
    acknowledged_by: str | None
    alerts: list[AlertView] | None


class CaseView(BaseModel):
    """A case with everything behind it: alerts and their log, the measurements with their bytes, the case's own log."""

    case: dict[str, Any]
    alerts: list[dict[str, Any]]
    measurements: list[dict[str, Any]]
    log: list[dict[str, Any]]
    referrals: list[dict[str, Any]]


class Act(Strict):
    version: int


class ActWithReason(Act):
    why: Why


class Refer(ActWithReason):
    hospital: Annotated[str, Field(min_length=1, max_length=200)]
    urgency: Literal["emergency", "routine"] = "emergency"


class Referred(BaseModel):
    referral: int


@router.get("/queue")
async def queue(account: DoctorOrAdmin, connection: Database) -> list[CaseRow]:
    """Cases of this doctor's team that are not ended, worst first."""
    return [CaseRow(**row) for row in await cases.queue(connection, account.team, QUEUE_LIMIT)]


@router.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def events(account: DoctorOrAdmin, request: Request) -> StreamingResponse:
    """The queue, live (server-sent events): `snapshot`, then `case` and `ended`."""
    return StreamingResponse(queue_stream(request, account, lambda: account_lives(request, account)), media_type="text/event-stream")


async def seen_case(connection: Connection, account: Account, number: int) -> dict[str, Any]:
    """The case, if this account may see it; raises Refused `unknown_case`."""
    case = await cases.get(connection, number)
    if case is None or (account.role == "doctor" and case["team"] != account.team):
        raise Refused("unknown_case")
    return case


async def view(connection: Connection, account: Account, number: int) -> CaseView:
    """Everything behind one case."""
    case = await seen_case(connection, account, number)
    found = await alerts.by_number(connection, await cases.alerts_of(connection, number))
    evidence = sorted({entry["measurement"] for alert in found for entry in alert["log"] if entry["measurement"] is not None})
    return CaseView(
        case=case, alerts=found, measurements=await readings.by_number(connection, evidence),
        log=await cases.history(connection, number), referrals=await cases.referrals_of(connection, number),
    )  # fmt: skip


@router.get("/cases/{number}")
async def case(number: int, account: DoctorOrAdmin, connection: Database) -> CaseView:
    """One case: alerts, readings with their bytes, log, referrals."""
    return await view(connection, account, number)


@router.get("/cases/{number}/chart.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
async def case_chart(number: int, account: DoctorOrAdmin, connection: Database, request: Request) -> Response:
    """The subject's last thirty days with the thresholds drawn."""
    found = await view(connection, account, number)
    svg = await draw(connection, found, request.app.state.zone, datetime.now(UTC))
    return Response(svg, media_type="image/svg+xml")


async def draw(connection: Connection, found: CaseView, zone: str, now: datetime) -> str:
    """The chart of a case."""
    since = now - chart.SPAN
    rows = await readings.of_subject(connection, found.case["subject"], since, now + chart.MARGIN, 2000)
    lines: dict[str, float] = {}
    for alert in found.alerts:
        lines |= alert["explanation"].get("thresholds", {})
    return chart.blood_pressure(rows, lines, zone)


@router.post("/cases/{number}/acknowledge", status_code=204)
async def acknowledge(number: int, body: Act, account: Doctor, connection: Database) -> None:
    """Seen: stops the acknowledgement clock. It does not stop a pending alert's confirmation."""
    await seen_case(connection, account, number)
    await cases.act(connection, number, body.version, "acknowledge", str(account.refers_to), datetime.now(UTC))


@router.post("/cases/{number}/claim", status_code=204)
async def claim(number: int, body: Act, account: Doctor, connection: Database) -> None:
    """Mine: this doctor works on it."""
    await seen_case(connection, account, number)
    await cases.act(connection, number, body.version, "claim", str(account.refers_to), datetime.now(UTC))


@router.post("/cases/{number}/refer", status_code=201)
async def refer(number: int, body: Refer, account: Doctor, connection: Database) -> Referred:
    """Refer to the hospital; starts the two-week follow-up clock."""
    await seen_case(connection, account, number)
    made = await cases.refer(
        connection, number, body.version, str(account.refers_to), body.hospital, body.urgency, body.why, datetime.now(UTC)
    )
    return Referred(referral=made)


async def end(connection: Connection, account: Account, number: int, version: int, action: str, why: str) -> Accepted:
    """Ending a case ends its alerts, so it goes through the stream; what is already wrong is refused at once."""
    row = await seen_case(connection, account, number)
    if row["version"] != version:
        raise Refused("stale_version", "somebody else changed this case; look again")
    next_state(action, CaseState(row["state"]))
    body = {"case": number, "version": version, "action": action, "why": why}
    return Accepted(id=await intake.submit(connection, "case_end", body, str(account.refers_to), row["subject"]))


@router.post("/cases/{number}/resolve", status_code=202)
async def resolve(number: int, body: ActWithReason, account: Doctor, connection: Database) -> Accepted:
    """Done: the case and its alerts end together; the next danger value starts a new episode."""
    return await end(connection, account, number, body.version, "resolve", body.why)


@router.post("/cases/{number}/dismiss", status_code=202)
async def dismiss(number: int, body: ActWithReason, account: Doctor, connection: Database) -> Accepted:
    """Not a real alert, for this reason."""
    return await end(connection, account, number, body.version, "dismiss", body.why)
