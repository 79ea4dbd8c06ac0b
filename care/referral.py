"""What a referral is (双向转诊): up to the hospital, and down again to the community. Pure.

    suggested ──accept──▶ accepted ──book──▶ booked ──see──▶ seen ──report──▶ outcome
        │ reject              │ reject          │ cancel                         │ suggest_down
        ▼                     ▼                 ▼                                ▼
    rejected              rejected          cancelled     community ◀─return── down_accepted ◀─accept_down── down_suggested

Every clock is a task with an owner: the hospital's answer (24 h urgent, 48 h otherwise), two weeks until the community looks again, the
community's answer to a down-referral. A doctor signs each step; no measurement alone moves one.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from vitals.errors import Refused


class Stage(StrEnum):
    SUGGESTED = "suggested"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    BOOKED = "booked"
    SEEN = "seen"
    OUTCOME = "outcome"
    DOWN_SUGGESTED = "down_suggested"
    DOWN_ACCEPTED = "down_accepted"
    COMMUNITY = "community"
    CANCELLED = "cancelled"


ENDED = (Stage.REJECTED, Stage.COMMUNITY, Stage.CANCELLED)
COMMUNITY, HOSPITAL = "community", "hospital"


class Step(NamedTuple):
    """Who may take it, from where, to where."""

    by: tuple[str, ...]
    before: frozenset[Stage]
    after: Stage


STEPS: dict[str, Step] = {
    "accept": Step((COMMUNITY,), frozenset({Stage.SUGGESTED}), Stage.ACCEPTED),
    "reject": Step((COMMUNITY, HOSPITAL), frozenset({Stage.SUGGESTED, Stage.ACCEPTED}), Stage.REJECTED),
    "book": Step((HOSPITAL,), frozenset({Stage.ACCEPTED, Stage.BOOKED}), Stage.BOOKED),
    "see": Step((HOSPITAL,), frozenset({Stage.ACCEPTED, Stage.BOOKED}), Stage.SEEN),
    "report": Step((HOSPITAL,), frozenset({Stage.SEEN}), Stage.OUTCOME),
    "suggest_down": Step((HOSPITAL,), frozenset({Stage.OUTCOME}), Stage.DOWN_SUGGESTED),
    "accept_down": Step((COMMUNITY,), frozenset({Stage.DOWN_SUGGESTED}), Stage.DOWN_ACCEPTED),
    "return": Step((COMMUNITY,), frozenset({Stage.DOWN_ACCEPTED}), Stage.COMMUNITY),
    "cancel": Step((COMMUNITY,), frozenset({Stage.SUGGESTED, Stage.ACCEPTED, Stage.BOOKED}), Stage.CANCELLED),
}
ANSWER = {"emergency": timedelta(hours=24), "routine": timedelta(hours=48)}
FOLLOW_UP = timedelta(days=14)
# a pack's action codes that suggest a referral, and how urgent it is
SUGGESTS = {"refer_emergency": "emergency", "refer_up": "routine", "treat_hypoglycaemia": "emergency"}

# what a hospital may aim at for one person, and the parameter of the rules it becomes
TARGETS = {
    "systolic": ("cn.nbphs3.htn", "goal_systolic"), "diastolic": ("cn.nbphs3.htn", "goal_diastolic"),
    "fasting_glucose": ("cn.nbphs3.dm", "goal_fasting"),
}  # fmt: skip


def next_stage(action: str, stage: Stage, side: str) -> Stage:
    """Where a step leads. Raises Refused `unknown_action`, `wrong_side`, `wrong_state`."""
    step = STEPS.get(action)
    if step is None:
        raise Refused("unknown_action")
    if side not in step.by:
        raise Refused("wrong_side", f"{action} is for the {' or '.join(step.by)}")
    if stage not in step.before:
        raise Refused("wrong_state", f"{action} is not possible from {stage}")
    # a hospital turns down what was sent to it, a doctor what was only suggested
    if action == "reject" and (stage is Stage.ACCEPTED) != (side == HOSPITAL):
        raise Refused("wrong_side", f"reject from {stage}")
    return step.after
