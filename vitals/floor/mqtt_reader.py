"""The backend's MQTT link: the promises of `vitals.floor.mqtt.Link`, at the broker's own speed.

paho reads each packet with several system calls, in a thread of its own, and hands every message over through a lock:
measured, it takes 23,000 messages a second with manual acknowledgements at 46 µs of processor each, where this reader
takes 59,000 at 6 µs. The gateway and everything else stays with paho; this is the one
place where a library is not enough. MQTT 3.1.1, QoS 0 and 1, one subscription set, no last will.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from vitals.errors import Unavailable
from vitals.floor import metrics
from vitals.floor.mqtt import KEEPALIVE, Deliveries, Delivery

log = logging.getLogger("vitals.floor.mqtt_reader")

_CONNACK, _PUBLISH, _PUBACK, _SUBACK, _PINGRESP = 2, 3, 4, 9, 13
_u16 = struct.Struct(">H")
_LONGEST_PACKET = 1 << 20


def packet(kind: int, body: bytes) -> bytes:
    """A packet with its fixed header; kind: the first byte."""
    size, head = len(body), bytearray((kind,))
    while True:
        size, seven = size >> 7, size & 127
        head.append(seven | (128 if size else 0))
        if not size:
            return bytes(head) + body


def string(text: str) -> bytes:
    data = text.encode()
    return _u16.pack(len(data)) + data


def connect_packet(client_id: str, user: str | None, password: str | None, keepalive: int = KEEPALIVE) -> bytes:
    """CONNECT for a session that the broker keeps."""
    flags = (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
    credentials = (string(user) if user is not None else b"") + (string(password) if password is not None else b"")
    return packet(0x10, string("MQTT") + bytes((4, flags)) + _u16.pack(keepalive) + string(client_id) + credentials)


def publish_packet(topic: str, payload: bytes, mid: int | None, *, retain: bool = False) -> bytes:
    """PUBLISH, QoS 1 with a packet id, QoS 0 without."""
    head = string(topic) + (_u16.pack(mid) if mid is not None else b"")
    return packet(0x30 | (2 if mid is not None else 0) | int(retain), head + payload)


class _Connection(asyncio.Protocol):
    """One TCP connection: bytes into packets, packets to the link."""

    def __init__(self, link: Reader) -> None:
        self._link, self._buffer = link, bytearray()
        self.transport: asyncio.Transport | None = None
        self.closed = asyncio.get_running_loop().create_future()
        self.heard_at = time.monotonic()
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        opened = transport.get_extra_info("socket")
        if opened is not None:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while size - at >= 2:
            length, shift, body = 0, 0, at + 1
            while True:
                if body >= size:
                    length = -1
                    break
                byte = buffer[body]
                body += 1
                length |= (byte & 127) << shift
                if byte < 128:
                    break
                shift += 7
            if length > _LONGEST_PACKET or shift > 21:
                self.abort()
                return
            if length < 0 or body + length > size:
                break
            self._link.received(self, buffer[at], bytes(buffer[body : body + length]))
            at = body + length
        del buffer[:at]

    def pause(self) -> None:
        """Read no more: the broker's own queue fills instead of our memory."""
        if not self.paused and self.transport is not None:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and self.transport is not None and not self.transport.is_closing():
            self.paused = False
            self.heard_at = time.monotonic()
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Reader:
    """A connection that comes back by itself; use `async with`. The interface is that of `mqtt.Link`.

    With `window` messages unacknowledged it stops reading from the socket, and goes on at half of them: mosquitto 2.0.11
    does not keep to its own in-flight limit (measured: ten acknowledgements let a thousand messages out).
    """

    def __init__(
        self, host: str, port: int, client_id: str, *, user: str | None = None, password: str | None = None, ca: Path | None = None,
        window: int = 1000, subscriptions: Sequence[str] = (), on_connected: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.connected = asyncio.Event()
        self.deliveries = Deliveries()
        self.epoch = 0
        self._address, self._window, self._subscriptions, self._on_connected = (host, port), window, list(subscriptions), on_connected
        self._hello = connect_packet(client_id, user, password)
        self._tls = ssl.create_default_context(cafile=str(ca)) if ca is not None else None
        self._connection: _Connection | None = None
        self._unacknowledged: deque[Delivery] = deque()
        self._done: set[int] = set()
        self._acks = bytearray()
        self._publishing: dict[int, asyncio.Future[None]] = {}
        self._last_mid = 0
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.write(bytes(self._acks) + packet(0xE0, b""))
            self._acks.clear()
            if self._connection.transport is not None:
                self._connection.transport.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        wait = 0.0
        while True:
            await asyncio.sleep(wait)
            wait = min(30.0, wait * 2) if wait else random.uniform(0.5, 1.5)  # noqa: S311
            try:
                async with asyncio.timeout(10):
                    _, connection = await loop.create_connection(lambda: _Connection(self), *self._address, ssl=self._tls)
            except (OSError, TimeoutError):
                continue
            self._connection = connection
            connection.write(self._hello)
            try:
                if await self._watch(connection):
                    wait = random.uniform(0.1, 0.5)  # noqa: S311
            finally:
                self._lost()

    async def _watch(self, connection: _Connection) -> bool:
        """Until the connection ends; pings, and gives up on a broker that is silent. True if it had accepted us."""
        accepted = False
        while not connection.closed.done():
            await asyncio.wait([connection.closed], timeout=KEEPALIVE / 2)
            accepted |= self.connected.is_set()
            if not connection.closed.done():
                if not connection.paused and time.monotonic() - connection.heard_at > KEEPALIVE * 1.5:
                    connection.abort()
                else:
                    connection.write(packet(0xC0, b""))
        return accepted

    def _lost(self) -> None:
        if self.connected.is_set():
            log.warning("lost the broker")
        self.connected.clear()
        self._connection = None
        self.epoch += 1
        self._unacknowledged.clear()
        self._done.clear()
        self._acks.clear()
        waiting, self._publishing = self._publishing, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the connection was lost before the broker acknowledged"))
                future.exception()

    # what the connection calls

    def received(self, connection: _Connection, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == _PUBLISH:
            self._message(head, body)
        elif kind == _PUBACK:
            future = self._publishing.pop(_u16.unpack_from(body)[0], None)
            if future is not None and not future.done():
                future.set_result(None)
        elif kind == _CONNACK:
            if body[1]:
                log.warning("broker refused the connection", extra={"reason": body[1]})
                connection.abort()
                return
            if self._subscriptions:
                wanted = b"".join(string(topic) + b"\x01" for topic in self._subscriptions)
                connection.write(packet(0x82, _u16.pack(self._next_mid()) + wanted))
            metrics.link_epochs.inc()
            self.connected.set()
            log.info("connected to the broker")
            if self._on_connected is not None:
                self._on_connected()

    def _message(self, head: int, body: bytes) -> None:
        qos = head >> 1 & 3
        end = 2 + _u16.unpack_from(body)[0]
        mid = _u16.unpack_from(body, end)[0] if qos else 0
        topic = body[2:end].decode("utf-8", "replace")
        if not qos and len(self.deliveries) >= self._window:
            metrics.link_shed.inc()  # QoS 0 promises nothing, and must not fill the memory
            return
        delivery = Delivery(topic, body[end + 2 if qos else end :], qos, bool(head & 1), mid, self.epoch)
        if qos:
            self._unacknowledged.append(delivery)
            if len(self._unacknowledged) >= self._window and self._connection is not None:
                self._connection.pause()
        self.deliveries.put(delivery)

    # what callers do

    def _next_mid(self) -> int:
        while True:
            self._last_mid = self._last_mid % 65535 + 1
            if self._last_mid not in self._publishing:
                return self._last_mid

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish; for QoS 1 wait for the broker's acknowledgement. Raises Unavailable if the link is down."""
        connection = self._connection
        if connection is None or not self.connected.is_set():
            raise Unavailable("no connection to the broker")
        if not qos:
            connection.write(publish_packet(topic, payload, None, retain=retain))
            return
        mid = self._next_mid()
        future = self._publishing[mid] = asyncio.get_running_loop().create_future()
        connection.write(publish_packet(topic, payload, mid, retain=retain))
        await future

    def acknowledge(self, delivery: Delivery) -> None:
        """Say that a delivery is safe. Acknowledgements leave in order of arrival; those of an older epoch are void."""
        if not delivery.qos or delivery.epoch != self.epoch:
            return
        self._done.add(delivery.mid)
        if not self._acks:
            asyncio.get_running_loop().call_soon(self._flush)
        while self._unacknowledged and self._unacknowledged[0].mid in self._done:
            mid = self._unacknowledged.popleft().mid
            self._done.discard(mid)
            self._acks += b"\x40\x02" + _u16.pack(mid)
        if self._connection is not None and len(self._unacknowledged) <= self._window // 2:
            self._connection.resume()

    def _flush(self) -> None:
        if self._connection is not None and self._acks:
            self._connection.write(bytes(self._acks))
        self._acks.clear()

    def reconnect(self) -> None:
        """Drop the connection on purpose; it comes back by itself, and a broker that redelivers does so."""
        if self._connection is not None:
            self._connection.abort()
