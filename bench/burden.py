"""What packs cost and find in a synthetic town: items for 100 residents and week, sensitivity for each kind of event, false alerts.

An event is *shown* when somebody measured during it what the rule calls danger; such an event must be found. It may also pass unmeasured,
which no rule can mend; sensitivity counts those too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from bench import town
from rules import replay
from rules.pack import Pack
from rules.replay import FIRES, ITEMS, Raised, Replay, Row, per_hundred_a_week
from rules.state import Move
from vitals.floor.columns import micros

DOCTOR, NURSE = ("P1", "P2", "P3"), ("P4",)
GRACE = timedelta(hours=36)  # an alert this long after an event still belongs to it
DOCTORS = 1500  # residents of one doctor
_SHOWN = {
    "crisis": lambda v: v.get("systolic", 0) >= 180 or v.get("diastolic", 0) >= 110, "low glucose": lambda v: v.get("glucose", 99) <= 3.9,
    "illness": lambda v: v.get("temperature", 0) >= 39.1 or v.get("spo2", 99) < 88,
}  # fmt: skip


def play(packs: Sequence[Pack], residents: int, days: int, seed: int = 1) -> tuple[list[Raised], list[town.Event], set[town.Event], int]:
    """(what was raised, what happened, what of it was shown to a device, how many measurements)."""
    people = [town.resident(seed, number, days) for number in range(residents)]
    happened = [event for number, one in enumerate(people) for event in town.events(number, one)]
    open_events: dict[int, list[town.Event]] = {}
    for event in happened:
        open_events.setdefault(event.subject, []).append(event)
    shown: set[town.Event] = set()
    count = 0

    def watched() -> Any:
        nonlocal count
        for row in town.rows_of(seed, people, days):
            count += 1
            _notice(row, open_events.get(row.subject, []), shown)
            yield row

    played = Replay(packs, [one.facts() for one in people])
    raised = played.feed(watched())
    raised += played.wait(town.START + timedelta(days=days + 3))
    return raised, happened, shown, count


def _notice(row: Row, events: Sequence[town.Event], shown: set[town.Event]) -> None:
    for event in events:
        if event.what in _SHOWN and not row.weak and event.start <= row.at <= event.end and _SHOWN[event.what](row.values):
            shown.add(event)


def figures(packs: Sequence[Pack], residents: int, days: int, seed: int = 1) -> dict[str, Any]:
    """The burden of packs on a town, as JSON."""
    began = time.monotonic()
    raised, happened, shown, measurements = play(packs, residents, days, seed)
    fired = [one for one in raised if one.move in FIRES]
    seen: set[town.Event] = set()
    noticed: dict[int, list[Raised]] = {}
    for one in raised:
        if one.move in ITEMS or one.move is Move.APPENDED:
            noticed.setdefault(one.subject, []).append(one)
    by_person: dict[int, list[Raised]] = {}
    for one in fired:
        by_person.setdefault(one.subject, []).append(one)
    found: set[town.Event] = set()
    true: set[Raised] = set()
    for event in happened:
        if any(one.family in event.families and _belongs(one, event) for one in noticed.get(event.subject, [])):
            seen.add(event)
        for one in by_person.get(event.subject, []):
            if one.family in event.families and _belongs(one, event):
                found.add(event)
                true.add(one)
    kinds = sorted({event.what for event in happened})
    items = per_hundred_a_week(raised, residents, timedelta(days=days))
    return {
        "residents": residents, "days": days, "seed": seed, "measurements": measurements, "packs": [one.name for one in packs if one.rules],
        "events": {
            kind: {
                "happened": sum(event.what == kind for event in happened),
                "shown": sum(event.what == kind for event in shown) if kind in _SHOWN else None,
                "found": sum(event.what == kind for event in found),
                # fired, left to a person with both readings, or joined to an alert that was open already
                "seen": sum(event.what == kind for event in seen),
                "missed_though_shown": sum(event.what == kind for event in shown - seen),
            }
            for kind in kinds
        },
        "items_per_100_residents_and_week": items,
        "doctor_items": round(sum(items.get(severity, 0) for severity in DOCTOR), 3),
        "nurse_items": round(sum(items.get(severity, 0) for severity in NURSE), 3),
        "false_alerts_per_resident_year": round((len(fired) - len(true)) / residents / (days / 365), 4),
        "by_family": _by_family(raised, residents, days),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _belongs(one: Raised, event: town.Event) -> bool:
    return micros(event.start) <= one.at <= micros(event.end + GRACE)


def _by_family(raised: Sequence[Raised], residents: int, days: int) -> dict[str, dict[str, float]]:
    families = sorted({one.family for one in raised})
    return {
        family: per_hundred_a_week([one for one in raised if one.family == family], residents, timedelta(days=days)) for family in families
    }


def difference(old: Sequence[Pack], new: Sequence[Pack], residents: int, days: int, seed: int = 1) -> dict[str, Any]:
    """What the new packs gain and lose against the old ones in the synthetic town, whose doctors have 1,500 residents each."""
    before, after = (play(packs, residents, days, seed)[0] for packs in (old, new))
    doctors = [f"doctor-{number // DOCTORS}" for number in range(residents)]
    return replay.difference(before, after, doctors, timedelta(days=days))
