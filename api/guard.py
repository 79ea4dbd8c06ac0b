"""The door in front of every route: who is asking, before a byte of the body is read; then what they sent.

Each account may ask so many times a second, and who has none may try so many times a minute from one address. A token comes as a bearer
header or, from the console, as a cookie that scripts cannot read and other sites cannot send. A body is taken up to a limit, as JSON only,
and refused when it is ambiguous: a key given twice, NaN, a lone surrogate, NUL.
"""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg_pool
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import accounts
from api.oidc import Issuer
from api.problem import problem
from vitals.errors import BadInput, Refused, Unavailable
from vitals.floor import metrics
from vitals.floor.database import Connection

log = logging.getLogger("api.guard")

COOKIE = "yizhan_session"
PUBLIC = frozenset({
    "/v1/health", "/metrics", "/openapi.json", "/console/login", "/console/oidc", "/console/oidc/back", "/v1/enrolments/redeem",
})  # fmt: skip
_PUBLIC_FOLDERS = ("/static/",)
SECURITY_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """ASGI middleware; puts the account into `scope["state"]["account"]`."""

    def __init__(self, app: ASGIApp, body_limit: int, rate: int, tries: int) -> None:
        """rate: requests a second of one account; tries: requests a minute of one address that change something without an account."""
        self._app = app
        self._limit = body_limit
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._rate, self._tries = RateLimitItemPerSecond(rate), RateLimitItemPerMinute(tries)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.requests.labels(scope["method"], str(message["status"])).inc()
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
            await send(message)

        refusal, replay = None, receive
        try:
            refusal = await self._authenticate(scope) or await self._hurried(scope)
            if refusal is None and scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                replay = await self._read_body(scope, receive)
        except BadInput as error:
            status = {"body_too_large": 413, "unsupported_media_type": 415, "foreign_origin": 403}.get(error.reason, 400)
            refusal = problem(status, error.reason)
        except (psycopg.OperationalError, psycopg_pool.PoolTimeout, Unavailable):
            refusal = problem(503, "unavailable", headers={"Retry-After": "2"})
        await (refusal or self._app)(scope, replay, guarded_send)

    async def _authenticate(self, scope: Scope) -> ASGIApp | None:
        path = scope["path"]
        headers = Headers(scope=scope)
        token = self._token(Request(scope), headers)
        state = scope.setdefault("state", {})
        if token is not None:
            async with scope["app"].state.pool.connection() as connection:
                state["account"], state["token"] = await whose(scope["app"], connection, token), token
        if state.get("account") is not None or path in PUBLIC or path.startswith(_PUBLIC_FOLDERS):
            return None
        if path.startswith("/console") or path == "/":
            from starlette.responses import RedirectResponse

            return RedirectResponse("/console/login", 303)
        return problem(401, "unauthenticated", headers={"WWW-Authenticate": "Bearer"})

    async def _hurried(self, scope: Scope) -> ASGIApp | None:
        """A refusal for who asks too often. Each process counts for itself."""
        account = scope["state"].get("account")
        if account is not None:
            limit: RateLimitItem = self._rate
            who = account.account
        elif scope["method"] == "POST":
            limit, who = self._tries, (scope.get("client") or ("nowhere",))[0]
        else:
            return None
        if await self._window.hit(limit, who):
            return None
        return problem(429, "too_many_requests", headers={"Retry-After": "1" if limit is self._rate else "60"})

    @staticmethod
    def _token(request: Request, headers: Headers) -> str | None:
        given = headers.getlist("authorization")
        if len(given) > 1:
            raise BadInput("ambiguous_authorization")
        if given:
            scheme, _, token = given[0].partition(" ")
            return token if scheme.lower() == "bearer" and token else None
        cookie = request.cookies.get(COOKIE)
        if cookie is not None and request.method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                raise BadInput("foreign_origin")
        return cookie

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive:
        headers = Headers(scope=scope)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise BadInput("body_too_large")
            more = message.get("more_body", False)
        if body and not scope["path"].startswith("/console/"):
            if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                raise BadInput("unsupported_media_type")
            strict_json(bytes(body))
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return replay


async def whose(app: Any, connection: Connection, token: str, *, used: bool = True) -> accounts.Account | None:
    """The account of a token or session of ours, or of the issuer's, which has three parts. used: as `accounts.by_token` has it.

    Raises Unavailable when the issuer must be asked and is away.
    """
    issuer: Issuer | None = app.state.issuer
    if issuer is None or token.count(".") != 2:
        return await accounts.by_token(connection, token, used=used)
    try:
        return await accounts.known_outside(connection, await issuer.name(token))
    except Refused:
        return None


def strict_json(body: bytes) -> Any:
    """Parse JSON that means one thing only; raises BadInput `bad_json` or `duplicate_key`."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in found}) != len(found):
            raise BadInput("duplicate_key")
        return dict(found)

    def constant(name: str) -> Any:
        raise ValueError(name)

    try:
        text = body.decode()
        document = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(document, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    except (ValueError, RecursionError):
        raise BadInput("bad_json") from None
    if "\\u0000" in text:
        raise BadInput("bad_json")
    return document
