"""What the database holds, played through packs again, beside the alerts that are on record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import tuple_row

from rules.pack import Pack
from rules.replay import ITEMS, Replay, Row
from vitals.floor.database import Connection
from vitals.metric import BY_NUMBER


async def compare(connection: Connection, packs: Sequence[Pack], since: datetime, zone: str) -> dict[str, Any]:
    """Rule → how many episodes the packs would have raised since then, and how many are on record.

    Facts are those of today, and measurements come in the order in which they were measured: late data, facts recorded in between
    and people who closed a case make a difference. Deadlines fall due at the next measurement, so episodes are compared, not seconds.
    """
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute("select subject, fact, value from subject_fact")
    known: dict[str, dict[str, Any]] = {}
    for subject, fact, value in await cursor.fetchall():
        known.setdefault(subject, {})[fact] = value
    await cursor.execute(
        "select subject, measured_at, metrics, numbers, setting, coalesce(flags, '{}'), coalesce(weak, '{}'), coalesce(codes, '{}')"
        " from measurement where measured_at >= %s order by measured_at, measurement",
        (since,),
    )
    stored = await cursor.fetchall()
    subjects = {subject: number for number, subject in enumerate(sorted({row[0] for row in stored}))}
    replay = Replay(packs, [known.get(subject, {}) for subject in subjects], zone)
    raised = replay.feed(
        Row(subjects[subject], at, {BY_NUMBER[m].code: n for m, n in zip(metrics, numbers, strict=True)}, setting, flags, bool(weak), codes)
        for subject, at, metrics, numbers, setting, flags, weak, codes in stored
    )
    raised += replay.wait(datetime.now(UTC))
    await cursor.execute("select rule, count(*) from alert where opened_at >= %s and rule <> '' group by rule", (since,))
    recorded: dict[str, int] = dict(await cursor.fetchall())
    would: dict[str, int] = {}
    for one in raised:
        if one.move in ITEMS:
            would[one.rule] = would.get(one.rule, 0) + 1
    rules = sorted(would.keys() | recorded.keys())
    return {
        "measurements": len(stored),
        "people": len(subjects),
        "rules": {rule: {"items_replayed": would.get(rule, 0), "alerts_on_record": recorded.get(rule, 0)} for rule in rules},
    }
