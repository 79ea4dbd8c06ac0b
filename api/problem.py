"""Errors as RFC 9457 problem+json: a stable `reason`, a status that says whose doing it is, never an echo of input."""

from __future__ import annotations

import logging

import psycopg
import psycopg_pool
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vitals.errors import BadInput, Refused, Unavailable

log = logging.getLogger("api.problem")

# Refused reasons that are not conflicts
_STATUS = {"forbidden": 403, "unauthenticated": 401, "bad_code": 403, "stale_version": 412}
_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Changed in the meantime",
    413: "Too large",
    415: "Unsupported media type",
    422: "Not valid",
    429: "Too many requests",
    503: "Try again later",
}


def problem(status: int, reason: str, detail: str = "", headers: dict[str, str] | None = None) -> Response:
    """One problem document."""
    body = {"type": f"urn:yizhan:problem:{reason}", "title": _TITLES.get(status, "Error"), "status": status, "reason": reason}
    if detail:
        body["detail"] = detail
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def status_of(error: Refused) -> int:
    """Refused: 404 for what is not there (or not yours to know of), else a conflict with the state of things."""
    return 404 if error.reason.startswith("unknown_") else _STATUS.get(error.reason, 409)


def install(app: FastAPI) -> None:
    """Make every error of this application a problem document."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return problem(status_of(error), error.reason, error.detail)

    @app.exception_handler(BadInput)
    async def bad_input(_request: Request, error: BadInput) -> Response:
        return problem(422, error.reason, error.detail)

    @app.exception_handler(psycopg.DataError)
    async def not_text(_request: Request, _error: psycopg.DataError) -> Response:
        """What no table could hold: a NUL in a path, a number beyond its column."""
        return problem(422, "not_valid")

    @app.exception_handler(psycopg.IntegrityError)
    async def inconsistent(_request: Request, error: psycopg.IntegrityError) -> Response:
        """It names something that is not there, or contradicts what is."""
        unknown = isinstance(error, psycopg.errors.ForeignKeyViolation)
        return problem(422, "unknown_reference") if unknown else problem(409, "contradiction")

    @app.exception_handler(psycopg.errors.InsufficientPrivilege)
    async def walled(_request: Request, _error: psycopg.errors.InsufficientPrivilege) -> Response:
        """The database's own wall: a route had let through what its account may not do."""
        log.error("the database refused what a route allowed")
        return problem(403, "forbidden")

    @app.exception_handler(RequestValidationError)
    async def not_valid(_request: Request, error: RequestValidationError) -> Response:
        # where and what rule, never the value
        detail = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['type']}" for e in error.errors()[:10])
        return problem(422, "not_valid", detail)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        reason = {404: "unknown_path", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return problem(error.status_code, reason, headers=dict(error.headers or {}))

    async def away(_request: Request, _error: Exception) -> Response:
        return problem(503, "unavailable", headers={"Retry-After": "2"})

    for kind in (Unavailable, psycopg.OperationalError, psycopg_pool.PoolTimeout):
        app.add_exception_handler(kind, away)
