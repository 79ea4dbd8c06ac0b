"""What a kiosk does: check in, enter a measurement, answer symptom questions, listen for advice, check out.

Nothing here decides: it is committed to the stream and answered 202; the worker applies it.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api import wall
from api.accounts import Account
from api.events import advice_stream
from api.who import Anyone, Database, Station
from ingest import attribution, devices, intake
from vitals import wire
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection
from vitals.measurement import Kind
from vitals.metric import CODED, METRICS

router = APIRouter(prefix="/v1", tags=["stations"])

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=8, max_length=64)]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class Strict(BaseModel):
    """A body without room for what nobody reads."""

    model_config = ConfigDict(extra="forbid", strict=False)


class Accepted(BaseModel):
    """Committed to the stream; `GET /v1/intake/{id}` tells what became of it."""

    id: UUID = Field(examples=["0d3e6f3c-3f3b-4c52-9d0e-2f1f4a6f8f10"])


class CheckIn(Strict):
    resident: Id = Field(examples=["r-5f0c2a9b7d3e4f61"])


class CheckedIn(Accepted):
    checkin: str = Field(examples=["c-81f0a2b3c4d5e6f7"])


class Entry(Strict):
    """A measurement entered by hand or sent by a third party's kiosk."""

    device: Id = Field(examples=["manual-1"])
    kind: Kind
    setting: Literal["manual", "kiosk", "clinic"] = Field(description="manual: a person typed it; it never refers anyone by itself")
    values: dict[str, float | str] = Field(min_length=1, max_length=16, examples=[{"systolic": 186, "diastolic": 112, "pulse": 88}])
    measured_at: AwareDatetime | None = None
    flags: list[Annotated[str, Field(max_length=64)]] = Field(default=[], max_length=16)


class Symptoms(Strict):
    answers: dict[Annotated[str, Field(max_length=64)], Literal["yes", "no", "not_asked"]] = Field(
        min_length=1, max_length=32, examples=[{"chest_tightness": "yes", "blurred_vision": "no"}]
    )


class IntakeStatus(BaseModel):
    id: UUID
    kind: str
    created_at: datetime
    applied_at: datetime | None
    result: str | None = Field(examples=["applied", "refused:already_bound"])


@router.post("/checkins", status_code=202)
async def check_in(body: CheckIn, account: Station, connection: Database, key: IdempotencyKey = None) -> CheckedIn:
    """Check a resident in at this station; ends whoever was checked in before."""
    if not await wall.exists(connection, body.resident):
        raise Refused("unknown_resident")
    # a repeat with the same key must be the same check-in
    checkin = f"c-{secrets.token_hex(8)}" if key is None else f"c-{_named(account.account, key)}"
    row = {"checkin": checkin, "station": account.refers_to, "resident": body.resident}
    number = await intake.submit(connection, "checkin", row, account.account, body.resident, key)
    return CheckedIn(id=number, checkin=checkin)


def _named(account: str, key: str) -> str:
    import hashlib

    return hashlib.sha256(f"{account}\0{key}".encode()).hexdigest()[:16]


@router.delete("/checkins/{checkin}", status_code=202)
async def check_out(checkin: str, account: Station, connection: Database) -> Accepted:
    """Check out: from now on nothing measured here is this person's."""
    visit = await _visit(connection, checkin, account)
    number = await intake.submit(connection, "checkout", {"checkin": checkin}, account.account, visit["resident"])
    return Accepted(id=number)


@router.post("/checkins/{checkin}/measurements", status_code=202)
async def enter(checkin: str, body: Entry, account: Station, connection: Database, key: IdempotencyKey = None) -> Accepted:
    """Enter a measurement at this check-in, typed in or from a third party's device, under its own setting."""
    visit = await _visit(connection, checkin, account)
    known = await devices.by_name(connection, [body.device])
    if body.device not in known or known[body.device].station != account.refers_to:
        raise Refused("unknown_device")
    _judge(body.values)
    now = datetime.now(UTC)
    measured, quality = body.measured_at or now, "synced"
    if not wire.EARLIEST <= measured <= now + wire.SKEW:
        measured, quality = now, "untrusted"  # a wrong clock is no reason to refuse
    row = {
        "device": body.device, "kind": body.kind, "setting": body.setting, "values": body.values, "flags": body.flags, "checkin": checkin,
        "record": _named(account.account, key) if key else secrets.token_hex(8), "series": "https", "time_quality": quality,
        "measured_at": wire.text_of(measured), "identity": "gateway",
    }  # fmt: skip
    if key is not None:  # the same entry again must be the same body, whenever it comes
        row["measured_at"] = (
            wire.text_of(body.measured_at) if body.measured_at else (await _first_time(connection, account, key) or row["measured_at"])
        )
    return Accepted(id=await intake.submit(connection, "measurement", row, account.account, visit["resident"], key))


async def _first_time(connection: Connection, account: Account, key: str) -> str | None:
    cursor = await connection.execute(
        "select body->>'measured_at' as at from intake where account = %s and idempotency_key = %s", (account.account, key)
    )
    row = await cursor.fetchone()
    return row["at"] if row is not None else None


def _judge(values: dict[str, float | str]) -> None:
    for code, value in values.items():
        if isinstance(value, str):
            if code not in CODED or value not in CODED[code]:
                raise BadInput("unknown_answer" if code in CODED else "unknown_metric")
        elif code not in METRICS:
            raise BadInput("unknown_metric")
        elif not METRICS[code].encodable[0] <= value <= METRICS[code].encodable[1]:
            raise BadInput("impossible_value", code)


@router.post("/checkins/{checkin}/symptoms", status_code=202)
async def answer(checkin: str, body: Symptoms, account: Station, connection: Database, key: IdempotencyKey = None) -> Accepted:
    """Answers to the symptom question: yes, no, or not asked; they enter the stream as such."""
    visit = await _visit(connection, checkin, account)
    row = {"checkin": checkin, "answers": body.answers}
    return Accepted(id=await intake.submit(connection, "symptoms", row, account.account, visit["resident"], key))


@router.get("/checkins/{checkin}/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def listen(checkin: str, account: Station, connection: Database, request: Request) -> StreamingResponse:
    """What was received and what to do next, as it happens (server-sent events, one `advice` each)."""
    await _visit(connection, checkin, account)
    return StreamingResponse(advice_stream(request, account, checkin), media_type="text/event-stream")


@router.get("/intake/{number}")
async def what_became_of(number: UUID, account: Anyone, connection: Database) -> IntakeStatus:
    """What became of something this account submitted."""
    row = await intake.status(connection, number, account.account)
    if row is None:
        raise Refused("unknown_intake")
    return IntakeStatus(**row)


async def _visit(connection: Connection, checkin: str, account: Account) -> dict[str, str]:
    visit = await attribution.open_checkin(connection, checkin, datetime.now(UTC))
    if visit["station"] != account.refers_to:
        raise Refused("unknown_checkin")
    return visit
