"""Both brokers are closed: every identity × topic × action, proved by delivery, because acknowledgements prove nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import missing
from vitals import broker_password, wire
from vitals.errors import ConfigError
from vitals.settings import load
from yizhan import broker
from yizhan.composition import free_port

pytestmark = pytest.mark.services

# the broker in a process of its own, credentials from a file that is read again on SIGUSR1 (the keeper's `update`)
SCRIPT = """
import asyncio, json, signal, sys
from pathlib import Path
from vitals.settings import load
from yizhan import broker
def read():
    return {user: broker.Credential(h, tuple(p), tuple(s)) for user, (h, p, s) in json.loads(Path(sys.argv[2]).read_text()).items()}
async def main():
    settings = load()
    if sys.argv[1] == "mosquitto":
        running = broker.Mosquitto(settings, Path(sys.argv[3]))
    else:
        from yizhan.amqtt_broker import Amqtt
        running = Amqtt(settings)
    await running.start(read())
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: asyncio.ensure_future(running.update(read())))
    await running.wait()
asyncio.run(main())
"""

PASSWORDS = {"worker": "worker-password", "gateway-a": "password-of-a", "gateway-b": "password-of-b"}
HASHES = {user: broker_password.hashed(password) for user, password in PASSWORDS.items()}
SITES = {"gateway-a": "site-1", "gateway-b": "site-2"}


class Running:
    """A broker under test, and clients of it."""

    def __init__(self, kind: str, port: int, credentials: Path, process: subprocess.Popen[bytes]) -> None:
        self.kind, self.port, self.credentials, self.process = kind, port, credentials, process

    def allow(self, users: list[str]) -> None:
        rows: dict[str, Any] = {}
        for user in users:
            hashed = HASHES[user]
            one = broker.backend_credential(hashed) if user == "worker" else broker.gateway_credential(SITES[user], user, hashed)
            rows[user] = (one.password_hash, one.publish, one.subscribe)
        self.credentials.write_text(json.dumps(rows))

    async def client(self, user: str, *, password: str | None = None, client_id: str | None = None, will: str | None = None) -> Client:
        found = Client(self.port, user, password or PASSWORDS.get(user, "x"), client_id or user, will)
        await found.connect()
        return found


class Client:
    """paho, bare: what it was let do, and what reached it."""

    def __init__(self, port: int, user: str, password: str, client_id: str, will: str | None) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.accepted: bool | None = None
        self.drops = 0
        self._port = port
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=True, reconnect_on_failure=False)
        self.paho.username_pw_set(user, password)
        if will is not None:
            self.paho.will_set(will, b"will", qos=1, retain=True)
        self.paho.on_connect = lambda _c, _u, _f, reason, _p: setattr(self, "accepted", not reason.is_failure)
        self.paho.on_disconnect = lambda *_: setattr(self, "drops", self.drops + 1)
        self.paho.on_message = lambda _c, _u, message: self.received.append((message.topic, message.payload))

    async def connect(self) -> None:
        with contextlib.suppress(OSError):
            self.paho.connect("127.0.0.1", self._port, keepalive=30)
        self.paho.loop_start()
        await until(lambda: self.accepted is not None or self.drops > 0)

    async def close(self, *, rudely: bool = False) -> None:
        if rudely:
            opened = self.paho.socket()
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(0.2)
        self.paho.disconnect()
        await asyncio.to_thread(self.paho.loop_stop)


async def until(condition: Any, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.fixture(params=["mosquitto", "amqtt"])
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    if request.param == "mosquitto" and not broker.mosquitto_program():
        missing("mosquitto", "not installed")
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("YIZHAN_")} | {"YIZHAN_MQTT_PORT": str(port)}
    found = Running(request.param, port, tmp_path / "credentials.json", None)  # type: ignore[arg-type]
    found.allow(list(PASSWORDS))
    command = [sys.executable, "-c", SCRIPT, request.param, str(found.credentials), str(tmp_path / "broker")]
    found.process = subprocess.Popen(command, env=environment)

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    assert await until(listening, 15)
    yield found
    found.process.terminate()
    found.process.wait()


def topics(user: str) -> list[tuple[str, str]]:
    return [(way, wire.topic(SITES[user], user, way, what)) for way, kinds in (("up", wire.UP), ("down", wire.DOWN)) for what in kinds]


EVERY_TOPIC = [topic for user in SITES for _, topic in topics(user)] + ["yz/1/site-9/gateway-9/up/readings", "free/topic", "$SYS/x", "yz/1"]


@pytest.mark.parametrize("retained", [False, True], ids=["plain", "retained"])
async def test_the_matrix_of_identity_topic_and_action(running: Running, retained: bool) -> None:
    """Who publishes what reaches whom: exactly the cells of the table. A refused publication may cost the connection."""
    listener = await running.client("worker")
    listener.paho.subscribe(f"{wire.ROOT}/+/+/up/#", qos=1)
    await asyncio.sleep(0.3)
    for user in SITES:
        for topic in EVERY_TOPIC:
            client = await running.client(user)
            client.paho.publish(topic, user.encode(), qos=1, retain=retained)
            await asyncio.sleep(0.03)
            await client.close()
    expected = {(topic, user.encode()) for user in SITES for way, topic in topics(user) if way == "up"}
    assert await until(lambda: len(listener.received) >= len(expected))

    gateways = {user: await running.client(user) for user in SITES}
    for user, client in gateways.items():
        for _, topic in topics(user):
            client.paho.subscribe(topic, qos=1)
    await asyncio.sleep(0.3)
    for topic in EVERY_TOPIC:
        if "/down/" in topic:
            listener.paho.publish(topic, b"worker", qos=1, retain=retained)
    assert await until(lambda: all(len(client.received) >= len(wire.DOWN) for client in gateways.values()))
    assert set(listener.received) == expected
    await listener.close()
    for topic in EVERY_TOPIC:
        if "/down/" not in topic:
            forger = await running.client("worker")
            forger.paho.publish(topic, b"forged", qos=1, retain=retained)
            await asyncio.sleep(0.03)
            await forger.close()
    await asyncio.sleep(0.5)
    for user, client in gateways.items():
        assert set(client.received) == {(topic, b"worker") for way, topic in topics(user) if way == "down"}
        await client.close()


async def test_nobody_hears_what_is_anothers(running: Running) -> None:
    spy = await running.client("gateway-b")
    for wanted in (
        f"{wire.ROOT}/#",
        "#",
        "+/+/+/+/+/+",
        topics("gateway-a")[0][1],
        topics("gateway-a")[3][1],
        "$share/g/" + f"{wire.ROOT}/#",
    ):
        spy.paho.subscribe(wanted, qos=1)
    worker = await running.client("worker")
    gateway = await running.client("gateway-a")
    gateway.paho.publish(topics("gateway-a")[0][1], b"reading", qos=1)
    gateway.paho.publish(topics("gateway-a")[1][1], b"status", qos=1, retain=True)
    worker.paho.publish(topics("gateway-a")[3][1], b"receipt", qos=1)
    await asyncio.sleep(1)
    late = spy
    if spy.drops:  # a broker may throw such a client out; come back and listen for what was retained
        late = await running.client("gateway-b")
        late.paho.subscribe(topics("gateway-b")[3][1], qos=1)
        await asyncio.sleep(0.5)
    assert spy.received == late.received == []
    for client in (spy, worker, gateway, late):
        await client.close()


async def test_the_last_will_is_ones_own_or_nothing(running: Running) -> None:
    listener = await running.client("worker")
    listener.paho.subscribe(f"{wire.ROOT}/+/+/up/#", qos=1)
    await asyncio.sleep(0.3)
    liar = await running.client("gateway-b", will=topics("gateway-a")[1][1])
    await liar.close(rudely=True)
    honest = await running.client("gateway-a", will=topics("gateway-a")[1][1])
    await honest.close(rudely=True)
    assert await until(lambda: len(listener.received) >= 1)
    await asyncio.sleep(0.5)
    assert listener.received == [(topics("gateway-a")[1][1], b"will")]
    await listener.close()


async def test_another_client_id_takes_nobodys_session_over(running: Running) -> None:
    victim = await running.client("gateway-a")
    victim.paho.subscribe(topics("gateway-a")[3][1], qos=1)
    await asyncio.sleep(0.3)
    thief = await running.client("gateway-b", client_id="gateway-a")
    wrong = await running.client("gateway-a", password="guessed", client_id="gateway-a")
    stranger = await running.client("nobody", client_id="gateway-a")
    assert (wrong.accepted, stranger.accepted) == (False, False)
    worker = await running.client("worker")
    worker.paho.publish(topics("gateway-a")[3][1], b"receipt", qos=1)
    assert await until(lambda: victim.received == [(topics("gateway-a")[3][1], b"receipt")])
    assert (victim.drops, thief.received) == (0, [])
    for client in (victim, thief, wrong, stranger, worker):
        await client.close()


async def test_nothing_is_done_before_connect(running: Running) -> None:
    listener = await running.client("worker")
    listener.paho.subscribe(f"{wire.ROOT}/+/+/up/#", qos=1)
    await asyncio.sleep(0.3)
    topic = topics("gateway-a")[0][1].encode()
    body = len(topic).to_bytes(2, "big") + topic + b"early"
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(bytes((0x30, len(body))) + body)
    await writer.drain()
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(), 3)
    writer.close()
    anonymous = paho.Client(CallbackAPIVersion.VERSION2, "anonymous", reconnect_on_failure=False)
    verdicts: list[bool] = []
    anonymous.on_connect = lambda _c, _u, _f, reason, _p: verdicts.append(reason.is_failure)
    anonymous.on_disconnect = lambda *_: verdicts.append(True)
    anonymous.connect("127.0.0.1", running.port)
    anonymous.loop_start()
    assert await until(lambda: bool(verdicts))
    assert verdicts[0] is True
    anonymous.disconnect()
    await asyncio.to_thread(anonymous.loop_stop)
    assert listener.received == []
    await listener.close()


async def test_a_revoked_gateways_live_session_ends_and_cannot_come_back(running: Running) -> None:
    gateway, other = await running.client("gateway-a"), await running.client("gateway-b")
    running.allow(["worker", "gateway-b"])
    running.process.send_signal(10)  # SIGUSR1
    assert await until(lambda: gateway.drops > 0, 10), "the live session must end"
    again = await running.client("gateway-a")
    assert not again.accepted
    assert other.drops == 0
    for client in (gateway, other, again):
        await client.close()


def test_the_pure_python_broker_never_leaves_loopback() -> None:
    with pytest.raises(ConfigError):
        broker.choose(load({"YIZHAN_BROKER_KIND": "amqtt", "YIZHAN_BROKER_BIND": "0.0.0.0"}))
    with pytest.raises(ConfigError):
        broker.choose(load({"YIZHAN_BROKER_BIND": "0.0.0.0"}))
