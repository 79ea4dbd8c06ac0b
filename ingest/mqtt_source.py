"""The MQTT source of the embedded composition: messages wait unacknowledged in the link until their commit."""

from __future__ import annotations

from ingest.batch import Incoming
from vitals import wire
from vitals.floor.database import Connection
from vitals.floor.mqtt_reader import Reader

SUBSCRIPTIONS = [f"{wire.ROOT}/+/+/up/#"]


class MqttSource:
    """A `Source` over a link that subscribes to `SUBSCRIPTIONS`."""

    def __init__(self, link: Reader) -> None:
        self._link = link

    def waiting(self) -> bool:
        return len(self._link.deliveries) > 0

    async def wait(self) -> None:
        await self._link.deliveries.some()

    def take(self, limit: int) -> list[Incoming]:
        return [Incoming("mqtt", d.topic, d.payload, d) for d in self._link.deliveries.take(limit)]

    def mine(self, _subject: str) -> bool:
        return True

    async def seal(self, connection: Connection, items: list[Incoming]) -> None:
        """The broker keeps no position of ours."""

    def committed(self, items: list[Incoming]) -> None:
        """Acknowledged by `done`."""

    async def still_waiting(self, _connection: Connection, items: list[Incoming]) -> list[Incoming]:
        return items

    async def rewind(self, connection: Connection, items: list[Incoming]) -> None:
        """Nobody else can take what the broker gave us."""

    def done(self, items: list[Incoming]) -> None:
        for item in items:
            self._link.acknowledge(item.token)
