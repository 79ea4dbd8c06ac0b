"""The MQTT source of the embedded composition: messages wait unacknowledged in the link until their commit."""

from __future__ import annotations

import asyncio

from ingest.batch import Incoming
from vitals import wire
from vitals.floor.database import Connection
from vitals.floor.mqtt import Delivery, Link

SUBSCRIPTIONS = [f"{wire.ROOT}/+/+/up/#"]


class MqttSource:
    """A `Source` over a link that subscribes to `SUBSCRIPTIONS`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._held: list[Delivery] = []

    def waiting(self) -> bool:
        return bool(self._held) or not self._link.deliveries.empty()

    async def wait(self) -> None:
        if not self.waiting():
            self._held.append(await self._link.deliveries.get())

    def take(self, limit: int) -> list[Incoming]:
        taken, self._held = self._held, []
        while len(taken) < limit:
            try:
                taken.append(self._link.deliveries.get_nowait())
            except asyncio.QueueEmpty:
                break
        return [Incoming("mqtt", d.topic, d.payload, d) for d in taken]

    def mine(self, _subject: str) -> bool:
        return True

    async def seal(self, connection: Connection, items: list[Incoming]) -> None:
        """The broker keeps no position of ours."""

    def committed(self, items: list[Incoming]) -> None:
        """Acknowledged by `done`."""

    async def still_waiting(self, _connection: Connection, items: list[Incoming]) -> list[Incoming]:
        return items

    def done(self, items: list[Incoming]) -> None:
        for item in items:
            self._link.acknowledge(item.token)
