"""All SQL about the outbox, and the sending of what goes out by MQTT. At least once: marked as sent after the broker took it."""

from __future__ import annotations

import json
from typing import Any

from psycopg.types.json import Jsonb

from vitals import wire
from vitals.errors import Unavailable
from vitals.floor.database import Connection
from vitals.floor.mqtt_reader import Reader


async def put(connection: Connection, kind: str, body: dict[str, Any], *, gateway: str | None = None, checkin: str | None = None) -> None:
    """Write what must leave, in the transaction that decided it. kind: command | advice | notify."""
    await connection.execute(
        "insert into outbox (kind, gateway, checkin, body) values (%s, %s, %s, %s)", (kind, gateway, checkin, Jsonb(body))
    )


async def send(connection: Connection, link: Reader, limit: int = 100) -> int:
    """Publish what waits for a gateway; returns how many went. Stops at the first that the link cannot take."""
    cursor = await connection.execute(
        "select o.outbox, o.kind, o.body, o.gateway, g.site from outbox o join gateway g using (gateway)"
        " where o.sent_at is null and o.kind in ('command', 'advice') order by o.outbox limit %s"
        " for update of o skip locked",
        (limit,),
    )
    sent: list[int] = []
    for row in await cursor.fetchall():
        try:
            topic = wire.topic(row["site"], row["gateway"], "down", row["kind"])
            await link.publish(topic, json.dumps(row["body"], ensure_ascii=False).encode())
        except Unavailable:
            break
        sent.append(row["outbox"])
    if sent:
        # what a pairing command had to carry (passkey, consent, key) is not kept once it went
        statement = "update outbox set sent_at = now(), body = body - '{passkey,consent,bind_key}'::text[] where outbox = any(%s)"
        await connection.execute(statement, (sent,))
    await connection.commit()
    return len(sent)


async def advice_of(connection: Connection, checkin: str, after: int) -> list[dict[str, Any]]:
    """Advice for a kiosk's screen after a given outbox number, in order."""
    cursor = await connection.execute(
        "select outbox, body from outbox where checkin = %s and kind = 'advice' and outbox > %s order by outbox", (checkin, after)
    )
    return await cursor.fetchall()
