"""What an alert is: one episode of one rule family for one subject, and the only ways it may move.

    pending ──confirming repeat, deadline or urgency──▶ firing ──clear, held long enough──▶ cleared
       │  ▲                                              │
       │  └──────────── a new danger value ──────────┐   │
       └──a valid repeat that does not confirm──▶ unconfirmed
    pending, firing, unconfirmed ──a person closes the case──▶ closed

`confirm` delays paging, never sight: a pending alert is in the queue at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class State(StrEnum):
    PENDING = "pending"
    FIRING = "firing"
    UNCONFIRMED = "unconfirmed"
    CLEARED = "cleared"
    CLOSED = "closed"


OPEN_STATES = (State.PENDING, State.FIRING, State.UNCONFIRMED)

# None is "no open alert": the start of an episode.
TRANSITIONS: dict[State | None, frozenset[State]] = {
    None: frozenset({State.PENDING, State.FIRING}),
    State.PENDING: frozenset({State.PENDING, State.FIRING, State.UNCONFIRMED, State.CLEARED, State.CLOSED}),
    State.FIRING: frozenset({State.FIRING, State.CLEARED, State.CLOSED}),
    State.UNCONFIRMED: frozenset({State.PENDING, State.FIRING, State.UNCONFIRMED, State.CLEARED, State.CLOSED}),
    State.CLEARED: frozenset(),
    State.CLOSED: frozenset(),
}

# The closed table of rule families; at most one open alert per (subject, family).
FAMILIES = frozenset(
    {
        "bp_danger", "bp_control", "glucose_low", "glucose_high", "hypoxia", "fever", "rhythm",
        "weight", "silence", "device", "missing_fact", "not_judged", "glucose_control", "ketone", "heart_rate", "early_warning", "trend",
    }
)  # fmt: skip


class Severity(StrEnum):
    """P1 critical … P4 information; compares as text, so `min` is the most severe."""

    P1 = "P1"
    P2 = "P2"
    P3 = "P3"
    P4 = "P4"


class Why(StrEnum):
    """Why an alert moved; stored with every change and shown to the doctor."""

    OPENED = "opened"
    CONFIRMED = "confirmed"
    DEADLINE = "deadline"
    UNVERIFIED = "unverified"
    URGENT = "urgent"
    AT_ONCE = "at_once"  # a rule that waits for no repeat
    WORSENED = "worsened"  # what fires already became urgent
    SILENT = "silent"  # nothing was measured for too long
    LATE = "late"
    REPEATED = "repeated"
    NOT_CONFIRMED = "not_confirmed"
    APPENDED = "appended"
    CLEARED = "cleared"
    CLOSED = "closed"
    RETRACTED = "retracted"  # what it was concluded from turned out to be somebody else's
    REEVALUATED = "reevaluated"  # looked at again without what was moved away


@dataclass(frozen=True, slots=True)
class Change:
    """One movement of one alert, as the rules conclude it and care acts on it.

    alert: row id, 0 until stored. measurement: the row that caused it, None for a tick or a person.
    explanation: {"zh", "en", "clause", …} rendered from the pack. deadline: when a pending alert fires by itself.
    """

    subject: str
    family: str
    rule: str
    state: State
    severity: Severity
    why: Why
    at: datetime
    alert: int = 0
    measurement: int | None = None
    deadline: datetime | None = None
    explanation: dict[str, Any] = field(default_factory=dict)


def may_move(current: State | None, new: State) -> bool:
    """Whether the transition table allows it."""
    return new in TRANSITIONS[current]
