"""The team's queue: look, acknowledge, claim, call, hand over, put off, refer, resolve; and hear of it as it happens."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, Field

from api import chart, looked
from api.accounts import Account
from api.events import QUEUE_LIMIT, account_lives, queue_stream
from api.stations import Accepted, Id, Strict
from api.who import Community, Database, Doctor, Zone
from care import cases, ladders, notices, referrals, residents, staff
from care.case import CALLS, CaseState, next_state
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
    snoozed_until: datetime | None
    alerts: list[AlertView] | None


class CaseView(BaseModel):
    """A case with everything behind it: alerts and their log, the measurements with their bytes, who was told, the case's own log."""

    case: dict[str, Any]
    alerts: list[dict[str, Any]]
    measurements: list[dict[str, Any]]
    log: list[dict[str, Any]]
    referrals: list[dict[str, Any]]
    ladder: list[dict[str, Any]] = Field(description="who hears of it when, as long as nobody acts")


class Act(Strict):
    version: int


class ActWithReason(Act):
    why: Why


class Outcome(StrEnum):
    REACHED_WELL = "reached_well"
    REACHED_MEASURES = "reached_measures"
    REACHED_COMES = "reached_comes"
    REACHED_REFUSES = "reached_refuses"
    EMERGENCY = "emergency"
    NO_ANSWER = "no_answer"
    WRONG_NUMBER = "wrong_number"
    MOVED = "moved"
    DECEASED = "deceased"


assert {one.value for one in Outcome} == set(CALLS)


class Call(Act):
    outcome: Outcome
    why: Annotated[str, Field(max_length=1000)] = ""


class HandOver(ActWithReason):
    to: Id


class Snooze(ActWithReason):
    until: AwareDatetime


class Refer(ActWithReason):
    hospital: Id
    urgency: Literal["emergency", "routine"] = "emergency"


class Referred(BaseModel):
    referral: int


@router.get("/queue")
async def queue(account: Community, connection: Database) -> list[CaseRow]:
    """Cases of this account's teams that are not ended, worst first."""
    return [CaseRow(**row) for row in await listed(connection, account)]


async def listed(connection: Connection, account: Account, limit: int = QUEUE_LIMIT) -> list[dict[str, Any]]:
    """The queue of this account's teams, worst first."""
    rows = await cases.queue(connection, account.teams, limit)
    looked.at_all(row["resident"] for row in rows)
    return rows


@router.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def events(account: Community, request: Request) -> StreamingResponse:
    """The queue, live (server-sent events): `snapshot`, then `case` and `ended`."""
    return StreamingResponse(queue_stream(request, account, lambda: account_lives(request, account)), media_type="text/event-stream")


@router.get("/notices")
async def my_notices(account: Community, connection: Database) -> list[dict[str, Any]]:
    """What this person was told, newest first."""
    return await notices.of_staff(connection, str(account.refers_to))


async def seen_case(connection: Connection, account: Account, number: int) -> dict[str, Any]:
    """The case, if this account may see it; raises Refused `unknown_case`."""
    case = await cases.get(connection, number)
    if case is None or case["team"] not in account.teams:
        raise Refused("unknown_case")
    looked.at(case["resident"], f"case {number}")
    return case


async def view(connection: Connection, account: Account, number: int) -> CaseView:
    """Everything behind one case; looking is the receipt of whoever was told."""
    case = await seen_case(connection, account, number)
    found = await alerts.by_number(connection, await cases.alerts_of(connection, number))
    evidence = sorted({entry["measurement"] for alert in found for entry in alert["log"] if entry["measurement"] is not None})
    await notices.read(connection, str(account.refers_to), datetime.now(UTC), case=number)
    return CaseView(
        case=case, alerts=found, measurements=await readings.by_number(connection, evidence),
        log=await cases.history(connection, number), referrals=await referrals.of_case(connection, number),
        ladder=await ladders.of_case(connection, number),
    )  # fmt: skip


@router.get("/cases/{number}")
async def case(number: int, account: Community, connection: Database) -> CaseView:
    """One case: alerts, readings with their bytes, log, referrals, and who hears of it next."""
    return await view(connection, account, number)


@router.get("/cases/{number}/chart.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
async def case_chart(number: int, account: Community, connection: Database, zone: Zone) -> Response:
    """The subject's last thirty days with the thresholds drawn."""
    found = await view(connection, account, number)
    svg = await draw(connection, found, zone, datetime.now(UTC))
    return Response(svg, media_type="image/svg+xml")


async def draw(connection: Connection, found: CaseView, zone: str, now: datetime) -> str:
    """The chart of a case."""
    lines: dict[str, float] = {}
    for alert in found.alerts:
        lines |= alert["explanation"].get("thresholds", {})
    return await draw_subject(connection, found.case["subject"], lines, zone, now)


async def draw_subject(connection: Connection, subject: str, lines: dict[str, float], zone: str, now: datetime) -> str:
    """A subject's last thirty days of blood pressure."""
    rows = await readings.of_subject(connection, subject, now - chart.SPAN, now + chart.MARGIN, 2000)
    return chart.blood_pressure(rows, lines, zone)


async def act(
    connection: Connection, account: Account, number: int, action: str, version: int, zone: str, **more: Any
) -> None:  # fmt: skip
    """One action of a person on a case they may see; see `cases.act`."""
    row, now = await seen_case(connection, account, number), datetime.now(UTC)
    calendar = await staff.calendar(connection, row["team"], now, zone)
    await cases.act(connection, number, version, action, account.actor, now, calendar, **more)
    if more.get("coded") in ("moved", "deceased") and row["resident"] is not None:
        await residents.leave(connection, row["resident"], now.date(), more["coded"], account.actor)


@router.post("/cases/{number}/acknowledge", status_code=204)
async def acknowledge(number: int, body: Act, account: Community, connection: Database, zone: Zone) -> None:
    """Seen: nobody else is told. It does not stop a pending alert's confirmation."""
    await act(connection, account, number, "acknowledge", body.version, zone)


@router.post("/cases/{number}/claim", status_code=204)
async def claim(number: int, body: Act, account: Community, connection: Database, zone: Zone) -> None:
    """Mine: this person works on it."""
    await act(connection, account, number, "claim", body.version, zone)


@router.post("/cases/{number}/release", status_code=204)
async def release(number: int, body: ActWithReason, account: Community, connection: Database, zone: Zone) -> None:
    """Not mine any more: the ladder begins again."""
    await act(connection, account, number, "release", body.version, zone, why=body.why)


@router.post("/cases/{number}/note", status_code=204)
async def note(number: int, body: ActWithReason, account: Community, connection: Database, zone: Zone) -> None:
    """Written down, nothing else moves."""
    await act(connection, account, number, "note", body.version, zone, why=body.why)


@router.post("/cases/{number}/call", status_code=204)
async def call(number: int, body: Call, account: Community, connection: Database, zone: Zone) -> None:
    """The resident was called; what came of it, in a code."""
    await act(connection, account, number, "call", body.version, zone, why=body.why, coded=body.outcome.value)


@router.post("/cases/{number}/hand-over", status_code=204)
async def hand_over(number: int, body: HandOver, account: Community, connection: Database, zone: Zone) -> None:
    """To a colleague, who is told; the case moves to their team's queue."""
    await act(connection, account, number, "hand_over", body.version, zone, why=body.why, to=body.to)


@router.post("/cases/{number}/snooze", status_code=204)
async def snooze(number: int, body: Snooze, account: Community, connection: Database, zone: Zone) -> None:
    """Put off until a time, at most two weeks; then its owner is reminded. P1 is not put off."""
    await act(connection, account, number, "snooze", body.version, zone, why=body.why, until=body.until)


@router.post("/cases/{number}/refer", status_code=201)
async def refer(number: int, body: Refer, account: Doctor, connection: Database, zone: Zone) -> Referred:
    """Refer to the hospital; starts its clock to answer and the two-week follow-up clock."""
    return Referred(referral=await refer_case(connection, account, number, body, zone))


async def refer_case(connection: Connection, account: Account, number: int, body: Refer, zone: str) -> int:
    """The same for the API and the console."""
    row, now = await seen_case(connection, account, number), datetime.now(UTC)
    calendar = await staff.calendar(connection, row["team"], now, zone)
    return await cases.refer(connection, number, body.version, account.actor, body.hospital, body.urgency, body.why, now, calendar)


async def end(connection: Connection, account: Account, number: int, version: int, action: str, why: str) -> Accepted:
    """Ending a case ends its alerts, so it goes through the stream; what is already wrong is refused at once."""
    row = await seen_case(connection, account, number)
    if row["version"] != version:
        raise Refused("stale_version", "somebody else changed this case; look again")
    next_state(action, CaseState(row["state"]))
    body = {"case": number, "version": version, "action": action, "why": why}
    return Accepted(id=await intake.submit(connection, "case_end", body, account.actor, row["subject"]))


@router.post("/cases/{number}/resolve", status_code=202)
async def resolve(number: int, body: ActWithReason, account: Doctor, connection: Database) -> Accepted:
    """Done: the case and its alerts end together; the next danger value starts a new episode."""
    return await end(connection, account, number, body.version, "resolve", body.why)


@router.post("/cases/{number}/dismiss", status_code=202)
async def dismiss(number: int, body: ActWithReason, account: Doctor, connection: Database) -> Accepted:
    """Not a real alert, for this reason."""
    return await end(connection, account, number, body.version, "dismiss", body.why)
