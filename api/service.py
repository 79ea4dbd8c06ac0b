"""The API process."""

from __future__ import annotations

import asyncio

import uvicorn

from api.app import create_app
from vitals.settings import Settings


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`; open streams are ended first, so that stopping is quick."""
    app = create_app(settings)
    configuration = uvicorn.Config(
        app, host=settings.api_host, port=settings.api_port, log_config=None, access_log=False, lifespan="on", server_header=False,
        ssl_certfile=settings.api_certificate, ssl_keyfile=settings.api_key, timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16384,
    )  # fmt: skip
    server = uvicorn.Server(configuration)
    serving = asyncio.ensure_future(server._serve())  # `serve` would take the signals that our process loop handles
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        app.state.hub.end_all()
    server.should_exit = True
    await serving
    stopping.cancel()
