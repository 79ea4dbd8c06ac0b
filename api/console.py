"""The console: login, the queue, live, and the case. Chinese first, server-rendered, works without scripts but for liveness."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pyotp
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from markupsafe import Markup

from api import accounts
from api.accounts import Account
from api.guard import COOKIE
from api.oidc import Begun, Issuer
from api.queue import Refer, act, draw, end, listed, refer_case, seen_case, view
from api.render import LANGUAGE, form, needed, page, sorry
from api.who import Anyone, Community, Database, Zone
from care import cases, staff
from vitals.errors import BadInput, Refused
from vitals.floor.database import Connection

router = APIRouter(include_in_schema=False)

BEGUN = "yizhan_login"
HOME = {"hospital": "/console/referrals", "sentinel": "/console/work", "admin": "/console/stations", "security": "/console/accounts",
        "audit": "/console/oversight"}  # fmt: skip
MAY_LOG_IN = (*accounts.TEAM_ROLES, *HOME, "resident")
SHOWN = 100  # lines of the queue on one page


def home(account: Account) -> str:
    """The page somebody's day begins with."""
    if account.role == "resident":  # their own record, and nothing else
        return f"/console/residents/{account.refers_to}"
    return HOME.get(account.role, "/console/queue")


@router.get("/")
async def root(account: Anyone) -> Response:
    return RedirectResponse(home(account), 303)


@router.get("/console/login")
async def login_page(request: Request) -> Response:
    return page(request, "login.html", wrong=False)


@router.post("/console/login")
async def log_in(request: Request, connection: Database) -> Response:
    """Name, password and code for a session's cookie, which scripts cannot read and other sites cannot send. Or a token, without a name."""
    fields = await form(request)
    login, token = fields.get("login", ""), fields.get("password", "")
    if login:
        seal, now = request.app.state.seal, datetime.now(UTC)
        token = await accounts.log_in(connection, seal, login, token, fields.get("code", ""), now) or ""
        await connection.commit()  # wrong tries count
    account = await accounts.by_token(connection, token)
    if account is None or account.role not in MAY_LOG_IN:
        return page(request, "login.html", 403, wrong=True)
    response = RedirectResponse(home(account), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, max_age=12 * 3600)
    return response


@router.get("/console/oidc")
async def to_issuer(request: Request) -> Response:
    """To the identity provider; what must come back is sealed in a cookie of ten minutes."""
    issuer: Issuer | None = request.app.state.issuer
    if issuer is None:
        raise Refused("unknown_path")
    begun = await issuer.begin(_back(request))
    sealed = request.app.state.seal.seal("oidc", "state", json.dumps(begun._asdict())).hex()
    response = RedirectResponse(begun.address, 303)
    response.set_cookie(
        BEGUN, sealed, httponly=True, samesite="lax", secure=request.url.scheme == "https", max_age=600, path="/console/oidc"
    )
    return response


@router.get("/console/oidc/back")
async def from_issuer(request: Request, connection: Database) -> Response:
    """Back from the identity provider: a session for the account that was made for this name."""
    issuer: Issuer | None = request.app.state.issuer
    if issuer is None:
        raise Refused("unknown_path")
    account = None
    try:
        begun = Begun(**json.loads(request.app.state.seal.open("oidc", "state", bytes.fromhex(request.cookies.get(BEGUN, "")))))
        if hmac.compare_digest(begun.state, request.query_params.get("state", "")):
            name = await issuer.finish(request.query_params.get("code", ""), _back(request), begun)
            account = await accounts.known_outside(connection, name)
    except (Refused, BadInput, ValueError, TypeError):
        account = None
    if account is None or account.role not in MAY_LOG_IN:
        return page(request, "login.html", 403, wrong=True)
    token = await accounts.open_session(connection, account.account, datetime.now(UTC))
    response = page(request, "welcome.html", next=home(account))  # a page, not a redirect: the cookie is for our own site only
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https", max_age=12 * 3600)
    response.delete_cookie(BEGUN, path="/console/oidc")
    return response


def _back(request: Request) -> str:
    address: str = request.app.state.address or str(request.base_url)
    return f"{address.rstrip('/')}/console/oidc/back"


@router.post("/console/logout")
async def log_out(request: Request, _account: Anyone, connection: Database) -> Response:
    await accounts.log_out(connection, request.state.token, datetime.now(UTC))
    response = RedirectResponse("/console/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/console/second-factor")
async def second_factor_page(request: Request, account: Anyone) -> Response:
    """A new secret to put into an authenticator; nothing is kept until its code was shown."""
    return _second_factor(request, account, pyotp.random_base32())


def _second_factor(request: Request, account: Account, secret: str, problem: tuple[str, str] | None = None) -> Response:
    address = pyotp.TOTP(secret).provisioning_uri(name=account.actor, issuer_name="yizhan")
    return page(request, "second_factor.html", 409 if problem else 200, secret=secret, address=address, problem=problem)


@router.post("/console/second-factor")
async def set_second_factor(request: Request, account: Anyone, connection: Database) -> Response:
    fields = await form(request)
    secret, now = fields.get("secret", ""), datetime.now(UTC)
    try:
        await accounts.second_factor(connection, request.app.state.seal, account.account, secret, fields.get("code", ""), now)
    except (Refused, ValueError) as error:
        return _second_factor(request, account, pyotp.random_base32(), sorry(error))
    return RedirectResponse(home(account), 303)


@router.post("/console/language")
async def language(request: Request, _account: Anyone) -> Response:
    """The other language, on the page one came from."""
    came_from = urlsplit(request.headers.get("referer", "/")).path or "/"
    response = RedirectResponse(came_from if came_from.startswith("/console/") else "/", 303)
    response.set_cookie(LANGUAGE, "zh" if request.cookies.get(LANGUAGE) == "en" else "en", samesite="strict", max_age=366 * 86400)
    return response


async def _queue(connection: Connection, account: Account) -> dict[str, Any]:
    rows = await listed(connection, account, SHOWN)
    return {"rows": rows, "more": await cases.how_many(connection, account.teams) - SHOWN if len(rows) == SHOWN else 0}


@router.get("/console/queue")
async def queue_page(request: Request, account: Community, connection: Database) -> Response:
    return page(request, "queue.html", **await _queue(connection, account))


@router.get("/console/queue/rows")
async def queue_rows(request: Request, account: Community, connection: Database) -> Response:
    """The table's body alone: what the page fetches when the event stream says that something moved."""
    return page(request, "rows.html", **await _queue(connection, account))


@router.get("/console/cases/{number}")
async def case_page(number: int, request: Request, account: Community, connection: Database, zone: Zone) -> Response:
    return await _case(request, connection, account, number, zone)


async def _case(
    request: Request, connection: Connection, account: Account, number: int, zone: str, problem: tuple[str, str] | None = None,
) -> Response:  # fmt: skip
    found = await view(connection, account, number)
    svg = await draw(connection, found, zone, datetime.now(UTC))
    return page(
        request, "case.html", 409 if problem else 200, found=found, case=found.case, chart=Markup(svg), problem=problem,  # noqa: S704  ours
        colleagues=[one for one in await staff.of_team(connection, found.case["team"]) if one["staff"] != account.refers_to],
        hospitals=await staff.hospitals(connection), decides=account.role in ("doctor", "supervisor"),
    )  # fmt: skip


@router.post("/console/cases/{number}/{action}")
async def act_on_case(number: int, action: str, request: Request, account: Community, connection: Database, zone: Zone) -> Response:
    """A button of the case page: the same functions the HTTP API calls."""
    fields = await form(request)
    await seen_case(connection, account, number)
    try:
        version = int(fields.get("version", "0"))
        async with connection.transaction():
            await _act(connection, account, number, action, version, fields, zone)
    except (Refused, BadInput, ValueError) as error:
        return await _case(request, connection, account, number, zone, sorry(error))
    # an ended or handed-over case leaves the queue a moment later; every other action stays with the case
    return RedirectResponse("/console/queue" if action in ("resolve", "dismiss", "hand_over") else f"/console/cases/{number}", 303)


async def _act(
    connection: Connection, account: Account, number: int, action: str, version: int, fields: dict[str, str], zone: str
) -> None:  # fmt: skip
    if action in ("refer", "resolve", "dismiss") and account.role not in ("doctor", "supervisor"):
        raise Refused("forbidden")
    match action:
        case "acknowledge" | "claim":
            await act(connection, account, number, action, version, zone)
        case "release" | "note":
            (why,) = needed(fields, "why")
            await act(connection, account, number, action, version, zone, why=why)
        case "call":
            await act(connection, account, number, action, version, zone, why=fields.get("why", ""), coded=fields.get("outcome"))
        case "hand_over":
            to, why = needed(fields, "to", "why")
            await act(connection, account, number, action, version, zone, why=why, to=to)
        case "snooze":
            days, why = needed(fields, "days", "why")
            until = datetime.now(UTC) + timedelta(days=int(days))
            await act(connection, account, number, action, version, zone, why=why, until=until)
        case "refer":
            hospital, why = needed(fields, "hospital", "why")
            asked = {"version": version, "why": why[:1000], "hospital": hospital, "urgency": fields.get("urgency", "emergency")}
            await refer_case(connection, account, number, Refer.model_validate(asked), zone)
        case "resolve" | "dismiss":
            (why,) = needed(fields, "why")
            await end(connection, account, number, version, action, why)
        case _:
            raise Refused("unknown_action")
