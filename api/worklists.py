"""Lists of work: visits and calls that are due, checks for the grid's sentinels and what they report, outcomes in codes."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api import looked
from api.accounts import Account
from api.stations import Id, Strict
from api.who import Database, Sentinel, Staff, Zone
from care import contracts, residents, staff, tasks
from care.task import OUTCOMES
from ingest import readings
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection

router = APIRouter(prefix="/v1", tags=["work"])


class TaskRow(BaseModel):
    task: int
    kind: str
    resident: str | None
    resident_name: str | None
    team: str
    role: str
    owner: str | None
    reason: str
    due_at: datetime
    version: int


class TaskView(BaseModel):
    task: dict[str, Any]
    log: list[dict[str, Any]]


class TaskOutcome(StrEnum):
    DONE = "done"
    VISITED = "visited"
    CALLED = "called"
    NOT_REACHED = "not_reached"
    REFUSED = "refused"
    MOVED = "moved"
    DECEASED = "deceased"
    HOSPITAL = "hospital"
    RENEWED = "renewed"
    NOT_NEEDED = "not_needed"


assert {one.value for one in TaskOutcome} == set(OUTCOMES)


class Finish(Strict):
    version: int
    outcome: TaskOutcome
    note: Annotated[str, Field(max_length=2000)] = ""
    measurement: int | None = Field(None, description="what a device measured at the visit, instead of numbers typed in")


class Finished(BaseModel):
    state: str = Field(description="done, or open: somebody tries again")


class Report(Strict):
    """What a sentinel saw."""

    resident: Id
    kind: Literal["pregnancy", "turned_65", "unstable", "moved", "deceased", "other"]
    note: Annotated[str, Field(min_length=1, max_length=1000)]


class Reported(BaseModel):
    task: int


@router.get("/tasks")
async def work(account: Staff, connection: Database, overdue: bool = False) -> list[TaskRow]:
    """What is open for this person: their team's, their hospital's, their grid's; the longest due first."""
    return [TaskRow(**row) for row in await mine(connection, account, overdue=overdue)]


async def mine(connection: Connection, account: Account, *, overdue: bool = False) -> list[dict[str, Any]]:
    """The open tasks of this account's list."""
    before = datetime.now(UTC) if overdue else None
    rows = await tasks.listing(connection, teams=list(account.teams), places=list(account.places), staff=account.refers_to, overdue=before)
    looked.at_all(row["resident"] for row in rows)
    return rows


async def seen(connection: Connection, account: Account, number: int) -> dict[str, Any]:
    """The task, if it is on this account's list. Raises Refused `unknown_task`."""
    row = await tasks.get(connection, number)
    if row is not None and (row["team"] in account.teams or row["place"] in account.places or row["owner"] == account.refers_to):
        looked.at(row["resident"], f"task {number}")
        return row
    raise Refused("unknown_task")


@router.get("/tasks/{number}")
async def one(number: int, account: Staff, connection: Database) -> TaskView:
    """One task with its log."""
    return TaskView(task=await seen(connection, account, number), log=await tasks.history(connection, number))


@router.post("/tasks/{number}/finish")
async def finish(number: int, body: Finish, account: Staff, connection: Database, zone: Zone) -> Finished:
    """What came of it. Whoever was not reached is tried again in two days; after three tries the sentinel looks in."""
    return Finished(state=await finished(connection, account, number, body, zone))


async def finished(connection: Connection, account: Account, number: int, body: Finish, zone: str) -> str:
    """The same for the API and the console. Raises what `tasks.finish` does, and BadInput `not_their_measurement`."""
    row, now = await seen(connection, account, number), datetime.now(UTC)
    if body.measurement is not None:
        found = await readings.by_number(connection, [body.measurement])
        if not found or found[0]["subject"] != row["resident"] or found[0]["setting"] == "manual":
            raise BadInput("not_their_measurement", "a device's measurement of this resident")
    calendar = await staff.calendar(connection, row["team"], now, zone)
    state = await tasks.finish(
        connection, number, body.version, body.outcome.value, body.note, body.measurement, account.actor, now, calendar
    )
    if body.outcome in (TaskOutcome.DECEASED, TaskOutcome.MOVED) and row["resident"] is not None:
        await residents.leave(connection, row["resident"], now.date(), body.outcome.value, account.actor)
    if body.outcome is TaskOutcome.RENEWED and row["kind"] == "renewal":
        await contracts.renew(connection, row["resident"], account.actor)
    return state


@router.post("/reports", status_code=201)
async def report(body: Report, account: Sentinel, connection: Database, zone: Zone) -> Reported:
    """A sentinel raises what they saw in their grid cell into the team's list: due by the next working day."""
    return Reported(task=await reported(connection, account, body, zone))


async def reported(connection: Connection, account: Account, body: Report, zone: str) -> int:
    """The same for the API and the console. Raises Refused `unknown_resident` for somebody who lives elsewhere."""
    person, now = await residents.get(connection, body.resident), datetime.now(UTC)
    if person is None or person["region"] not in account.places:
        raise Refused("unknown_resident")
    route = await residents.route(connection, body.resident, None)
    calendar = await staff.calendar(connection, route.team, now, zone)
    key = f"report:{body.resident}:{body.kind}:{now.date()}"
    number = await tasks.make(
        connection, key, "report", route.team, "family_doctor", calendar.days_after(now, 1), now, calendar,
        resident=body.resident, reason=f"{body.kind}: {body.note}",
    )  # fmt: skip
    if number is None:
        raise Refused("already_reported")
    return number
