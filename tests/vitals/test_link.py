"""The MQTT link's promises: acknowledgements in order and only for their own connection; a bounded window."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from vitals.errors import Unavailable
from vitals.floor.mqtt import Delivery, Link
from vitals.floor.mqtt_reader import Reader
from yizhan.broker import mosquitto_program
from yizhan.composition import free_port

pytestmark = pytest.mark.services


class Broker:
    """A mosquitto without persistence, so that a restart loses every session (E3: packet ids are used again)."""

    def __init__(self, folder: Path, kind: type[Link] | type[Reader] = Link) -> None:
        self.kind = kind
        self.port = free_port()
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 50\nset_tcp_nodelay true\nlog_type none\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = mosquitto_program()
        assert program is not None
        self._process = subprocess.Popen([program, "-c", str(self._configuration)], stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Until it listens."""
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def link(self, client_id: str, **options: Any) -> Any:
        return self.kind("127.0.0.1", self.port, client_id, **options)


@pytest.fixture(params=[Link, Reader], ids=["paho", "reader"])
async def broker(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    """Both links keep the same promises."""
    if not mosquitto_program():
        missing("mosquitto", "not installed")
    found = Broker(tmp_path, request.param)
    found.start()
    yield found
    found.kill()


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.02)


async def taken(link: Any, count: int) -> list[Delivery]:
    return [await asyncio.wait_for(link.deliveries.get(), 15) for _ in range(count)]


def acknowledgements(link: Link | Reader) -> list[int]:
    """Packet ids of the PUBACKs that leave from here on."""
    sent: list[int] = []
    if isinstance(link, Link):
        real = link._client.ack
        link._client.ack = lambda mid, qos: (sent.append(mid), real(mid, qos))[1]  # type: ignore[method-assign, func-returns-value]
    else:
        connection = link._connection
        assert connection is not None
        write = connection.write

        def written(data: bytes) -> None:
            if data[0] == 0x40:
                sent.extend(int.from_bytes(data[at + 2 : at + 4], "big") for at in range(0, len(data), 4))
            write(data)

        connection.write = written  # type: ignore[method-assign]
    return sent


async def test_an_acknowledgement_of_a_lost_session_never_kills_a_new_message(broker: Broker) -> None:
    async with broker.link("reader", subscriptions=["t/#"]) as reader, broker.link("writer") as writer:
        await asyncio.gather(reader.connected.wait(), writer.connected.wait())
        await asyncio.sleep(0.2)
        await writer.publish("t/1", b"old")
        (old,) = await taken(reader, 1)
        broker.kill()
        broker.start()
        await until(lambda: reader.epoch > old.epoch)
        await asyncio.sleep(0.1)
        await until(lambda: reader.connected.is_set() and writer.connected.is_set())
        await asyncio.sleep(0.3)
        await writer.publish("t/1", b"new")
        (new,) = await taken(reader, 1)
        assert new.mid == old.mid, "the case at hand: the packet id came again"
        reader.acknowledge(old)  # void
        await asyncio.sleep(0.2)
        reader.reconnect()  # a reconnection brings back exactly what was not acknowledged
        (again,) = await taken(reader, 1)
        assert again.payload == b"new"
        reader.acknowledge(again)


async def test_acknowledgements_leave_in_order_of_arrival(broker: Broker) -> None:
    async with broker.link("reader", subscriptions=["t/#"]) as reader, broker.link("writer") as writer:
        await asyncio.gather(reader.connected.wait(), writer.connected.wait())
        await asyncio.sleep(0.2)
        for number in range(5):
            await writer.publish("t/1", str(number).encode())
        sent = acknowledgements(reader)
        found = await taken(reader, 5)
        for delivery in (found[3], found[1], found[4]):
            reader.acknowledge(delivery)
        await asyncio.sleep(0.05)
        assert sent == []
        reader.acknowledge(found[0])
        await asyncio.sleep(0.05)
        assert sent == [found[0].mid, found[1].mid]
        reader.acknowledge(found[2])
        await asyncio.sleep(0.05)
        assert sent == [d.mid for d in found]


async def test_a_full_window_sheds_and_gets_everything_again(broker: Broker) -> None:
    async with broker.link("reader", subscriptions=["t/#"], window=10) as reader, broker.link("writer") as writer:
        await asyncio.gather(reader.connected.wait(), writer.connected.wait())
        await asyncio.sleep(0.2)
        for number in range(40):
            await writer.publish("t/1", str(number).encode())
        await asyncio.sleep(0.3)
        assert len(reader.deliveries) == 10
        seen: set[bytes] = set()
        while len(seen) < 40:
            (delivery,) = await taken(reader, 1)
            seen.add(delivery.payload)
            reader.acknowledge(delivery)
        assert len(seen) == 40


async def test_publishing_without_a_broker_says_so_at_once(broker: Broker) -> None:
    async with broker.link("writer") as writer:
        await writer.connected.wait()
        broker.kill()
        await until(lambda: not writer.connected.is_set())
        with pytest.raises(Unavailable):
            await writer.publish("t/1", b"x")
        broker.start()
        await until(writer.connected.is_set)
        await writer.publish("t/1", b"x")
