"""Indicators: figures of a quarter by grid, team, centre, district; each opens to who counts and on which readings."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import looked
from api.accounts import Account
from api.render import page
from api.who import Community, CommunityOrAdmin, Database
from care import indicators, staff
from care.indicator import NAMES, quarter_of
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection

router = APIRouter()
LEVELS = ("team", "centre", "grid", "district")
Level = Literal["team", "centre", "grid", "district"]


class FigureView(BaseModel):
    indicator: int
    quarter: date
    code: str = Field(examples=["htn_controlled"])
    level: str
    place: str
    revision: int = Field(description="1: as first published; more: late data changed it")
    numerator: int
    denominator: int
    median: float | None
    published_at: datetime


class MemberView(BaseModel):
    member: str = Field(description="the resident, case, referral or measurement that counts as one")
    resident: str | None
    resident_name: str | None
    counted: bool
    why: str
    measurements: list[int]
    value: float | None


class Proof(BaseModel):
    figure: FigureView
    members: list[MemberView]


@router.get("/v1/indicators", tags=["indicators"])
async def listing(
    _account: CommunityOrAdmin, connection: Database, quarter: Annotated[date, Query(description="any day of it")], level: Level = "team"
) -> list[FigureView]:  # fmt: skip
    """The published figures of a quarter, their newest revision."""
    return [FigureView(**row) for row in await indicators.listing(connection, quarter_of(quarter), level, None)]


@router.get("/v1/indicators/{number}", tags=["indicators"])
async def proof(number: int, account: Community, connection: Database) -> Proof:
    """What a figure rests on: for whoever looks after the whole team or centre it is about."""
    row, members = await _opened(connection, account, number)
    return Proof(figure=FigureView(**row), members=[MemberView(**one) for one in members])


async def _opened(connection: Connection, account: Account, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Raises Refused `unknown_indicator`."""
    row = await indicators.get(connection, number)
    if row is None or not await _theirs(connection, account, row["level"], row["place"]):
        raise Refused("unknown_indicator")
    members = await indicators.members(connection, number)
    looked.at_all(one["resident"] for one in members)
    return row, members


async def _theirs(connection: Connection, account: Account, level: str, place: str) -> bool:
    teams = [place] if level == "team" else await staff.teams_of(connection, place) if level == "centre" else []
    return bool(teams) and set(teams) <= set(account.teams)


@router.get("/console/indicators", include_in_schema=False)
async def board(request: Request, account: CommunityOrAdmin, connection: Database) -> Response:
    """One level of one quarter: a line for each indicator, a column for each place."""
    known = await indicators.quarters(connection)
    asked, level = request.query_params.get("quarter"), request.query_params.get("level", "team")
    if level not in LEVELS:
        raise BadInput("unknown_level")
    try:
        first = quarter_of(date.fromisoformat(asked)) if asked else known[0] if known else None
    except ValueError:
        raise BadInput("bad_quarter") from None
    rows = await indicators.listing(connection, first, level, None) if first is not None else []
    names = await staff.names_of(connection, level)
    places = sorted({row["place"] for row in rows}, key=lambda place: names.get(place, place))
    cells = {(row["code"], row["place"]): row for row in rows}
    opens = {place for place in places if await _theirs(connection, account, level, place)}
    return page(
        request, "indicators.html", quarters=known, first=first, level=level, levels=LEVELS, names=names, places=places, cells=cells,
        codes=NAMES, opens=opens,
    )  # fmt: skip


@router.get("/console/indicators/{number}", include_in_schema=False)
async def members_page(number: int, request: Request, account: Community, connection: Database) -> Response:
    """Numerator and denominator, one by one."""
    row, members = await _opened(connection, account, number)
    names = await staff.names_of(connection, row["level"])
    return page(request, "indicator.html", figure=row, members=members, code=NAMES[row["code"]], names=names)
