"""The console's other pages: referrals, lists of work, one resident, stations and packs, accounts, oversight."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from markupsafe import Markup

from api import accounts, audit, chart, devices, fhir, glass, looked, referrals, worklists
from api.accounts import Account
from api.queue import draw_subject
from api.render import form, needed, page, sorry
from api.who import (
    Auditor,
    Community,
    CommunityOrAdmin,
    Database,
    PersonOrCommunity,
    PersonOrReferralSide,
    ReferralSide,
    Security,
    Sentinel,
    Staff,
    Zone,
    may_see,
)
from care import consents, contracts, files, tasks
from care.consents import PURPOSES
from care.referral import STEPS, TARGETS, Stage, next_stage
from ingest import health, lives, quarantine, readings
from rules import in_force, pack
from rules import shadow as shadows
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection

router = APIRouter(include_in_schema=False)


@router.get("/console/referrals")
async def board(request: Request, account: ReferralSide, connection: Database) -> Response:
    return page(request, "referrals.html", rows=await referrals.shown(connection, account))


@router.get("/console/referrals/{number}")
async def referral(number: int, request: Request, account: ReferralSide, connection: Database) -> Response:
    return await _referral(request, connection, account, number)


async def _referral(
    request: Request, connection: Connection, account: Account, number: int, problem: tuple[str, str] | None = None
) -> Response:  # fmt: skip
    found = await referrals.one(number, account, connection)
    side = "hospital" if account.role == "hospital" else "community"
    possible = [action for action in STEPS if account.role != "nurse" and _may(action, found.referral["state"], side)]
    return page(
        request, "referral.html", 409 if problem else 200, referral=found.referral, log=found.log, possible=possible, targets=list(TARGETS),
        hospitals=await referrals.hospitals(account, connection), problem=problem,
    )  # fmt: skip


def _may(action: str, stage: str, side: str) -> bool:
    try:
        next_stage(action, Stage(stage), side)
    except Refused:
        return False
    return True


@router.post("/console/referrals/{number}/{action}")
async def step(number: int, action: str, request: Request, account: ReferralSide, connection: Database, zone: Zone) -> Response:
    """A button of the referral page."""
    fields = await form(request)
    await referrals.seen(connection, account, number)
    try:
        if account.role == "nurse":
            raise Refused("forbidden")
        booked = fields.get("booked_for")
        body = referrals.Step(
            version=int(fields.get("version", "0")), why=fields.get("why", ""), hospital=fields.get("hospital") or None,
            booked_for=datetime.fromisoformat(booked).replace(tzinfo=ZoneInfo(zone)) if booked else None,
            targets={name: float(fields[name]) for name in TARGETS if fields.get(name)} or None,
        )  # fmt: skip
        async with connection.transaction():
            await referrals.take(connection, account, number, action, body, zone)
    except (Refused, BadInput, ValueError) as error:
        return await _referral(request, connection, account, number, sorry(error))
    return RedirectResponse("/console/referrals" if action in ("reject", "cancel") else f"/console/referrals/{number}", 303)


@router.get("/console/work")
async def work(request: Request, account: Staff, connection: Database) -> Response:
    return await _work(request, connection, account)


async def _work(request: Request, connection: Connection, account: Account, problem: tuple[str, str] | None = None) -> Response:
    neighbours = await files.of_regions(connection, account.places) if account.role == "sentinel" else []
    looked.at_all(one["resident"] for one in neighbours)
    rows = await worklists.mine(connection, account)
    return page(request, "work.html", 409 if problem else 200, rows=rows, neighbours=neighbours, problem=problem)


@router.get("/console/tasks/{number}")
async def task(number: int, request: Request, account: Staff, connection: Database) -> Response:
    return await _task(request, connection, account, number)


async def _task(
    request: Request, connection: Connection, account: Account, number: int, problem: tuple[str, str] | None = None
) -> Response:  # fmt: skip
    found = await worklists.one(number, account, connection)
    recent = []
    if found.task["resident"] is not None and account.role != "sentinel":
        now = datetime.now(UTC)
        recent = await readings.of_subject(connection, found.task["resident"], now - chart.SPAN, now + chart.MARGIN, 500)
    verified = [row for row in reversed(recent) if row["setting"] != "manual"][:10]
    return page(request, "task.html", 409 if problem else 200, task=found.task, log=found.log, measurements=verified, problem=problem)


@router.post("/console/tasks/{number}/finish")
async def finish(number: int, request: Request, account: Staff, connection: Database, zone: Zone) -> Response:
    """The form of a task."""
    fields = await form(request)
    await worklists.seen(connection, account, number)
    try:
        (outcome,) = needed(fields, "outcome")
        measured = fields.get("measurement")
        body = worklists.Finish(
            version=int(fields.get("version", "0")), outcome=worklists.TaskOutcome(outcome), note=fields.get("note", "")[:2000],
            measurement=int(measured) if measured else None,
        )  # fmt: skip
        async with connection.transaction():
            await worklists.finished(connection, account, number, body, zone)
    except (Refused, BadInput, ValueError) as error:
        return await _task(request, connection, account, number, sorry(error))
    return RedirectResponse("/console/work", 303)


@router.post("/console/reports")
async def report(request: Request, account: Sentinel, connection: Database, zone: Zone) -> Response:
    """What a sentinel saw."""
    fields = await form(request)
    try:
        resident, kind, note = needed(fields, "resident", "kind", "note")
        body = worklists.Report.model_validate({"resident": resident, "kind": kind, "note": note[:1000]})
        async with connection.transaction():
            await worklists.reported(connection, account, body, zone)
    except (Refused, BadInput, ValueError) as error:
        return await _work(request, connection, account, sorry(error))
    return RedirectResponse("/console/work", 303)


@router.get("/console/stations")
async def stations(request: Request, _account: CommunityOrAdmin, connection: Database) -> Response:
    """Stations and what stands in them: connected, last heard, what of theirs could not be read."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    for row in await quarantine.by_gateway(connection):
        waiting.setdefault(row["gateway"], []).append(row)
    return page(request, "stations.html", rows=await lives.board(connection), waiting=waiting, wanders=health.wanders)


@router.get("/console/packs")
async def packs(request: Request, _account: CommunityOrAdmin, connection: Database) -> Response:
    """Which packs judge now, and what those in shadow would have raised in thirty days."""
    known = in_force.together([pack.load_named(name) for name in pack.shipped()], await in_force.added(connection))
    shadow = await shadows.told(connection, datetime.now(UTC), 30)
    return page(request, "packs.html", known=known, history=await in_force.listed(connection), shadow=shadow)


@router.get("/console/residents")
async def people(request: Request, account: Community, connection: Database) -> Response:
    """The residents of one's teams, those in trouble first; `q` looks among their names."""
    wanted = request.query_params.get("q", "").strip()[:50]
    rows = await files.listing(connection, account.teams, wanted)
    looked.at_all(row["resident"] for row in rows)
    return page(request, "residents.html", rows=rows, wanted=wanted)


@router.get("/console/residents/{resident}")
async def person(resident: str, request: Request, account: PersonOrReferralSide, connection: Database, zone: Zone) -> Response:
    """一人一档: everything about one person; what they themselves see of it is the same page."""
    found: dict[str, Any] = await may_see(connection, account, resident)
    now = datetime.now(UTC)
    return page(
        request, "resident.html", person=found, may_say=fhir.may_say(account, resident), file=await files.of_resident(connection, resident),
        latest=await readings.latest(connection, resident), consents=await consents.of_resident(connection, resident), purposes=PURPOSES,
        contracts=await contracts.of_resident(connection, resident),
        plan=await tasks.of_resident(connection, resident), accesses=await audit.of_resident(connection, resident, 20),
        chart=Markup(await draw_subject(connection, resident, {}, zone, now)),  # noqa: S704  our own SVG, escaped
    )  # fmt: skip


@router.post("/console/residents/{resident}/consents")
async def consent(resident: str, request: Request, account: PersonOrCommunity, connection: Database) -> Response:
    """Give or take back a consent, with one button."""
    (purpose, given) = needed(await form(request), "purpose", "given")
    if purpose not in PURPOSES or given not in ("yes", "no"):
        raise BadInput("unknown_purpose")
    await fhir.recorded(connection, account, resident, purpose, given == "yes", "console")
    return RedirectResponse(f"/console/residents/{resident}", 303)


@router.get("/console/oversight")
async def oversight(request: Request, _account: Auditor, connection: Database) -> Response:
    """Broken glass that waits for a second pair of eyes."""
    return page(request, "oversight.html", rows=await glass.unreviewed(connection))


@router.post("/console/oversight/{number}")
async def reviewed(number: int, request: Request, account: Auditor, connection: Database) -> Response:
    """Was it justified?"""
    (verdict,) = needed(await form(request), "verdict")
    if verdict not in ("justified", "not_justified"):
        raise BadInput("unknown_verdict")
    await glass.review(connection, number, verdict, account.account, datetime.now(UTC))
    return RedirectResponse("/console/oversight", 303)


@router.get("/console/accounts")
async def accounts_page(request: Request, _account: Security, connection: Database) -> Response:
    """Who may come in."""
    return page(request, "accounts.html", rows=await accounts.listing(connection), roles=accounts.ROLES, made=None)


@router.post("/console/accounts")
async def make_account(request: Request, account: Security, connection: Database) -> Response:
    """A new account with a fresh password, shown once; or one whose name the identity provider gives."""
    fields = await form(request)
    role, login = needed(fields, "role", "login")
    password = None if fields.get("external") else f"{secrets.token_hex(4)}-{secrets.token_hex(4)}"
    problem, status = None, 200
    try:
        body = devices.NewAccount.model_validate({
            "role": role, "refers_to": fields.get("refers_to") or None, "login": login, "password": password, "external": password is None,
        })  # fmt: skip
        async with connection.transaction():
            await devices.create_account(body, account, connection)
    except (Refused, BadInput, ValueError) as error:
        problem, status, password = sorry(error), 409, None
    rows = await accounts.listing(connection)
    return page(request, "accounts.html", status, rows=rows, roles=accounts.ROLES, made=password and (login, password), problem=problem)


@router.post("/console/accounts/{account_id}/revoke")
async def end_account(account_id: str, _account: Security, connection: Database) -> Response:
    """End an account; its open streams end within a minute."""
    await accounts.revoke(connection, account_id)
    return RedirectResponse("/console/accounts", 303)
