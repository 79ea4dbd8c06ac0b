"""What the engine remembers of each (subject, rule), what can happen to it, and what that does. Times are integers, µs since the epoch.

State is a structured array, one row per subject; `rules.states` is its table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from rules.form import Rule, duration

STATE = np.dtype(
    [
        ("phase", "u1"),
        ("clears", "u1"),  # sessions that met the clear condition; of an open visit, what it says so far
        ("count", "u2"),  # consecutive visits
        ("weak", "?"),  # everything so far came from weak sources
        ("urgent", "?"),  # this episode was urgent already
        ("first", "i8"),  # measured_at of the value that waits for its repeat
        ("last", "i8"),  # measured_at of the latest hit
        ("deadline", "i8"),  # database clock; 0 = none
        ("last_clear", "i8"),
    ]
)
_BUSY = np.dtype({"names": ["busy"], "formats": ["u4"], "offsets": [0], "itemsize": STATE.itemsize})  # phase, clears and count at once
SESSION_GAP = 600_000_000  # readings within ten minutes are one session


class Phase(IntEnum):
    NORMAL = 0
    PENDING = 1
    FIRING = 2
    UNCONFIRMED = 3


class Kind(IntEnum):
    """What an event is: a measurement, a due timer, a reported danger symptom, a person ending the episode, a plan."""

    MEASUREMENT = 0
    TICK = 1
    URGENT = 2
    END = 3
    PLAN = 4  # what is expected of the person was recorded anew; nothing to any other rule


class Move(IntEnum):
    """What an event did; 0 is nothing."""

    NONE = 0
    OPENED = 1
    CONFIRMED = 2
    DEADLINE = 3
    UNVERIFIED = 4
    URGENT = 5
    LATE = 6
    REPEATED = 7
    NOT_CONFIRMED = 8
    APPENDED = 9
    CLEARED = 10
    CLOSED = 11
    AT_ONCE = 12
    WORSENED = 13
    SILENT = 14


# hit, clear: 1 true, 0 unknown or not applicable, -1 false. valid: not a weak source. late: too old to page normally.
EVENT = np.dtype(
    [
        ("kind", "u1"),
        ("hit", "i1"),
        ("clear", "i1"),
        ("valid", "?"),
        ("urgent", "?"),
        ("late", "?"),
        ("inhibited", "?"),
        ("at", "i8"),  # measured_at; of a timer of an absence rule that of the latest measurement; else stored_at
        ("now", "i8"),  # stored_at, the database's clock
        ("every", "i8"),  # µs within which this person is to measure; 0: nothing is expected
    ]
)

Array = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Timing:
    """A rule's durations in µs and its counts. within 0: no repeat is waited for. misses: of an absence rule, (fires, worsens).

    session: how long after its last reading a visit is over; what it then says counts. 0: every reading is a visit.
    """

    within: int = 0
    apart: int = 0
    keep_firing: int = 0
    sessions: int = 1
    visits: int = 0
    misses: tuple[int, int] | None = None
    session: int = 0

    @classmethod
    def of(cls, rule: Rule) -> Timing:
        def micro(text: str) -> int:
            return int(duration(text).total_seconds()) * 1_000_000

        if rule.absence is not None:
            return cls(misses=(rule.absence.misses, rule.absence.urgent_misses))
        if rule.consecutive is not None:
            visit = rule.consecutive
            return cls(apart=micro(visit.apart), visits=visit.count, session=micro(visit.session))
        assert rule.clear is not None
        if rule.confirm is None:
            return cls(keep_firing=micro(rule.keep_firing), sessions=rule.clear.sessions)
        return cls(micro(rule.confirm.within), micro(rule.confirm.apart), micro(rule.keep_firing), rule.clear.sessions)


def busy(state: Array, at: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.bool_]:
    """Who is in a state of a rule: anything of an episode, a count or an open visit."""
    found: NDArray[np.bool_] = state.view(_BUSY)["busy"][at] != 0
    return found
