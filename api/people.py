"""Residents, what is known of them, their series, and the unclaimed pool."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, Field

from api import looked
from api.stations import Accepted, Id, Strict
from api.who import Admin, CommunityOrAdmin, Database, PersonOrStaff, may_see
from care import contracts, residents
from ingest import intake, readings
from vitals.errors import BadInput, Refused
from vitals.metric import METRICS

router = APIRouter(prefix="/v1", tags=["residents"])

LONGEST = timedelta(days=366 * 2)


class NewResident(Strict):
    name: Annotated[str, Field(min_length=1, max_length=50)]
    sex: Literal["male", "female"] | None = None
    birth_date: date | None = None
    site: Id | None = None
    doctor: Id | None = Field(None, description="sign a contract with this doctor's team from today")


class Facts(Strict):
    """What is known; null withdraws a fact. What is not recorded is unknown, which is not "no"."""

    pregnant: bool | None = None
    lactating: bool | None = None
    hypertension: bool | None = None
    diabetes: bool | None = None
    chronic_lung_disease: bool | None = None
    heart_failure: bool | None = None
    pressure_every_days: int | None = Field(None, ge=1, le=366, description="the plan: blood pressure at least every so many days")
    glucose_every_days: int | None = Field(None, ge=1, le=366)
    weight_every_days: int | None = Field(None, ge=1, le=366)


class ResidentView(BaseModel):
    resident: str
    name: str
    sex: str | None
    birth_date: date | None
    team: str | None
    doctor: str | None


class NewResidentView(BaseModel):
    resident: str
    id: str = Field(description="intake id of the facts that follow from the record")


class Point(BaseModel):
    measurement: int
    measured_at: datetime
    time_quality: str
    setting: str
    device: str
    value: float
    weak: list[str]
    flags: list[str]


class Series(BaseModel):
    metric: str
    unit: str
    points: list[Point]


class ClaimFor(Strict):
    resident: Id


class Reattribution(Strict):
    resident: Id | None = Field(None, description="whose it is; null gives it back to its device, into the unclaimed pool")
    why: Annotated[str, Field(min_length=1, max_length=500, examples=["the spouse used the cuff"])]


@router.post("/residents", status_code=201)
async def add(body: NewResident, account: Admin, connection: Database) -> NewResidentView:
    """A new resident, signed with a doctor if one is named."""
    resident = await residents.add(connection, body.name, body.sex, body.birth_date, body.site)
    if body.doctor is not None:
        await contracts.sign(connection, resident, body.doctor, datetime.now(UTC).date(), by=account.actor)
    known = {"sex": body.sex, "birth_date": body.birth_date.isoformat() if body.birth_date else None}
    facts = {fact: value for fact, value in known.items() if value is not None}
    number = await intake.submit(connection, "facts", {"facts": facts}, account.account, resident)
    return NewResidentView(resident=resident, id=str(number))


@router.get("/residents")
async def listing(account: CommunityOrAdmin, connection: Database) -> list[ResidentView]:
    """The residents signed with this doctor's team; all of them for an administrator."""
    rows = await residents.listing(connection, account.teams if account.role != "admin" else None, 1000)
    looked.at_all(row["resident"] for row in rows)
    return [ResidentView(**row) for row in rows]


@router.get("/residents/{resident}")
async def one(resident: str, account: PersonOrStaff, connection: Database) -> ResidentView:
    """One resident."""
    found: dict[str, Any] = await may_see(connection, account, resident)
    return ResidentView(**{name: found[name] for name in ResidentView.model_fields})


@router.put("/residents/{resident}/facts", status_code=202)
async def tell(resident: str, body: Facts, account: CommunityOrAdmin, connection: Database) -> Accepted:
    """Record facts the rules ask for; only the fields given are changed."""
    await may_see(connection, account, resident)
    given = {fact: getattr(body, fact) for fact in body.model_fields_set}
    return Accepted(id=await intake.submit(connection, "facts", {"facts": given}, account.account, resident))


@router.get("/residents/{resident}/series")
async def series(
    resident: str, account: PersonOrStaff, connection: Database, metric: Annotated[str, Query(examples=["systolic"])],
    since: AwareDatetime | None = None, until: AwareDatetime | None = None, limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
) -> Series:  # fmt: skip
    """One metric over time, oldest first; the last thirty days unless said otherwise."""
    await may_see(connection, account, resident)
    if metric not in METRICS:
        raise BadInput("unknown_metric")
    end = until or datetime.now(UTC) + timedelta(minutes=5)
    start = since or end - timedelta(days=30)
    if not start < end or end - start > LONGEST:
        raise BadInput("bad_range")
    rows = await readings.of_subject(connection, resident, start, end, limit)
    points = [
        Point(value=row["values"][metric], **{n: row[n] for n in Point.model_fields if n != "value"})
        for row in rows
        if metric in row["values"]
    ]
    return Series(metric=metric, unit=METRICS[metric].unit, points=points)


@router.post("/measurements/{measurement}/attribution", status_code=202)
async def reattribute(measurement: int, body: Reattribution, account: CommunityOrAdmin, connection: Database) -> Accepted:
    """Say that a measurement is somebody else's: what was concluded from it is retracted, whoever it belongs to now is looked at."""
    rows = await readings.by_number(connection, [measurement])
    if not rows:
        raise Refused("unknown_measurement")
    former = rows[0]["resident"]
    for resident in {former, body.resident} - {None}:
        await may_see(connection, account, str(resident))
    if former is None and account.role != "admin" and rows[0]["site"] not in await residents.duty_sites(connection, account.teams):
        raise Refused("unknown_measurement")
    row = {"measurement": measurement, "resident": body.resident, "why": body.why}
    return Accepted(id=await intake.submit(connection, "reattribute", row, account.account, rows[0]["subject"]))


@router.get("/unclaimed")
async def unclaimed(account: CommunityOrAdmin, connection: Database) -> list[dict[str, Any]]:
    """Measurements that belong to nobody yet; a doctor sees those of the stations the team is on duty for."""
    rows = await readings.unclaimed(connection, 500)
    if account.role == "admin":
        return rows
    mine = await residents.duty_sites(connection, account.teams)
    return [row for row in rows if row["site"] in mine]


@router.post("/unclaimed/{measurement}/claim", status_code=202)
async def claim(measurement: int, body: ClaimFor, account: CommunityOrAdmin, connection: Database) -> Accepted:
    """Say whose measurement it is; the rules see it as theirs from then on."""
    await may_see(connection, account, body.resident)
    if measurement not in {row["measurement"] for row in await unclaimed(account, connection)}:
        raise Refused("unknown_measurement")
    row = {"measurement": measurement, "resident": body.resident}
    return Accepted(id=await intake.submit(connection, "claim", row, account.account, body.resident))
