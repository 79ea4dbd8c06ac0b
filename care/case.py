"""What a case is: the work item in a doctor's queue, and the only ways people may move it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from vitals.alert import Severity, State, Why
from vitals.errors import Refused


class CaseState(StrEnum):
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLAIMED = "claimed"
    REFERRED = "referred"
    RESOLVED = "resolved"
    DISMISSED = "dismissed"


ENDED = (CaseState.RESOLVED, CaseState.DISMISSED)

# action → (from these states, to this one)
ACTIONS: dict[str, tuple[frozenset[CaseState], CaseState]] = {
    "acknowledge": (frozenset({CaseState.OPEN}), CaseState.ACKNOWLEDGED),
    "claim": (frozenset({CaseState.OPEN, CaseState.ACKNOWLEDGED, CaseState.CLAIMED}), CaseState.CLAIMED),
    "refer": (frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED}), CaseState.REFERRED),
    "resolve": (frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED, CaseState.REFERRED}), CaseState.RESOLVED),
    "dismiss": (frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED}), CaseState.DISMISSED),
}

# Within this time somebody must have seen a firing alert; a centre's proposal to sign off.
ACKNOWLEDGE_WITHIN = {
    Severity.P1: timedelta(minutes=15),
    Severity.P2: timedelta(hours=2),
    Severity.P3: timedelta(days=2),
    Severity.P4: timedelta(days=7),
}
PAGED = (Severity.P1, Severity.P2)  # what reaches out; P3 and P4 are found in the queue
PAGE_AGAIN_AFTER = timedelta(hours=2)
FOLLOW_UP = timedelta(days=14)


def next_state(action: str, state: CaseState) -> CaseState:
    """Where an action leads; raises Refused `wrong_state`."""
    allowed, target = ACTIONS[action]
    if state not in allowed:
        raise Refused("wrong_state", f"{action} is not possible from {state}")
    return target


@dataclass(frozen=True, slots=True)
class Page:
    """Whether a change of an alert must reach a person now. again: an already acknowledged case is unacknowledged."""

    now: bool
    again: bool = False


def page(
    state: State, why: Why, severity: Severity, case_state: CaseState | None, last_human_at: datetime | None, now: datetime
) -> Page:  # fmt: skip
    """Paging by the law: firing pages once; an appended danger value pages again two hours after the last human action.

    A pending alert is seen, not paged; unconfirmed and everything below P2 wait in the queue without a page.
    """
    if state is not State.FIRING or severity not in PAGED:
        return Page(False)
    if why is not Why.APPENDED:
        return Page(True, again=case_state is not None and case_state is not CaseState.OPEN)
    if case_state in (None, CaseState.OPEN):
        return Page(False)
    quiet = last_human_at is None or now - last_human_at >= PAGE_AGAIN_AFTER
    return Page(quiet, again=quiet)
