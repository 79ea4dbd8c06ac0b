"""Packs in shadow: evaluated on everything that comes, with a state of their own; what they conclude is kept and counted, nobody is paged.

They may fail without harm: what they did in a transaction is undone to a savepoint, the failure is logged and counted, and the
measurements and alerts of the transaction stand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg

from ingest.batch import Batch
from rules import states
from rules.pack import Pack
from rules.service import Rules
from vitals.alert import Change
from vitals.floor import metrics
from vitals.floor.database import Connection

log = logging.getLogger("rules.shadow")


class Shadow(Rules):
    """New versions of packs beside those in force; `step` runs after theirs."""

    def __init__(self, packs: Sequence[Pack], zone: str) -> None:
        super().__init__(packs, zone)
        self._rules = [
            replace(compiled, rule=msgspec.structs.replace(compiled.rule, id=f"shadow:{compiled.pack.digest[:8]}:{compiled.rule.id}"))
            for compiled in self._rules
        ]

    async def step(self, connection: Connection, batch: Batch, now: datetime) -> datetime | None:
        """Evaluate the batch; raises only what the database itself raises."""
        batch.undo.append(self.forget)
        try:
            async with connection.transaction():
                await self._known.look(connection)
                await self.evaluate(connection, batch, now)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except Exception:
            log.exception("packs in shadow failed")
            self.forget()  # the savepoint took back what it had written
            metrics.shadow_failed.inc()
        return await states.next_due(connection, batch.mine)

    async def carry_out(self, connection: Connection, batch: Batch, concluded: Sequence[Change]) -> None:
        """Keep and count what would have been raised."""
        del batch  # nothing of it reaches care
        for change in concluded:
            rule = change.rule.rpartition(":")[2]
            told = change.explanation
            await connection.execute(
                "insert into shadow_item (at, subject, rule, pack, pack_digest, state, severity, why, measurement)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    change.at, change.subject, rule, told.get("pack", ""), told.get("pack_digest", ""), change.state, change.severity,
                    change.why, change.measurement,
                ),
            )  # fmt: skip
            metrics.shadow_items.labels(rule, change.severity.value).inc()

    async def _settle_missing_facts(self, *_: Any) -> None:
        """Items about missing facts are those of the packs in force."""


async def told(connection: Connection, now: datetime, days: int) -> dict[str, Any]:
    """pack@version and digest → rule → what it would have raised in so many days, beside the alerts of the rule in force."""
    since = now - timedelta(days=days)
    cursor = await connection.execute(
        "select pack, pack_digest, rule, severity, count(*) as n from shadow_item"
        " where at >= %s and state <> 'cleared' and why <> 'appended' group by 1, 2, 3, 4 order by 1, 2, 3, 4",
        (since,),
    )
    found: dict[str, Any] = {}
    for row in await cursor.fetchall():
        of_pack = found.setdefault(f"{row['pack']} {row['pack_digest'][:8]}", {})
        of_pack.setdefault(row["rule"], {"in_shadow": {}})["in_shadow"][row["severity"]] = row["n"]
    cursor = await connection.execute("select rule, count(*) as n from alert where opened_at >= %s group by rule", (since,))
    in_force = {row["rule"]: row["n"] for row in await cursor.fetchall()}
    for of_pack in found.values():
        for rule, one in of_pack.items():
            one["alerts_in_force"] = in_force.get(rule, 0)
    return {"days": days, "packs": found}
