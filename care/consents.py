"""All SQL about consent: per purpose, taken back as easily as given, and in force with the next question asked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vitals.floor.database import Connection

PURPOSES = {  # what stops when it is taken back; what is needed to look after somebody at all is not asked for here
    "hospital": ("向转诊医院提供健康档案", "show my record to the hospital I am referred to"),
    "guardian": ("监护人查看我的数据", "let my guardians see my data"),
    "notify": ("危急值时通知我本人", "tell me when a value is dangerous"),
}


async def record(connection: Connection, resident: str, purpose: str, given: bool, now: datetime, by: str, channel: str) -> None:
    """Somebody's word on a purpose, from now on; the record notes it by itself."""
    await connection.execute(
        "insert into consent (resident, purpose, given, at, by, channel) values (%s, %s, %s, %s, %s, %s)",
        (resident, purpose, given, now, by, channel),
    )


async def of_resident(connection: Connection, resident: str) -> list[dict[str, Any]]:
    """The newest word on each purpose; one that was never asked for has `at` None."""
    cursor = await connection.execute(
        "select distinct on (purpose) purpose, given, at, by, channel from consent where resident = %s order by purpose, consent desc",
        (resident,),
    )
    said = {row["purpose"]: row for row in await cursor.fetchall()}
    silent = {"given": True, "at": None, "by": None, "channel": None}
    return [said.get(purpose, {"purpose": purpose, **silent}) for purpose in PURPOSES]


async def holds(connection: Connection, resident: str, purpose: str) -> bool:
    """Whether a purpose may be served now."""
    row = await (await connection.execute("select consents(%s, %s) as yes", (resident, purpose))).fetchone()
    return row is not None and bool(row["yes"])
