"""What a case is: the work item in a doctor's queue, and the only ways people may move it. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from vitals.alert import Change, Severity, State, Why
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
    "release": (frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED}), CaseState.OPEN),
    "hand_over": (frozenset({CaseState.OPEN, CaseState.ACKNOWLEDGED, CaseState.CLAIMED}), CaseState.OPEN),
    "refer": (frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED}), CaseState.REFERRED),
    "resolve": (frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED, CaseState.REFERRED}), CaseState.RESOLVED),
    "dismiss": (frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED}), CaseState.DISMISSED),
}

# what leaves a case where it is, and from where it may be done; a call shows that it was seen
BESIDE: dict[str, frozenset[CaseState]] = {
    "note": frozenset(CaseState) - {CaseState.RESOLVED, CaseState.DISMISSED},
    "call": frozenset({CaseState.OPEN, CaseState.ACKNOWLEDGED, CaseState.CLAIMED, CaseState.REFERRED}),
    "snooze": frozenset({CaseState.ACKNOWLEDGED, CaseState.CLAIMED, CaseState.REFERRED}),
}
CALLS = {
    "reached_well": ("接通,无不适", "reached, well"), "reached_measures": ("接通,将复测", "reached, will measure again"),
    "reached_comes": ("接通,同意就诊", "reached, comes to see us"), "reached_refuses": ("接通,拒绝", "reached, refuses"),
    "emergency": ("已呼叫120", "ambulance called"), "no_answer": ("未接", "no answer"), "wrong_number": ("号码错误", "wrong number"),
    "moved": ("已迁出", "moved away"), "deceased": ("已去世", "deceased"),
}  # fmt: skip
LONGEST_SNOOZE = timedelta(days=14)

PAGED = (Severity.P1, Severity.P2)  # what reaches out; P3 and P4 are found in the queue
PAGE_AGAIN_AFTER = timedelta(hours=2)


def next_state(action: str, state: CaseState) -> CaseState:
    """Where an action leads; raises Refused `wrong_state`."""
    allowed, target = ACTIONS[action] if action in ACTIONS else (BESIDE[action], state)
    if state not in allowed:
        raise Refused("wrong_state", f"{action} is not possible from {state}")
    return CaseState.ACKNOWLEDGED if action == "call" and state is CaseState.OPEN else target


def calls(change: Change, state: CaseState, called: Severity | None, last_human_at: datetime | None, now: datetime) -> bool:
    """Whether somebody must be called because an alert moved. called: the severity that the present ladder is for.

    A pending alert is seen, not called about. A case nobody has seen calls again only when it became worse: what else is found out about
    this person is in the same case. A case somebody has is called about anew when what may not wait fires; an appended danger value does
    so two hours after the last human action.
    """
    if change.state not in (State.FIRING, State.UNCONFIRMED):
        return False
    if state is CaseState.OPEN:
        return called is None or change.severity < called
    if change.severity not in PAGED or change.state is not State.FIRING:
        return False
    if change.why is Why.APPENDED:
        return last_human_at is None or now - last_human_at >= PAGE_AGAIN_AFTER
    return True
