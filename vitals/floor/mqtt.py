"""The MQTT link: paho's callbacks tamed into awaitable publishes and acknowledgements we control.

What it promises:
- a message is acknowledged only by `acknowledge`, only on the connection it came by (packet ids are reused after
  a lost session, so an old acknowledgement could kill a new, unprocessed message), and in the order of arrival;
- at most `window` messages are held; beyond it further ones are left unacknowledged and the link reconnects when
  the window is empty, so that a broker that redelivers does so. Whoever published keeps them until a receipt;
- `publish` returns when the broker acknowledged. That proves neither durability nor permission.

paho (not aiomqtt): it has manual acknowledgement; its network thread keeps the keepalive going while we work.
MQTT 3.1.1, because the pure-Python broker speaks nothing newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from vitals.errors import Unavailable
from vitals.floor import metrics

log = logging.getLogger("vitals.floor.mqtt")

KEEPALIVE = 20


class Delivery(NamedTuple):
    """One received message. `epoch` is the connection it belongs to, `mid` its packet id there."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    mid: int
    epoch: int


class Will(NamedTuple):
    """What the broker publishes for us, retained, when we vanish."""

    topic: str
    payload: bytes


class Deliveries:
    """Messages that were received and not yet taken, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._something = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        self._something.set()

    def take(self, limit: int) -> list[Delivery]:
        """What is there, at most `limit`; does not block."""
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    async def some(self) -> None:
        """Return when there is something to take."""
        while not self._waiting:
            self._something.clear()
            await self._something.wait()

    async def get(self) -> Delivery:
        """The next one, as soon as there is one."""
        await self.some()
        return self._waiting.popleft()


class Link:
    """A connection that comes back by itself; use `async with`.

    deliveries: the received messages, never longer than `window`. connected: set while the broker has
    accepted us. on_connected, if given, is called in the event loop after every connection.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        *,
        user: str | None = None,
        password: str | None = None,
        ca: Path | None = None,
        window: int = 1000,
        will: Will | None = None,
        subscriptions: Sequence[str] = (),
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        self.connected = asyncio.Event()
        self.deliveries = Deliveries()
        self.epoch = 0
        self._address = (host, port)
        self._window = window
        self._subscriptions = list(subscriptions)
        self._on_connected = on_connected
        self._loop = asyncio.get_running_loop()
        self._ack_lock = threading.Lock()
        self._unacknowledged: deque[Delivery] = deque()
        self._done: set[int] = set()
        self._shedding = False
        self._publishing: dict[int, asyncio.Future[None]] = {}
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False, manual_ack=True)
        client.username_pw_set(user, password)
        if ca is not None:
            client.tls_set(ca_certs=str(ca))
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.max_inflight_messages_set(window)
        # not all gateways at once, when a broker that many had lost comes back
        client.reconnect_delay_set(min_delay=random.uniform(0.5, 1.5), max_delay=30)  # type: ignore[arg-type]  # noqa: S311
        client.on_connect = self._connected_in_thread
        client.on_socket_open = _without_delay
        client.on_socket_close = self._closed_in_thread
        client.on_message = self._message_in_thread
        client.on_publish = self._published_in_thread
        self._client = client

    async def __aenter__(self) -> Self:
        self._client.connect_async(*self._address, keepalive=KEEPALIVE)
        self._client.loop_start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    # what callers do

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish; for QoS 1 wait for the broker's acknowledgement. Raises Unavailable if the link is down."""
        if not self.connected.is_set():
            raise Unavailable("no connection to the broker")
        # no lock of ours around paho's: its network thread calls back while it holds its own
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_QUEUE_SIZE):
            raise Unavailable("the broker's connection is closing")
        if qos:
            # the acknowledgement is handled in this loop, so it cannot overtake the next line
            future = self._publishing[info.mid] = self._loop.create_future()
            await future

    def acknowledge(self, delivery: Delivery) -> None:
        """Say that a delivery is safe. Acknowledgements leave in order of arrival; those of an older epoch are void."""
        if delivery.qos == 0:
            return
        with self._ack_lock:
            if delivery.epoch != self.epoch:
                return
            self._done.add(delivery.mid)
            while self._unacknowledged and self._unacknowledged[0].mid in self._done:
                first = self._unacknowledged.popleft()
                self._done.discard(first.mid)
                self._client.ack(first.mid, first.qos)
            drained = self._shedding and not self._unacknowledged
        if drained:
            log.warning("window was full; reconnecting for redelivery")
            self._loop.call_later(0.2, self.reconnect)  # after the acknowledgements just queued have left

    def reconnect(self) -> None:
        """Drop the connection on purpose; it comes back by itself, and a broker that redelivers does so."""
        opened = self._client.socket()
        if isinstance(opened, socket.socket):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    # what the network thread does

    def _connected_in_thread(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _props: Any) -> None:
        if reason.is_failure:
            log.warning("broker refused the connection", extra={"reason": str(reason)})
            return
        self._new_epoch()
        for topic in self._subscriptions:
            client.subscribe(topic, qos=1)
        metrics.link_epochs.inc()
        self._call(self._now_connected)

    def _closed_in_thread(self, *_: Any) -> None:
        self._new_epoch()
        self._call(self._now_disconnected)

    def _new_epoch(self) -> None:
        with self._ack_lock:
            self.epoch += 1
            self._unacknowledged.clear()
            self._done.clear()
            self._shedding = False

    def _message_in_thread(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        delivery = Delivery(message.topic, bytes(message.payload), message.qos, message.retain, message.mid, self.epoch)
        with self._ack_lock:
            if not message.qos and len(self.deliveries) >= self._window:
                metrics.link_shed.inc()  # QoS 0 promises nothing, and must not fill the memory
                return
            if message.qos and (self._shedding or len(self._unacknowledged) >= self._window):
                self._shedding = True
                metrics.link_shed.inc()
                return
            if message.qos:
                self._unacknowledged.append(delivery)
        self._call(self.deliveries.put, delivery)

    def _published_in_thread(self, _client: paho.Client, _data: Any, mid: int, *_: Any) -> None:
        self._call(self._now_published, mid)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closing; nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    # what happens in the event loop

    def _now_connected(self) -> None:
        self.connected.set()
        log.info("connected to the broker")
        if self._on_connected is not None:
            self._on_connected()

    def _now_disconnected(self) -> None:
        if self.connected.is_set():
            log.warning("lost the broker")
        self.connected.clear()
        waiting, self._publishing = self._publishing, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the connection was lost before the broker acknowledged"))
                future.exception()  # mark as seen: a publisher may have been cancelled

    def _now_published(self, mid: int) -> None:
        future = self._publishing.pop(mid, None)  # none for a repeat of a former connection
        if future is not None and not future.done():
            future.set_result(None)


def _without_delay(_client: paho.Client, _data: Any, opened: Any) -> None:
    """Small packets at once: Nagle's algorithm with delayed acknowledgements costs 40 ms a message."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
