"""The HTTP application: routes, the guard before them, the hub behind the streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from api import (
    console,
    devices,
    fhir,
    indicators,
    oversight,
    packs,
    pages,
    pairings,
    people,
    places,
    queue,
    referrals,
    stations,
    wall,
    worklists,
)
from api.audit import Book, anchoring
from api.events import Hub
from api.guard import Guard
from api.oidc import Issuer
from api.problem import install, problem
from care.identity import Seal
from vitals.floor import database
from vitals.settings import Settings

PROBLEM: dict[str, Any] = {
    "description": "A problem document: `reason` is a stable code",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "reason"],
                "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
                               "reason": {"type": "string"}, "detail": {"type": "string"}},
            },
            "example": {"type": "urn:yizhan:problem:stale_version", "title": "Changed in the meantime", "status": 412,
                        "reason": "stale_version"},
        }
    },
}  # fmt: skip

ROOMS = (stations, devices, pairings, people, places, packs, queue, fhir, referrals, worklists, indicators, oversight, console, pages)


class Health(BaseModel):
    database: str


def create_app(settings: Settings) -> FastAPI:
    """The application of one process; opens its pool and its hub when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        conninfo = settings.api_database()
        async with database.pool(conninfo, settings.database_pool, wall.behind) as pool, database.pool(conninfo, 1) as audit_pool:
            app.state.pool, app.state.audit_pool = pool, audit_pool
            app.state.zone = settings.zone
            app.state.seal = Seal(settings.sealing())
            secret = settings.oidc_secret.get_secret_value() if settings.oidc_secret is not None else None
            outside = settings.oidc_issuer
            app.state.issuer = Issuer(outside, settings.oidc_client, secret, settings.oidc_claim) if outside is not None else None
            app.state.address = settings.api_address
            app.state.book = Book(settings.sealing())
            app.state.hub = Hub(app, conninfo, pool)
            running = [asyncio.create_task(app.state.hub.run()), asyncio.create_task(anchoring(pool, app.state.book.key))]
            yield
            for task in running:
                task.cancel()
            app.state.hub.end_all()

    app = FastAPI(
        title="yizhan 驿站", version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
        description="The backend behind smart health stations and home wearables. Errors are problem+json with a stable `reason`.",
        responses={"4XX": PROBLEM, 503: PROBLEM}, generate_unique_id_function=_operation_id,
    )  # fmt: skip
    install(app)
    app.add_middleware(Guard, body_limit=settings.api_body_limit, rate=settings.api_rate, tries=settings.api_tries)
    for room in ROOMS:
        app.include_router(room.router)
    app.mount("/static", StaticFiles(directory=Path(str(files("api").joinpath("static")))), "static")

    @app.get("/v1/health", tags=["operations"], response_model=Health)
    async def health(request: Request) -> Health | Response:
        """Whether this process can serve: asks the database."""
        try:
            async with request.app.state.pool.connection(timeout=1) as connection:
                await connection.execute("select 1")
        except (psycopg.Error, OSError, TimeoutError):
            return problem(503, "unavailable", headers={"Retry-After": "2"})
        return Health(database="ok")

    @app.get("/metrics", tags=["operations"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus metrics of this process; no label names a person."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _operation_id(route: APIRoute) -> str:
    return f"{route.tags[0] if route.tags else 'console'}_{route.name}"
