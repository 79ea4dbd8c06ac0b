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
    "call_for_help": ("请立即告诉工作人员;如有不适请拨打120", "Tell the staff now; call 120 if you feel unwell"),
    "see_doctor": ("您的家庭医生会与您联系", "Your family doctor will contact you"),
    "done": ("测量完成", "Done"),
}


def advice(stored: Stored, changes: Sequence[Change], asking: Sequence[str]) -> dict[str, Any]:
    """One measurement at a check-in → what its screen shows.

    asking: danger symptoms to ask about, sent along only when the value is dangerous. deadline: until when a
    repeat is awaited.
    """
    danger = [c for c in changes if c.measurement == stored.number and c.family == "bp_danger" and c.state is not State.CLEARED]
    pending = next((c for c in danger if c.state is State.PENDING), None)
    if any(c.state is State.FIRING for c in danger):
        step = "call_for_help"
    elif pending is not None:
        step = "rest_and_repeat"
    elif any(c.state is State.UNCONFIRMED for c in danger):
        step = "see_doctor"
    else:
        step = "repeat_properly" if any(reason.startswith("flag:") for reason in stored.weak) else "done"
    received = [
        {"metric": code, "value": value, "unit": METRICS[code].unit, "zh": METRICS[code].zh, "en": METRICS[code].en}
        for code, value in stored.measurement.values.items()
        if code in METRICS
    ]
    zh, en = _NEXT[step]
    told: dict[str, Any] = {"measurement": stored.number, "received": received, "next": step, "zh": zh, "en": en}
    if pending is not None and pending.deadline is not None and pending.why is Why.OPENED:
        told["deadline"] = pending.deadline.isoformat()
    if danger:
        told["ask_symptoms"] = list(asking)
    return told
