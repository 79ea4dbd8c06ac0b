"""Break-glass: a doctor looks at somebody who is not theirs, for a reason, for an hour; somebody else looks at that afterwards."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from vitals.errors import Refused
from vitals.floor.database import Connection

OPEN = timedelta(hours=1)
REVIEW = timedelta(hours=24)  # until an unreviewed one is told by `yizhan check`


async def break_(connection: Connection, account: str, resident: str, why: str, now: datetime) -> datetime:
    """Open somebody's record; returns until when."""
    await connection.execute(
        "insert into break_glass (account, resident, why, at, until) values (%s, %s, %s, %s, %s)", (account, resident, why, now, now + OPEN)
    )
    return now + OPEN


async def broken(connection: Connection, account: str, resident: str) -> bool:
    cursor = await connection.execute(
        "select 1 from break_glass where account = %s and resident = %s and until > now()", (account, resident)
    )
    return await cursor.fetchone() is not None


async def unreviewed(connection: Connection) -> list[dict[str, Any]]:
    """What waits for a second pair of eyes, oldest first."""
    cursor = await connection.execute("select * from break_glass where reviewed_at is null order by at limit 500")
    return await cursor.fetchall()


async def review(connection: Connection, number: int, verdict: str, by: str, now: datetime) -> None:
    """Raises Refused `unknown_break_glass`, `own_break_glass`."""
    cursor = await connection.execute(
        "select account from break_glass where break_glass = %s and reviewed_at is null for update", (number,)
    )
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_break_glass")
    if row["account"] == by:
        raise Refused("own_break_glass")
    await connection.execute(
        "update break_glass set reviewed_at = %s, reviewed_by = %s, verdict = %s where break_glass = %s", (now, by, verdict, number)
    )
