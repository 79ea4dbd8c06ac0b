"""What a task is: who must do what until when about whom; and when care's plans ask for the next one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import NamedTuple

KINDS = {
    "referral_answer": ("医院答复转诊", "hospital answers a referral"),
    "referral_follow_up": ("转诊后两周随访", "two-week follow-up of a referral"),
    "down_answer": ("答复下转", "answer a down-referral"),
    "follow_up": ("慢病随访", "follow-up visit"),
    "contact": ("季度联系", "quarterly contact"),
    "home_check": ("上门查看", "home check"),
    "report": ("哨兵上报", "a sentinel's report"),
    "renewal": ("续签合同", "contract renewal"),
}
OUTCOMES = {
    "done": ("已完成", "done"), "visited": ("已面访", "seen"), "called": ("已电话联系", "called"),
    "not_reached": ("未联系上", "not reached"), "refused": ("拒绝", "refused"), "moved": ("已迁出", "moved away"),
    "deceased": ("已去世", "deceased"), "hospital": ("住院", "in hospital"), "renewed": ("已续签", "renewed"),
    "not_needed": ("无需处理", "not needed"),
}  # fmt: skip
AGAIN = frozenset({"not_reached"})  # outcomes that end nothing: somebody tries again
TRY_AGAIN = timedelta(days=2)
MOST_TRIES = 3  # then the grid's sentinel looks in

# national specification: at least four face-to-face follow-ups a year; two weeks after danger, a change, or a second uncontrolled visit
USUAL, SOON = timedelta(days=90), timedelta(days=14)
FOLLOWED = ("hypertension", "diabetes")
CONTACT = timedelta(days=91)
BEFORE_EXPIRY = timedelta(days=30)


class Due(NamedTuple):
    """A task that a plan asks for. key: what makes it the same task however often it is asked for."""

    key: str
    kind: str
    due_on: date
    reason: str


def groups(age: int | None, facts: Mapping[str, object]) -> frozenset[str]:
    """The specialised groups (重点人群) somebody belongs to; they select packs and schedules. Unknown is not a group."""
    found = {name for name in ("hypertension", "diabetes", "chronic_lung_disease", "heart_failure", "pregnant") if facts.get(name) is True}
    if age is not None:
        found |= {"65+"} if age >= 65 else {"0-6"} if age <= 6 else set()
    return frozenset(found)


def plan(
    resident: str, of: frozenset[str], signed_since: date | None, last_visit: date | None, last_contact: date | None, uncontrolled: bool,
    today: date,
) -> list[Due]:  # fmt: skip
    """What is due for one signed resident: a visit for each chronic condition, a contact in each quarter.

    Counted from the last visit, from signing where there was none; what fell due in the past is due today, once.
    """
    found: list[Due] = []
    if signed_since is None:
        return found
    for condition in FOLLOWED:
        if condition in of:
            wait = SOON if uncontrolled else USUAL
            due = max((last_visit or signed_since) + wait, today)
            since = (last_visit or signed_since).isoformat()
            found.append(Due(f"follow_up:{resident}:{condition}:{since}", "follow_up", due, condition))
    if not found:
        since_contact = max(one for one in (last_contact, last_visit, signed_since) if one is not None)
        found.append(Due(f"contact:{resident}:{since_contact}", "contact", max(since_contact + CONTACT, today), "quarter"))
    return found
