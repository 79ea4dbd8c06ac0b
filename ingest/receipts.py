"""What gateways are told: which of their messages are committed. Sent at once where the link is, else as rows on their way to it."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from psycopg.rows import tuple_row

from ingest.admit import Admitted
from vitals import wire
from vitals.errors import Unavailable
from vitals.floor.database import Connection
from vitals.floor.mqtt_reader import Reader
from vitals.wire import Refusal


def receipts(judged: Iterable[Admitted]) -> Iterator[tuple[str, bytes]]:
    """(topic, payload) for every gateway and boot in what was committed."""
    stored: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    refused: dict[tuple[str, str, str], list[Refusal]] = defaultdict(list)
    for one in judged:
        if one.receipt is None or not one.gateway:
            continue
        key = (one.site, one.gateway, one.receipt[0])
        if one.refusal is None:
            stored[key].append(one.receipt[1])
        else:
            refused[key].append(Refusal(one.receipt[1], one.refusal[0]))
    for site, gateway, boot in stored.keys() | refused.keys():
        key = (site, gateway, boot)
        yield wire.topic(site, gateway, "down", "receipt"), wire.encode_receipt(boot, stored[key], refused[key])


async def send(link: Reader, judged: Iterable[Admitted]) -> None:
    """Publish receipts; one may be lost: the message comes again and is answered again."""
    for topic, payload in receipts(judged):
        with contextlib.suppress(Unavailable):
            await link.publish(topic, payload, qos=0)


async def put(connection: Connection, judged: Iterable[Admitted]) -> None:
    """Write receipts in the transaction that commits what they promise."""
    rows = list(receipts(judged))
    if rows:
        await connection.execute(
            "insert into receipt (topic, body) select * from unnest(%s::text[], %s::bytea[])",
            ([topic for topic, _ in rows], [body for _, body in rows]),
        )


async def forward(connection: Connection, link: Reader, limit: int = 1000) -> int:
    """Send waiting receipts and forget them; returns how many. Several senders share the work."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        "delete from receipt where receipt in (select receipt from receipt order by receipt limit %s for update skip locked)"
        " returning topic, body",
        (limit,),
    )
    rows = await cursor.fetchall()
    for topic, body in rows:
        await link.publish(topic, bytes(body), qos=0)
    await connection.commit()
    return len(rows)
