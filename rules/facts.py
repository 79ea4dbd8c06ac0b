"""What is known about a person, as columns for the engine. Unknown is NaN, never "no"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from psycopg.types.json import Jsonb

from rules import in_force
from rules.form import FACTS, PLANS
from vitals.errors import BadInput
from vitals.floor.database import Connection

CONDITIONS = ("hypertension", "diabetes", "chronic_lung_disease", "heart_failure")
RECORDED = ("birth_date", "sex", "centre", "pregnant", "lactating", *CONDITIONS, *PLANS)
PAST_CHILDBEARING = 60  # years; from here on "not pregnant" is derived when nothing is recorded

Facts = Mapping[str, Any]


def age_years(birth_date: str, on: date) -> int:
    """Whole years on a day."""
    born = date.fromisoformat(birth_date)
    return on.year - born.year - ((on.month, on.day) < (born.month, born.day))


def columns(facts: Facts, at: datetime, zone: ZoneInfo) -> dict[str, float]:
    """One person's facts at the time of measuring, NaN where unknown; derived facts only where nothing is recorded."""
    unknown = float("nan")
    age = float(age_years(facts["birth_date"], at.astimezone(zone).date())) if facts.get("birth_date") else unknown
    found = {"age_years": age}
    for name in ("pregnant", "lactating", *CONDITIONS, *PLANS):
        value = facts.get(name)
        found[name] = unknown if value is None else float(value)
    cannot = facts.get("sex") == "male" or age >= PAST_CHILDBEARING or age < 10
    for name in ("pregnant", "lactating"):
        if found[name] != found[name] and cannot:
            found[name] = 0.0
    assert set(found) == set(FACTS)
    return found


async def read(connection: Connection, subjects: Iterable[str]) -> dict[str, dict[str, Any]]:
    """subject → fact → value."""
    found: dict[str, dict[str, Any]] = {}
    cursor = await connection.execute("select subject, fact, value from subject_fact where subject = any(%s)", (list(subjects),))
    for row in await cursor.fetchall():
        found.setdefault(row["subject"], {})[row["fact"]] = row["value"]
    return found


class People:
    """What is known about people, and what follows from it on a day: both remembered."""

    QUARTER = 900  # s; every zone's midnight falls on a quarter of an hour, so the local day is one within it
    _NOTHING = (float("nan"),) * len(FACTS)

    def __init__(self) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self.own: in_force.Own = {}
        self._columns: dict[tuple[str, int], tuple[float, ...]] = {}

    def at(self, resident: str | None, moment: datetime, zone: ZoneInfo) -> tuple[float, ...]:
        """One person's facts in the order of FACTS; NaN where unknown, and for nobody."""
        if resident is None:
            return self._NOTHING
        key = resident, int(moment.timestamp()) // self.QUARTER
        found = self._columns.get(key)
        if found is None:
            if len(self._columns) >= Known.MOST:
                self._columns.clear()
            person = columns(self.facts.get(resident, {}), moment, zone)
            found = self._columns[key] = tuple(person[name] for name in FACTS)
        return found

    def numbers(self, resident: str | None, pack: str) -> dict[str, float]:
        """The parameters of a pack that were set for everybody, for this person's centre, or for this person; the nearest holds."""
        found: dict[str, float] = {}
        centre = self.facts.get(resident or "", {}).get("centre", "")
        for key in (("centre", in_force.EVERYWHERE), ("centre", str(centre)), ("resident", resident or "")):
            found |= {name: value for (of, name), value in self.own.get(key, {}).items() if of == pack}
        return found


class Known:
    """Facts about people as a worker remembers them: what the database says, asked for again when any of them changed."""

    MOST = 100_000  # people

    def __init__(self) -> None:
        self._version = -1
        self._people = People()
        self.packs = 0

    def forget(self) -> None:
        """After a transaction that did not commit: what was read in it may not be true."""
        self._version = -1

    async def look(self, connection: Connection) -> None:
        """Once in a transaction, before anything is asked: forget what changed, and see which packs are in force."""
        row = await (await connection.execute("select version, packs from fact_version")).fetchone()
        assert row is not None
        self.packs = row["packs"]
        if row["version"] != self._version or len(self._people.facts) > self.MOST:
            self._version = row["version"]
            self._people = People()
            self._people.own = await in_force.of_centres(connection)

    async def of(self, connection: Connection, subjects: Sequence[str]) -> People:
        """The facts of these people; may hold others too."""
        unknown = [subject for subject in subjects if subject not in self._people.facts]
        if unknown:
            self._people.facts |= {subject: {} for subject in unknown} | await read(connection, unknown)
            self._people.own |= await in_force.parameters(connection, unknown)
        return self._people


async def record(connection: Connection, subject: str, facts: Mapping[str, Any], by: str, now: datetime) -> None:
    """Write facts; None withdraws one. Raises BadInput `unknown_fact`, `bad_fact`."""
    for fact, value in facts.items():
        if fact not in RECORDED:
            raise BadInput("unknown_fact", fact)
        if value is None:
            await connection.execute("delete from subject_fact where subject = %s and fact = %s", (subject, fact))
            continue
        if fact == "birth_date":
            try:
                date.fromisoformat(value)
            except (ValueError, TypeError):
                raise BadInput("bad_fact", fact) from None
        elif fact == "sex":
            if value not in ("male", "female"):
                raise BadInput("bad_fact", fact)
        elif fact == "centre":
            if not isinstance(value, str) or not 0 < len(value) <= 64:
                raise BadInput("bad_fact", fact)
        elif fact in PLANS:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 366:
                raise BadInput("bad_fact", fact)
        elif not isinstance(value, bool):
            raise BadInput("bad_fact", fact)
        await connection.execute(
            "insert into subject_fact (subject, fact, value, recorded_at, recorded_by) values (%s, %s, %s, %s, %s)"
            " on conflict (subject, fact) do update"
            " set value = excluded.value, recorded_at = excluded.recorded_at, recorded_by = excluded.recorded_by",
            (subject, fact, Jsonb(value), now, by),
        )
