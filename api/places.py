"""Who works where and when, who is signed with whom, who answers for whom, what identifies a person: the registers behind the queue."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, Field

from api import looked, wall
from api.accounts import Account
from api.stations import Id, Strict
from api.who import Admin, AdminOrSupervisor, Community, CommunityOrAdmin, Database, Finder, may_see
from care import contracts, residents, staff
from care.identity import normal
from vitals.errors import Refused
from vitals.floor.database import Connection

router = APIRouter(prefix="/v1", tags=["places"])

Name = Annotated[str, Field(min_length=1, max_length=100)]
Why = Annotated[str, Field(min_length=1, max_length=500)]


class Region(Strict):
    parent: Id | None = None
    level: Literal["district", "county", "street", "town", "community", "village", "grid"]
    name: Name


class Centre(Strict):
    name: Name
    region: Id | None = None
    opens: time = time(8)
    closes: time = time(17, 30)


class Hospital(Strict):
    name: Name
    region: Id | None = None


class Team(Strict):
    name: Name
    centre: Id


class Worker(Strict):
    name: Name
    team: Id | None = Field(None, description="none for a supervisor, a sentinel, a hospital's doctor")
    role: Literal["family_doctor", "team_lead", "nurse", "public_health", "centre_duty", "supervisor", "hospital", "sentinel"]
    place: Id = Field(description="the team, centre, hospital or region of the role", examples=["team-qinghe"])


class Away(Strict):
    cover: Id | None = Field(None, description="who answers meanwhile; none: the ladder goes on to the next")
    since: AwareDatetime
    until: AwareDatetime


class Shift(Strict):
    staff: Id
    since: AwareDatetime
    until: AwareDatetime


class Day(Strict):
    works: bool = Field(description="false: a holiday; true: a weekend day that is worked (调休)")
    name: Name


class Contact(Strict):
    kind: Annotated[str, Field(pattern=r"^[a-z]{1,20}$", examples=["wecom"])]
    address: Annotated[
        str, Field(min_length=3, max_length=500, description="as the notification library has it; sealed, never shown again")
    ]


class Contacts(Strict):
    contacts: list[Contact] = Field(max_length=8, description="in the order they are tried")


class Contract(Strict):
    doctor: Id
    package: Annotated[str, Field(min_length=1, max_length=40)] = "basic"
    until: date | None = Field(None, description="default: a year from today")


class Signed(BaseModel):
    contract: int


class Ended(Strict):
    why: Why


class Guardian(Strict):
    guardian: Id
    relation: Annotated[str, Field(min_length=1, max_length=40, examples=["daughter"])]


class Lives(Strict):
    region: Id | None
    tier: Literal["green", "yellow", "red"] | None = None


Kind = Literal["id_card", "social_security", "health_card", "phone", "address"]
Number = Annotated[str, Field(min_length=1, max_length=200)]


class Identities(Strict):
    numbers: dict[Kind, Number] = Field(min_length=1)


class Wanted(Strict):
    kind: Literal["id_card", "social_security", "health_card", "phone"]
    number: Number


class Found(BaseModel):
    residents: list[str] = Field(description="opaque ids; more than one only where a number may be shared, like a phone")


@router.put("/regions/{region}", status_code=204)
async def region(region: Id, body: Region, _account: Admin, connection: Database) -> None:
    """A place of the tree: district → street → community → grid, or county → town → village. One that is there stays as it is."""
    await staff.add_region(connection, region, body.parent, body.level, body.name)


@router.put("/centres/{centre}", status_code=204)
async def centre(centre: Id, body: Centre, _account: Admin, connection: Database) -> None:
    """A community health centre and its working hours."""
    await staff.add_centre(connection, centre, body.name, body.region, body.opens, body.closes)


@router.put("/hospitals/{hospital}", status_code=204)
async def hospital(hospital: Id, body: Hospital, _account: Admin, connection: Database) -> None:
    """Where somebody may be referred to. One that is there stays as it is."""
    await staff.add_hospital(connection, hospital, body.name, body.region)


@router.put("/teams/{team}", status_code=204)
async def team(team: Id, body: Team, _account: Admin, connection: Database) -> None:
    """A family doctor's team. One that is there stays as it is."""
    await staff.add_team(connection, team, body.name, body.centre)


@router.put("/staff/{person}", status_code=204)
async def appoint(person: Id, body: Worker, _account: Admin, connection: Database) -> None:
    """Somebody who works here, in one more role at a place."""
    await staff.add(connection, person, body.name, body.team, body.role, body.place)


@router.post("/staff/{person}/leave", status_code=204)
async def away(person: Id, body: Away, account: Community, connection: Database) -> None:
    """Away, and who covers: what reaches out goes to the cover, who works the queue meanwhile. One's own, or a supervisor for others."""
    if person != account.refers_to and not await _theirs(connection, account, person):
        raise Refused("unknown_staff")
    await staff.leave(connection, person, body.cover, body.since, body.until)


@router.post("/centres/{centre}/shifts", status_code=204)
async def shift(centre: Id, body: Shift, account: AdminOrSupervisor, connection: Database) -> None:
    """On duty for a centre."""
    if account.role != "admin" and not set(await staff.teams_of(connection, centre)) & set(account.teams):
        raise Refused("unknown_centre")
    await staff.shift(connection, body.staff, centre, body.since, body.until)


@router.put("/calendar/{day}", status_code=204)
async def calendar_day(day: date, body: Day, _account: Admin, connection: Database) -> None:
    """A day that is not what its weekday says."""
    await staff.set_day(connection, day, body.works, body.name)


@router.put("/staff/{person}/contacts", status_code=204)
async def contacts(person: Id, body: Contacts, account: CommunityOrAdmin, connection: Database, request: Request) -> None:
    """How somebody is reached, in order; replaces what was there. One's own, or an administrator for others."""
    if account.role != "admin" and person != account.refers_to:
        raise Refused("unknown_staff")
    addresses = [(one.kind, one.address) for one in body.contacts]
    await staff.set_contacts(connection, request.app.state.seal, addresses, staff=person)


async def _theirs(connection: Connection, account: Account, person: str) -> bool:
    if account.role == "supervisor":
        for team in account.teams:
            if person in {one["staff"] for one in await staff.of_team(connection, team)}:
                return True
    return False


@router.post("/residents/{resident}/contracts", status_code=201)
async def sign(resident: str, body: Contract, account: CommunityOrAdmin, connection: Database) -> Signed:
    """Sign with a doctor's team from today; the contract before it ends."""
    await may_see(connection, account, resident)
    today = datetime.now(UTC).date()
    until = body.until or today + contracts.TERM
    made = await contracts.sign(connection, resident, body.doctor, today, package=body.package, until=until, by=account.actor)
    return Signed(contract=made)


@router.post("/residents/{resident}/contracts/{contract}/end", status_code=204)
async def end(resident: str, contract: int, body: Ended, account: CommunityOrAdmin, connection: Database) -> None:
    """End a contract today."""
    await may_see(connection, account, resident)
    if contract not in {row["contract"] for row in await contracts.of_resident(connection, resident)}:
        raise Refused("unknown_contract")
    await contracts.end(connection, contract, datetime.now(UTC).date(), body.why, account.actor)


@router.post("/residents/{resident}/guardians", status_code=204)
async def guardian(resident: str, body: Guardian, account: CommunityOrAdmin, connection: Database) -> None:
    """Somebody who may look and answer for this person, from today."""
    await may_see(connection, account, resident)
    if body.guardian == resident or not await wall.exists(connection, body.guardian):
        raise Refused("unknown_resident")
    await residents.guard(connection, resident, body.guardian, body.relation, datetime.now(UTC).date(), account.actor)


@router.put("/residents/{resident}/place", status_code=204)
async def lives(resident: str, body: Lives, account: CommunityOrAdmin, connection: Database) -> None:
    """The grid cell somebody lives in, and the tier (分级分标) of their care."""
    await may_see(connection, account, resident)
    await residents.place(connection, resident, body.region, body.tier, account.actor)


@router.put("/residents/{resident}/identities", status_code=204)
async def identify(resident: str, body: Identities, account: CommunityOrAdmin, connection: Database, request: Request) -> None:
    """Numbers that identify a person: checked, sealed, and found again only by the same number."""
    await may_see(connection, account, resident)
    numbers = {str(kind): number for kind, number in body.numbers.items()}
    await residents.identify(connection, request.app.state.seal, resident, numbers, datetime.now(UTC).date(), account.actor)


@router.post("/residents/find")
async def find(body: Wanted, account: Finder, connection: Database, request: Request) -> Found:
    """Who has this number: a station that reads a card, or a team about its own people."""
    plain = normal(body.kind, body.number, datetime.now(UTC).date())
    found = await wall.found(connection, body.kind, request.app.state.seal.lookup(body.kind, plain))
    if account.role != "station":
        seen = []
        for resident in found:
            try:
                await may_see(connection, account, resident)
            except Refused:
                continue
            seen.append(resident)
        found = seen
    looked.at_all(found)
    return Found(residents=found)
