"""A TCP proxy that misbehaves on command: cuts, silence (half-open), delay, a trickle, a cut in the middle of a packet."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

Fault = Literal["none", "silent", "slow", "trickle"]
DELAY = 0.3  # s, of a slow line
TRICKLE = 64  # bytes at a time


class Proxy:
    """Listens on `port`, forwards to `target`; use `async with`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = 0
        self.fault: Fault = "none"
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Every connection, wherever its bytes are."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        pumps = [asyncio.ensure_future(self._pump(reader, back)), asyncio.ensure_future(self._pump(there, writer))]
        self._tasks |= set(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for one in (writer, back):
            self._writers.discard(one)
            one.transport.abort()
        self._tasks -= set(pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(16384):
                while self.fault == "silent":  # noqa: ASYNC110  a line that says nothing, looked at twenty times a second
                    await asyncio.sleep(0.05)
                if self.fault == "slow":
                    await asyncio.sleep(DELAY)
                if self.fault == "trickle":
                    for at in range(0, len(data), TRICKLE):
                        writer.write(data[at : at + TRICKLE])
                        await writer.drain()
                        await asyncio.sleep(0.01)
                    continue
                writer.write(data)
                await writer.drain()
