"""Two-way referral: the doctor's side and the hospital's, one board, one step at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, Field

from api import looked
from api.accounts import Account
from api.stations import Id, Strict
from api.who import Database, DoctorOrHospital, ReferralSide, Zone
from care import referrals, staff
from care.referral import COMMUNITY, ENDED, HOSPITAL, TARGETS, Stage
from ingest import intake
from rules import in_force, pack
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection

router = APIRouter(prefix="/v1", tags=["referrals"])


class ReferralRow(BaseModel):
    """One line of the board."""

    referral: int
    care_case: int
    resident: str
    resident_name: str
    state: Stage
    urgency: str
    hospital: str
    suggested_at: datetime
    due_at: datetime | None = Field(description="the clock that runs, and lapses with an alert")
    version: int


class ReferralView(BaseModel):
    referral: dict[str, Any]
    log: list[dict[str, Any]]


class Step(Strict):
    """What a step needs: `why` for accept, reject, report (diagnosis and plan) and cancel; `hospital` for accept; `booked_for` for book;
    `targets` (metric → upper bound) for suggest_down."""

    version: int
    why: Annotated[str, Field(max_length=4000)] = ""
    hospital: Id | None = None
    booked_for: AwareDatetime | None = None
    targets: dict[str, float] | None = Field(None, examples=[{"systolic": 130, "diastolic": 80}])


@router.get("/hospitals")
async def hospitals(_account: ReferralSide, connection: Database) -> list[dict[str, Any]]:
    """Where somebody may be referred to."""
    return await staff.hospitals(connection)


@router.get("/referrals")
async def board(account: ReferralSide, connection: Database) -> list[ReferralRow]:
    """Referrals under way: a team's own, or those sent to this hospital; the most pressing first."""
    return [ReferralRow(**row) for row in await shown(connection, account)]


async def shown(connection: Connection, account: Account) -> list[dict[str, Any]]:
    """What this account's board holds."""
    if account.role == "hospital":
        rows = await referrals.board(connection, teams=[], hospitals=list(account.places))
    else:
        rows = await referrals.board(connection, teams=list(account.teams), hospitals=[])
    looked.at_all(row["resident"] for row in rows)
    return rows


async def seen(connection: Connection, account: Account, number: int) -> dict[str, Any]:
    """The referral, if this account may see it: the team's, or the hospital's it was sent to. Raises Refused `unknown_referral`."""
    row = await referrals.get(connection, number)
    if row is not None and (
        row["team"] in account.teams or (row["hospital_id"] in account.places and row["state"] not in ("suggested", *ENDED))
    ):
        looked.at(row["resident"], f"referral {number}")
        return row
    raise Refused("unknown_referral")


@router.get("/referrals/{number}")
async def one(number: int, account: ReferralSide, connection: Database) -> ReferralView:
    """One referral with its log."""
    return ReferralView(referral=await seen(connection, account, number), log=await referrals.history(connection, number))


@router.post("/referrals/{number}/{action}", status_code=204)
async def step(number: int, action: str, body: Step, account: DoctorOrHospital, connection: Database, zone: Zone) -> None:
    """accept, reject, book, see, report, suggest_down, accept_down, return, cancel: each by the side whose turn it is."""
    await take(connection, account, number, action, body, zone)


async def _within_clamps(connection: Connection, targets: dict[str, float]) -> None:
    """Raises BadInput `unknown_target`, `outside_clamp`: a target makes the rules stricter for one person, never laxer."""
    known = in_force.together([pack.load_named(name) for name in pack.shipped()], await in_force.added(connection))
    for target, value in targets.items():
        of, name = TARGETS.get(target, ("", ""))
        parameter = next((one.document.params.get(name) for one in known if one.document.pack == of), None)
        if parameter is None:
            raise BadInput("unknown_target", target)
        low, high = parameter.clamp
        if not low <= value <= high:
            raise BadInput("outside_clamp", f"{target}: {low:g} to {high:g} {parameter.unit}")


async def take(connection: Connection, account: Account, number: int, action: str, body: Step, zone: str) -> None:
    """One step; accepting a down-referral writes the hospital's targets into this person's parameters, through the stream.

    Raises what `referrals.step` does, and BadInput `unknown_target`.
    """
    row, now = await seen(connection, account, number), datetime.now(UTC)
    if body.targets:
        await _within_clamps(connection, body.targets)
    calendar = await staff.calendar(connection, row["team"], now, zone)
    side = HOSPITAL if account.role == "hospital" else COMMUNITY
    await referrals.step(
        connection, number, body.version, action, side, account.actor, now, calendar,
        why=body.why, hospital=body.hospital, booked_for=body.booked_for, targets=body.targets,
    )  # fmt: skip
    if action == "accept_down":
        for target, value in row["targets"].items():
            pack, name = TARGETS[target]
            change = {"level": "resident", "scope": row["resident"], "pack": pack, "name": name, "value": value}
            await intake.submit(connection, "parameter", change, account.actor, row["resident"])
