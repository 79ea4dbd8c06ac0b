"""`yizhan quarantine list · show · replay` and `yizhan reconcile`, for whoever holds the database's credential."""

from __future__ import annotations

import asyncio
import getpass
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from ingest import intake, lives, quarantine
from vitals.errors import BadInput, ConfigError
from vitals.floor import database
from vitals.settings import load

PATIENCE = 30.0  # s for the worker to apply a replay


def address(data: Path | None) -> str:
    """The database of a `yizhan up` that keeps its data there, or the one that the settings name."""
    if data is None:
        return load().database()
    path = data / "secrets" / "database_url"
    if not path.exists():
        raise ConfigError([f"{data}: no `yizhan up` keeps its data here"])
    return path.read_text().strip()


def account() -> str:
    return f"cli:{getpass.getuser()}"


async def listing(conninfo: str, reason: str | None, limit: int) -> dict[str, Any]:
    """Counts by reason, and the latest without their bytes."""
    async with await database.connect(conninfo) as connection:
        return {"waiting": await quarantine.counts(connection), "items": await quarantine.listing(connection, limit, reason)}


async def show(conninfo: str, number: int) -> dict[str, Any]:
    """One with its bytes, as hex and, where it is text, as text. Raises BadInput `unknown_item`."""
    async with await database.connect(conninfo) as connection:
        row = await quarantine.show(connection, number, account())
        await connection.commit()
    if row is None:
        raise BadInput("unknown_item", str(number))
    payload = bytes(row.pop("payload"))
    row.pop("digest")
    return row | {"hex": payload.hex(), "text": payload.decode("utf-8", "replace")}


async def replay(conninfo: str, numbers: list[int], reason: str | None) -> dict[int, str]:
    """Ask the worker to read these again (all that wait for this reason, if no number is given): number → what became of it.

    A replay of what was stored by an earlier one changes nothing. Without a running worker the outcome is `waiting`.
    """
    async with await database.connect(conninfo) as connection:
        chosen = numbers or await quarantine.waiting(connection, reason)
        ids = {await intake.submit(connection, "replay", {"quarantine": number}, account()): number for number in chosen}
        await quarantine.note_access(connection, chosen, account(), "replay")
        await connection.commit()
        end = time.monotonic() + PATIENCE
        while True:
            cursor = await connection.execute("select id, result from intake where id = any(%s)", (list(ids),))
            found = {ids[row["id"]]: row["result"] for row in await cursor.fetchall()}
            await connection.commit()
            if all(found.values()) or time.monotonic() > end:
                return {number: "stored" if result == "applied" else result or "waiting" for number, result in sorted(found.items())}
            await asyncio.sleep(0.1)


async def books(conninfo: str, minutes: float) -> dict[str, Any]:
    """Days that agree (a count), days that differ, sequences with holes that nothing explains."""
    patience = timedelta(minutes=minutes)
    async with await database.connect(conninfo) as connection:
        differ = [one._asdict() for one in await lives.reconcile(connection, patience)]
        holes = [{"gateway": name, "boot": boot, "missing": missing} for name, boot, missing in await lives.holes(connection, patience)]
        row = await (await connection.execute("select count(*) as n from day_report where agreed_at is not null")).fetchone()
    return {"agreed": row["n"] if row is not None else 0, "differ": differ, "holes": holes}


async def figures(conninfo: str, day: str | None, publish: bool) -> dict[str, Any]:
    """A quarter's figures as the record has them now; publish: write down what changed. Raises ConfigError for what is no day."""
    from care import indicators
    from care.indicator import quarter_of

    try:
        first = quarter_of(date.fromisoformat(day)) if day else quarter_of(quarter_of(datetime.now(UTC).date()) - timedelta(days=1))
    except ValueError:
        raise ConfigError([f"indicators: {day} is no day such as 2026-07-01"]) from None
    of = indicators.quarter(first, load().zone)
    async with await database.connect(conninfo) as connection:
        made = await indicators.publish(connection, of, datetime.now(UTC)) if publish else 0
        found = await indicators.computed(connection, of)
        heaps = await indicators.heaps(connection, of.begin, of.end)
        await connection.commit()
    named = [{name: value for name, value in one._asdict().items() if name not in ("members", "digest")} for one in found]
    return {"quarter": first, "published": made, "figures": named, "heaping": {device: one._asdict() for device, one in heaps.items()}}
