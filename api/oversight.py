"""Who looked at whom: for the person, for the auditor; broken glass and its review."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api import audit, glass, looked, wall
from api.stations import Strict
from api.who import Auditor, Database, Doctor, PersonOrAuditor, may_see
from vitals.errors import Refused

router = APIRouter(prefix="/v1", tags=["oversight"])


class BreakGlass(Strict):
    why: Annotated[str, Field(min_length=10, max_length=500, examples=["found unconscious at the station, unknown to us"])]


class Broken(BaseModel):
    until: datetime


class Review(Strict):
    verdict: Literal["justified", "not_justified"]


class Access(BaseModel):
    at: datetime
    account: str
    role: str
    what: str
    about: str
    why: str
    outcome: str


@router.get("/residents/{resident}/accesses")
async def accesses(resident: str, account: PersonOrAuditor, connection: Database) -> list[Access]:
    """Who looked at this person's data, newest first: for the person, their guardian, and the auditor."""
    if account.role != "audit":
        await may_see(connection, account, resident)
    return [Access(**row) for row in await audit.of_resident(connection, resident)]


@router.post("/residents/{resident}/break-glass", status_code=201)
async def break_glass(resident: str, body: BreakGlass, account: Doctor, connection: Database) -> Broken:
    """Look at somebody who is not yours, for an hour, for a reason that an auditor will read."""
    if not await wall.exists(connection, resident):
        raise Refused("unknown_resident")
    until = await glass.break_(connection, account.account, resident, body.why, datetime.now(UTC))
    looked.at(resident, "break-glass", body.why)
    return Broken(until=until)


@router.get("/break-glass")
async def to_review(_account: Auditor, connection: Database) -> list[dict[str, Any]]:
    """Broken glass that nobody has reviewed yet."""
    return await glass.unreviewed(connection)


@router.post("/break-glass/{number}/review", status_code=204)
async def review(number: int, body: Review, account: Auditor, connection: Database) -> None:
    """Was it justified? Within a day, and never by whoever broke it."""
    await glass.review(connection, number, body.verdict, account.account, datetime.now(UTC))
