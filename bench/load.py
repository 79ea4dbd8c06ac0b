"""A load of real gateways: each on its own connection with its own credential, publishing QoS 1 and waiting for receipts.

A process of its own (`python -m bench.load`), so that the load has its own interpreter: it makes every frame first,
connects, says `ready`, and begins at a line on standard input. It ends when every message has its receipt from the
backend, which comes only after the database committed, and says how long that took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from firmware_sim import fleet
from ingest import devices
from vitals import broker_password, wire
from vitals.floor import database
from vitals.floor.mqtt_reader import connect_packet, packet, publish_packet, string

PASSWORD = "a-password-of-the-benchmark"
IN_FLIGHT = 200  # messages of one gateway that wait for the broker


async def settle(conninfo: str, gateways: int, residents: int, seed: int = 1) -> None:
    """Register the fleet: sites, gateways, residents, devices and who wears them. None of them has a doctor."""
    hashed = broker_password.hashed(PASSWORD)
    async with await database.connect(conninfo) as connection:
        for name in sorted({fleet.site(number) for number in range(gateways)}):
            await devices.add_site(connection, name, name)
        for number in range(gateways):
            await devices.enrol_gateway(connection, fleet.name(number), fleet.site(number), hashed)
        rows = list(fleet.devices(gateways, residents, seed))
        await connection.execute(
            "insert into device (device, kind, setting) select * from unnest(%s::text[], %s::text[], %s::text[])",
            ([row[0] for row in rows], [row[1] for row in rows], ["wearable" if row[1] == "heart_rate" else "home" for row in rows]),
        )
        await connection.execute(
            "insert into resident (resident, name, sex, birth_date, site) select distinct 'r-' || substr(device, 7, 6), 'n', 'male',"
            " '1960-01-01'::date, %s from device where device like 'fleet-%%'",
            (fleet.site(0),),
        )
        await connection.execute(
            "insert into subject_fact (subject, fact, value, recorded_at, recorded_by) select resident, f, v::jsonb, now(), 'bench'"
            """ from resident, (values ('sex', '"male"'), ('birth_date', '"1960-01-01"'), ('hypertension', 'true')) x(f, v)"""
            " where resident like 'r-0%%' on conflict do nothing"
        )
        since = datetime(2020, 1, 1, tzinfo=UTC)
        await connection.execute(
            "insert into binding (device_no, resident, during) select device_no, 'r-' || substr(device, 7, 6), tstzrange(%s, null)"
            " from device where device like 'fleet-%%'",
            (since,),
        )
        await connection.commit()


def frames(
    gateways: int, residents: int, size: int, readings: int, seed: int, boot: int = 1, dense: bool = False
) -> tuple[list[list[bytes]], dict[str, int]]:  # fmt: skip
    """gateway → its PUBLISH packets in order; counts of readings, measurements and messages."""
    made: list[list[bytes]] = [[] for _ in range(gateways)]
    counts = {"readings": 0, "measurements": 0, "messages": 0}
    start = datetime.now(UTC) - timedelta(minutes=50)
    first = (boot - 1) * 100_000_000
    made_by = (
        fleet.dense(gateways, residents, seed, size, start, first) if dense
        else fleet.batches(gateways, residents, max(readings / 2000, 1000), seed, size, start, first)
    )  # fmt: skip
    for batch in made_by:
        own = made[batch.gateway]
        seq = len(own) + 1
        boot_name = wire.boot_name(boot, f"{batch.gateway:016x}")
        payload = wire.encode_message(boot_name, seq, datetime.now(UTC), batch.bodies)
        topic = wire.topic(fleet.site(batch.gateway), fleet.name(batch.gateway), "up", "readings")
        own.append(publish_packet(topic, payload, (seq - 1) % 65535 + 1))
        counts["readings"] += batch.readings
        counts["measurements"] += len(batch.bodies)
        counts["messages"] += 1
        if counts["readings"] >= readings:
            break
    return made, counts


class Gateway(asyncio.Protocol):
    """One gateway's connection."""

    def __init__(self, number: int, packets: list[bytes], rate: float, receipts: bool) -> None:
        self.number, self.packets, self.rate, self.receipts = number, packets, rate, receipts
        self.sent = self.acknowledged = self.promised = 0
        self.ready = asyncio.Event()
        self.finished = asyncio.Event()
        self._buffer = bytearray()
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        name = fleet.name(self.number)
        transport.write(connect_packet(name, name, PASSWORD, keepalive=600))
        receipt = wire.topic(fleet.site(self.number), name, "down", "receipt")
        transport.write(packet(0x82, b"\0\1" + string(receipt) + b"\1"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while size - at >= 2:
            length, shift, body = 0, 0, at + 1
            while body < size:
                byte = buffer[body]
                body += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            else:
                break
            if body + length > size:
                break
            kind = buffer[at] >> 4
            if kind == 4:
                self.acknowledged += 1
                if not self.receipts and self.acknowledged >= len(self.packets):
                    self.finished.set()
            elif kind == 3:
                self._receipt(buffer[at], bytes(buffer[body : body + length]))
            elif kind == 9:
                self.ready.set()
            elif kind == 2 and buffer[body + 1]:
                raise ConnectionError(f"the broker refused {fleet.name(self.number)}")
            at = body + length
        del buffer[:at]
        self.push()

    def _receipt(self, head: int, body: bytes) -> None:
        start = 2 + int.from_bytes(body[:2], "big") + (2 if head & 6 else 0)
        receipt = wire.decode_receipt(body[start:])
        self.promised += sum(last - first + 1 for first, last in receipt.stored) + len(receipt.quarantined)
        if self.promised >= len(self.packets):
            self.finished.set()

    def begin(self) -> None:
        self._open = True
        if not self.packets:
            self.finished.set()
        self.push()

    def push(self) -> None:
        """As many as may be in flight."""
        if not self._open or self.rate:
            return
        room = IN_FLIGHT - (self.sent - self.acknowledged)
        if room >= IN_FLIGHT // 4 and self.sent < len(self.packets):
            self.send(room)

    def send(self, count: int) -> None:
        some = self.packets[self.sent : self.sent + count]
        self.sent += len(some)
        self.transport.write(b"".join(some))


async def publish(port: int, made: list[list[bytes]], rate: float, go: Any, patience: float, receipts: bool) -> dict[str, Any]:
    """rate: messages a second of all gateways together, 0 for as fast as it goes. receipts: wait for ours, else for the broker's."""
    loop = asyncio.get_running_loop()
    gateways: list[Gateway] = []
    for number, packets in enumerate(made):
        if not packets:
            continue
        _, protocol = await loop.create_connection(lambda n=number, p=packets: Gateway(n, p, rate, receipts), "127.0.0.1", port)  # type: ignore[misc]
        gateways.append(protocol)
    await asyncio.gather(*(one.ready.wait() for one in gateways))
    await go()
    began = time.monotonic()
    for one in gateways:
        one.begin()
    if rate:
        await _paced(gateways, rate)
    published = None
    end = began + patience
    while not all(one.finished.is_set() for one in gateways) and time.monotonic() < end:
        if published is None and all(one.acknowledged >= len(one.packets) for one in gateways):
            published = time.monotonic() - began
        await asyncio.sleep(0.005)
    seconds = time.monotonic() - began
    for one in gateways:
        one.transport.close()
    return {"seconds": seconds, "published_s": published or seconds, "receipts": sum(one.promised for one in gateways)}


async def _paced(gateways: list[Gateway], rate: float) -> None:
    longest = max(len(one.packets) for one in gateways)
    turns = [one for turn in range(longest) for one in gateways if turn < len(one.packets)]
    began, sent = time.monotonic(), 0
    while sent < len(turns):
        due = min(len(turns), int((time.monotonic() - began) * rate))
        for one in turns[sent:due]:
            one.send(1)
        sent = max(sent, due)
        await asyncio.sleep(0.001)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gateways", type=int, default=50)
    parser.add_argument("--residents", type=int, default=2000)
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--readings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--boot", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="the first gateways belong to somebody else")
    parser.add_argument("--dense", action="store_true", help="1 Hz heart rate as dense series")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--no-receipts", action="store_true", help="end when the broker has everything: for peers, which send none")
    parser.add_argument("--patience", type=float, default=120.0)
    chosen = parser.parse_args(list(arguments) if arguments is not None else None)
    made, counts = frames(chosen.gateways, chosen.residents, chosen.size, chosen.readings, chosen.seed, chosen.boot, chosen.dense)
    made[: chosen.skip] = [[] for _ in range(chosen.skip)]
    counts["messages"] = sum(len(packets) for packets in made)

    async def go() -> None:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

    told = asyncio.run(publish(chosen.port, made, chosen.rate, go, chosen.patience, not chosen.no_receipts))
    print(json.dumps(counts | told))


if __name__ == "__main__":
    main()
