"""What the person at the station is told: what was received, and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingest.batch import Stored
from vitals.alert import Change, State, Why
from vitals.metric import METRICS

_NEXT = {
    "rest_and_repeat": ("请静坐休息五分钟后再测一次", "Please sit and rest five minutes, then measure again"),
    "repeat_properly": ("请坐稳、袖带绑好后再测一次", "Please sit still, fasten the cuff and measure again"),
    "wash_and_repeat": ("请洗净并擦干双手后再测一次", "Please wash and dry your hands, then measure again"),
    "warm_and_repeat": ("请暖手、静坐两分钟后再测一次", "Please warm your hand, sit still for two minutes, then measure again"),
    "take_sugar": (
        "血糖低:请立即进食含糖食物,告诉工作人员,15分钟后再测;如意识不清请拨打120",
        "Low glucose: take sugar now, tell the staff, measure again in 15 minutes; call 120 if somebody becomes confused",
    ),
    "call_for_help": ("请立即告诉工作人员;如有不适请拨打120", "Tell the staff now; call 120 if you feel unwell"),
    "see_doctor": ("您的家庭医生会与您联系", "Your family doctor will contact you"),
    "done": ("测量完成", "Done"),
}

# families in which one measurement may be danger → what to do while a repeat is awaited
DANGER = {
    "bp_danger": "rest_and_repeat", "glucose_low": "wash_and_repeat", "glucose_high": "wash_and_repeat", "hypoxia": "warm_and_repeat",
    "heart_rate": "rest_and_repeat", "ketone": "call_for_help", "early_warning": "call_for_help", "not_judged": "call_for_help",
}  # fmt: skip
REVIEWED = frozenset({"fever", "weight", "rhythm", "glucose_control"})  # what a doctor looks at without haste


def advice(stored: Stored, changes: Sequence[Change], asking: Sequence[str]) -> dict[str, Any]:
    """One measurement at a check-in → what its screen shows.

    asking: danger symptoms to ask about, sent along only when the value is dangerous. deadline: until when a
    repeat is awaited.
    """
    danger = [c for c in changes if c.measurement == stored.number and c.family in DANGER and c.state is not State.CLEARED]
    pending = next((c for c in danger if c.state is State.PENDING), None)
    firing = [c for c in danger if c.state is State.FIRING]
    other = any(c.measurement == stored.number and c.state in (State.PENDING, State.FIRING) and c.family in REVIEWED for c in changes)
    if firing:
        step = "take_sugar" if all(c.family == "glucose_low" for c in firing) else "call_for_help"
    elif pending is not None:
        step = DANGER[pending.family]
    elif other or any(c.state is State.UNCONFIRMED for c in danger):
        step = "see_doctor"
    else:
        step = "repeat_properly" if any(reason.startswith("flag:") for reason in stored.weak) else "done"
    received = [
        {"metric": code, "value": value, "unit": METRICS[code].unit, "zh": METRICS[code].zh, "en": METRICS[code].en}
        for code, value in stored.measurement.values.items()
        if code in METRICS
    ]
    zh, en = _NEXT[step]
    deciding = firing[0] if firing else pending
    if deciding is not None and "tell" in deciding.explanation:  # in the pack's own words
        zh, en = deciding.explanation["tell"]["zh"], deciding.explanation["tell"]["en"]
    told: dict[str, Any] = {"measurement": stored.number, "received": received, "next": step, "zh": zh, "en": en}
    if pending is not None and pending.deadline is not None and pending.why is Why.OPENED:
        told["deadline"] = pending.deadline.isoformat()
    if any(c.family == "bp_danger" for c in danger):
        told["ask_symptoms"] = list(asking)
    return told
