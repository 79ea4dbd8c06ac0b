"""Messages as a gateway sends them, and a worker without a broker: `process` is the real transaction."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ingest.batch import Incoming
from ingest.worker import Worker
from vitals.floor import database
from vitals.settings import Settings
from yizhan import town
from yizhan.compose import steps

TOPIC = f"yz/1/{town.SITE}/{town.GATEWAY}/up/readings"
CUFF = town.PEOPLE[0][3]
FIELD_KEY = "a key for fields, of the tests only"
_seq = itertools.count(1)


def measurement(
    systolic: float = 120, diastolic: float = 80, *, ago: timedelta = timedelta(), device: str = CUFF, **more: Any
) -> dict[str, Any]:
    at = datetime.now(UTC) - ago
    known = {
        "device": device,
        "kind": "blood_pressure",
        "record": f"r{next(_seq)}",
        "measured_at": at.isoformat(),
        "received_at": datetime.now(UTC).isoformat(),
        "time_quality": "synced",
        "setting": "home",
        "values": {"systolic": systolic, "diastolic": diastolic, "pulse": 70},
        "raw": "1e00",
    }
    return known | more


def message(*measurements: dict[str, Any], boot: str = "b0", seq: int | None = None, **more: Any) -> bytes:
    body = {
        "v": 1,
        "boot": boot,
        "seq": next(_seq) if seq is None else seq,
        "sent_at": datetime.now(UTC).isoformat(),
        "measurements": list(measurements),
    }
    return json.dumps(body | more).encode()


def incoming(payload: bytes, topic: str = TOPIC) -> Incoming:
    return Incoming("mqtt", topic, payload, None)


@dataclass
class Clinic:
    """The town in a database, its worker's transaction, and questions about what was stored."""

    conninfo: str
    worker: Worker = field(init=False)

    async def open(self) -> Clinic:
        await town.found(self.conninfo, "gateway-password", FIELD_KEY)
        self.worker = Worker(self.conninfo, steps(Settings()))
        return self

    async def send(self, *payloads: bytes, topic: str = TOPIC) -> list[Any]:
        return await self.worker.process([incoming(payload, topic) for payload in payloads])

    async def idle(self) -> None:
        """A transaction without messages: intake and timers only."""
        await self.worker.process([])

    async def rows(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        async with await database.connect(self.conninfo) as connection:
            return await (await connection.execute(query.encode(), arguments)).fetchall()

    async def value(self, query: str, *arguments: Any) -> Any:
        found = await self.rows(query, *arguments)
        return next(iter(found[0].values())) if found else None

    async def run(self, query: str, *arguments: Any) -> None:
        async with await database.connect(self.conninfo) as connection:
            await connection.execute(query.encode(), arguments)
            await connection.commit()

    async def resident(self, device: str = CUFF) -> str:
        return str(await self.value("select resident from binding join device using (device_no) where device = %s", device))

    async def alert(self, family: str = "bp_danger") -> dict[str, Any] | None:
        found = await self.rows("select * from alert where family = %s order by alert desc limit 1", family)
        return found[0] if found else None

    async def submit(self, kind: str, body: dict[str, Any], subject: str | None = None, account: str = "tester") -> str:
        from ingest import intake

        async with await database.connect(self.conninfo) as connection:
            number = await intake.submit(connection, kind, body, account, subject)
            await connection.commit()
        await self.idle()
        return str(await self.value("select result from intake where id = %s", number))
