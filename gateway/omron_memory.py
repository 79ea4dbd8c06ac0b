"""Omron cuffs from before the profile: their memory is read in blocks over four channels each way.

Written from public protocol notes and shown against our virtual cuff; no real one has been read with it. A cuff that
wants an unlock key is not supported.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bleak import BleakClient

from vitals.device_model import Memory
from vitals.errors import DecodeError, Unavailable
from vitals.gatt.omron import ANSWER, BEGIN, CHANNEL, END, READ, READ_CHANNELS, WRITE_CHANNELS, packet, unpacked

ANSWER_LIMIT = 5.0


class _Line:
    """The four channels as one: what arrives is put together until it has its length."""

    def __init__(self, client: BleakClient) -> None:
        self._client = client
        self._parts: dict[int, bytes] = {}
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()

    def _listener(self, channel: int) -> Any:
        def hear(_characteristic: Any, data: bytearray) -> None:
            self._parts[channel] = bytes(data)
            first = self._parts.get(0)
            if not first:
                return
            needed = range((first[0] + CHANNEL - 1) // CHANNEL)
            if all(one in self._parts for one in needed):
                whole = b"".join(self._parts[one] for one in needed)[: first[0]]
                self._parts.clear()
                self._answers.put_nowait(whole)

        return hear

    async def open(self) -> None:
        for channel, uuid in enumerate(READ_CHANNELS):
            await self._client.start_notify(uuid, self._listener(channel))

    async def ask(self, command: int, address: int = 0, size: int = 0) -> bytes:
        """Send one command and wait for its answer's data; raises Unavailable, DecodeError."""
        sent = packet(command, address, size)
        for channel, at in enumerate(range(0, len(sent), CHANNEL)):
            await self._client.write_gatt_char(WRITE_CHANNELS[channel], sent[at : at + CHANNEL], response=True)
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                answered, where, data = unpacked(await self._answers.get())
        except TimeoutError:
            raise Unavailable("the cuff's memory does not answer") from None
        if answered != command | ANSWER or where != address:
            raise DecodeError("omron_packet", f"answer {answered:04x} at {where:04x}")
        return data


async def read(client: BleakClient, memory: Memory) -> list[tuple[int, bytes]]:
    """(user, record) of every slot that was written, in the order of the memory; users count from 1."""
    line = _Line(client)
    await line.open()
    await line.ask(BEGIN, 0, CHANNEL)
    found: list[tuple[int, bytes]] = []
    for user, start in enumerate(memory.users, 1):
        length = memory.records * memory.size
        stored = b""
        while len(stored) < length:
            stored += await line.ask(READ, start + len(stored), min(memory.block, length - len(stored)))
        records = [stored[at : at + memory.size] for at in range(0, length, memory.size)]
        found += [(user, record) for record in records if set(record) != {0xFF}]
    await line.ask(END)
    return found
