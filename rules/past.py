"""What the database holds, played through packs again, beside the alerts that are on record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg.rows import tuple_row

from rules.pack import Pack
from rules.replay import ITEMS, Raised, Replay, Row
from vitals.floor.database import Connection
from vitals.metric import BY_NUMBER


class Record(NamedTuple):
    """What the database holds: people by number with their facts of today, and their measurements in order of measuring."""

    subjects: list[str]
    facts: list[dict[str, Any]]
    rows: list[Row]


async def record(connection: Connection, since: datetime) -> Record:
    """Everything measured since then, and everybody who measured it."""
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
    numbers = {subject: number for number, subject in enumerate(sorted({row[0] for row in stored}))}
    rows = [
        Row(numbers[subject], at, {BY_NUMBER[m].code: n for m, n in zip(metrics, values, strict=True)}, setting, flags, bool(weak), codes)
        for subject, at, metrics, values, setting, flags, weak, codes in stored
    ]
    return Record(list(numbers), [known.get(subject, {}) for subject in numbers], rows)


def play(packs: Sequence[Pack], past: Record, zone: str) -> list[Raised]:
    """What packs raise about it, up to now."""
    replay = Replay(packs, past.facts, zone)
    return replay.feed(past.rows) + replay.wait(datetime.now(UTC))


async def compare(connection: Connection, packs: Sequence[Pack], since: datetime, zone: str) -> dict[str, Any]:
    """Rule → how many episodes the packs would have raised since then, and how many are on record.

    Facts are those of today, and measurements come in the order in which they were measured: late data, facts recorded in between
    and people who closed a case make a difference. Deadlines fall due at the next measurement, so episodes are compared, not seconds.
    """
    past = await record(connection, since)
    raised = play(packs, past, zone)
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute("select rule, count(*) from alert where opened_at >= %s and rule <> '' group by rule", (since,))
    recorded: dict[str, int] = dict(await cursor.fetchall())
    would: dict[str, int] = {}
    for one in raised:
        if one.move in ITEMS:
            would[one.rule] = would.get(one.rule, 0) + 1
    rules = sorted(would.keys() | recorded.keys())
    return {
        "measurements": len(past.rows),
        "people": len(past.subjects),
        "rules": {rule: {"items_replayed": would.get(rule, 0), "alerts_on_record": recorded.get(rule, 0)} for rule in rules},
    }
