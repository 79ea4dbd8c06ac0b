"""A fleet at MQTT level: thousands of gateways that publish what a population measures, the same for the same seed.

Each gateway has its own client on its own connection, all of them served by one thread (paho's own functions for an
outer loop). Messages carry several measurements, as a gateway with a backlog sends them; what has no receipt is not
sent again here: the fleet is a load, the gateway itself is tested elsewhere.
"""

from __future__ import annotations

import hashlib
import itertools
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from firmware_sim.physiology import Person, mix, uniform
from vitals import wire
from vitals.errors import Unavailable

START = datetime(2026, 1, 5, tzinfo=UTC)
SITE_SIZE = 50  # gateways of one site
KEEPALIVE = 60


@dataclass(frozen=True, slots=True)
class Batch:
    """One message: which gateway sends it, and its measurements as encoded JSON objects. readings: metrics in it."""

    gateway: int
    bodies: tuple[bytes, ...]
    readings: int


def name(gateway: int) -> str:
    return f"fleet-{gateway:05d}"


def site(gateway: int) -> str:
    return f"fleet-site-{gateway // SITE_SIZE:03d}"


def devices(gateways: int, residents: int, seed: int) -> Iterator[tuple[str, str, int]]:
    """Every device of the fleet: (device, kind, gateway)."""
    for resident in range(residents):
        for kind in _kinds(Person.drawn(seed, resident)):
            yield f"fleet-{resident:06d}-{kind[:2]}", kind, resident % gateways


def _kinds(person: Person) -> tuple[str, ...]:
    return ("blood_pressure", "heart_rate", "glucose") if person.diabetic else ("blood_pressure", "heart_rate")


def batches(
    gateways: int, residents: int, rate: float, seed: int, size: int = 20, start: datetime = START, first: int = 0
) -> Iterator[Batch]:  # fmt: skip
    """Measurements of a population at `rate` readings a second of its own time, for ever; a pure function of its arguments.

    first: number of the first measurement, so that a later run of the same population measures something new.
    """
    people = [Person.drawn(seed, number) for number in range(residents)]
    kinds = [_kinds(person) for person in people]
    waiting: dict[int, list[bytes]] = {}
    counts: dict[int, int] = {}
    readings = 0
    for number in itertools.count(first):
        at = start + timedelta(seconds=readings / rate)
        resident = mix(seed, number) % residents
        kind = kinds[resident][int(uniform(seed, number, 7) * len(kinds[resident]))]
        body, count = _measurement(people[resident], resident, kind, number, at)
        gateway = resident % gateways
        waiting.setdefault(gateway, []).append(body)
        counts[gateway] = counts.get(gateway, 0) + count
        readings += count
        if counts[gateway] >= size:
            yield Batch(gateway, tuple(waiting.pop(gateway)), counts.pop(gateway))


def dense(gateways: int, residents: int, seed: int, size: int, start: datetime, first: int = 0) -> Iterator[Batch]:
    """1 Hz heart rate of a band, `size` samples in a message: what a wearable sends as long as it is worn."""
    people = [Person.drawn(seed, number) for number in range(residents)]
    for number in itertools.count(first):
        resident = number % residents
        at = start + timedelta(seconds=number % 100_000_000 // residents * size)
        moment = wire.text_of(at)
        base = people[resident].heart_rate(at)
        values = ",".join(f"{base + (number + n) % 5}.0" for n in range(size))
        text = (
            f'{{"device":"fleet-{resident:06d}-he","kind":"heart_rate","record":{number},"measured_at":"{moment}",'
            f'"received_at":"{moment}","device_time":"{moment[:19]}","time_quality":"synced","setting":"wearable",'
            f'"samples":{{"heart_rate":{{"values":[{values}],"every_ms":1000.0}}}}}}'
        )
        yield Batch(resident % gateways, (text.encode(),), size)


def _measurement(person: Person, resident: int, kind: str, number: int, at: datetime) -> tuple[bytes, int]:
    moment = wire.text_of(at)
    if kind == "blood_pressure":
        systolic, diastolic, pulse = map(float, person.blood_pressure(at))
        values, count, setting = f'"systolic":{systolic},"diastolic":{diastolic},"pulse":{pulse}', 3, ""
    elif kind == "glucose":
        values, count, setting = f'"glucose":{float(person.glucose(at))}', 1, ""
    else:
        values, count, setting = f'"heart_rate":{float(person.heart_rate(at))}', 1, '"setting":"wearable",'
    text = (
        f'{{"device":"fleet-{resident:06d}-{kind[:2]}","kind":"{kind}","record":{number},"measured_at":"{moment}",'
        f'"received_at":"{moment}","device_time":"{moment[:19]}","time_quality":"synced",{setting}"values":{{{values}}},'
        f'"raw":"{number & 0xFFFFFFFF:08x}"}}'
    )
    return text.encode(), count


class Fleet:
    """The connections. credentials: gateway name → password; without them one user and password serve all."""

    def __init__(
        self, host: str, port: int, gateways: int, *, user: str | None = None, password: str | None = None,
        credentials: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._selector = selectors.DefaultSelector()
        self._address = (host, port)
        self.acknowledged = self.receipts = 0
        self._seq = [0] * gateways
        self._boots = [wire.boot_name(1, f"{number:016x}") for number in range(gateways)]
        self._topics = [wire.topic(site(number), name(number), "up", "readings") for number in range(gateways)]
        self._clients = [self._client(number, user, password, credentials or {}) for number in range(gateways)]
        self._connected = 0

    def _client(self, number: int, user: str | None, password: str | None, credentials: dict[str, str]) -> paho.Client:
        own = name(number)
        client = paho.Client(CallbackAPIVersion.VERSION2, own)
        if own in credentials:
            client.username_pw_set(own, credentials[own])
        elif user is not None:
            client.username_pw_set(user, password)
        client.max_inflight_messages_set(1000)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.user_data_set(number)
        return client

    def _on_connect(self, client: paho.Client, number: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            raise Unavailable(f"the broker refused {name(number)}: {reason}")
        self._connected += 1
        client.subscribe(wire.topic(site(number), name(number), "down", "receipt"), qos=1)

    def _on_publish(self, *_: Any) -> None:
        self.acknowledged += 1

    def _on_message(self, _client: Any, _number: Any, message: paho.MQTTMessage) -> None:
        receipt = wire.decode_receipt(bytes(message.payload))
        self.receipts += sum(last - first + 1 for first, last in receipt.stored) + len(receipt.quarantined)

    def connect(self, patience: float = 60.0) -> None:
        """Connect all, in groups that a listen queue holds; raises Unavailable."""
        end = time.monotonic() + patience
        for number, client in enumerate(self._clients):
            client.connect(*self._address, keepalive=KEEPALIVE)
            self._selector.register(client.socket(), selectors.EVENT_READ, client)  # type: ignore[arg-type]
            while number - self._connected > 100:
                self.turn(0.01)
                if time.monotonic() > end:
                    raise Unavailable(f"{self._connected} of {len(self._clients)} gateways connected")
        while self._connected < len(self._clients):
            self.turn(0.01)
            if time.monotonic() > end:
                raise Unavailable(f"{self._connected} of {len(self._clients)} gateways connected")

    def turn(self, timeout: float) -> None:
        """Serve what the sockets have."""
        for key, _ in self._selector.select(timeout):
            key.data.loop_read()
        for client in self._clients:
            if client.want_write():
                client.loop_write()

    def misc(self) -> None:
        """Keep-alives; call it every second or so."""
        for client in self._clients:
            client.loop_misc()

    def publish(self, batch: Batch) -> None:
        gateway = batch.gateway
        self._seq[gateway] += 1
        payload = wire.encode_message(self._boots[gateway], self._seq[gateway], datetime.now(UTC), batch.bodies)
        self._clients[gateway].publish(self._topics[gateway], payload, qos=1)

    def close(self) -> None:
        for client in self._clients:
            client.disconnect()
            client.loop_write()
        self._selector.close()


def run(
    fleet: Fleet | None,
    gateways: int,
    residents: int,
    rate: float,
    seed: int,
    readings: int,
    size: int,
    progress: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Send `readings` readings at `rate` a second (0: as fast as it goes); fleet None only makes them.

    Returns counts, seconds, the rate reached, and a digest of everything measured, the same for the same arguments.
    """
    made = messages = 0
    digest = hashlib.sha256()
    began = last = time.monotonic()
    for batch in batches(gateways, residents, rate or 20000.0, seed, size):
        for body in batch.bodies:
            digest.update(body)
        made, messages = made + batch.readings, messages + 1
        if fleet is not None:
            fleet.publish(batch)
            if messages % 20 == 0:
                fleet.turn(0)
                while messages - fleet.acknowledged > 20000:  # the broker is behind
                    fleet.turn(0.01)
            now = time.monotonic()
            if now - last > 1:
                fleet.misc()
                progress(f"{made} readings, {made / (now - began):.0f} a second")
                last = now
            if rate:
                while (ahead := made / rate - (time.monotonic() - began)) > 0:
                    fleet.turn(min(ahead, 0.05))
        if made >= readings:
            break
    sent = time.monotonic() - began
    if fleet is not None:
        end = time.monotonic() + 30
        while fleet.acknowledged < messages and time.monotonic() < end:
            fleet.turn(0.05)
    seconds = time.monotonic() - began
    return {
        "gateways": gateways, "residents": residents, "seed": seed, "readings": made, "messages": messages,
        "acknowledged": fleet.acknowledged if fleet is not None else None, "receipts": fleet.receipts if fleet is not None else None,
        "seconds": round(seconds, 3), "readings_per_second": round(made / sent), "digest": digest.hexdigest(),
    }  # fmt: skip
