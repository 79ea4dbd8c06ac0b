"""What an indicator is: members, some of whom count; shares with their proof. Pure.

Definitions follow the national basic public health services specification (third edition) and the family-doctor contract's assessment:
who is managed counts in the denominator whether or not anybody saw them, and who was lost to follow-up counts as not controlled.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import NamedTuple

import msgspec
from scipy.stats import chisquare

GRID, TEAM, CENTRE, DISTRICT = "grid", "team", "centre", "district"
NAMES = {  # code: (zh, en), then what counts (zh, en)
    "htn_managed": (
        ("高血压规范管理率", "hypertension managed to specification"),
        ("一年四次随访,或每季度一次", "four follow-ups a year, or one a quarter"),
    ),
    "htn_controlled": (
        ("高血压控制率", "hypertension controlled"),
        ("本季末次达标;未测算未达标", "the last value at goal; none: not at goal"),
    ),
    "dm_managed": (
        ("糖尿病规范管理率", "diabetes managed to specification"),
        ("同高血压", "as hypertension"),
    ),
    "dm_controlled": (
        ("糖尿病控制率", "diabetes controlled"),
        ("末次空腹血糖低于 7.0;未测算未达标", "last fasting value below 7.0; none: not at goal"),
    ),
    "signed": (
        ("签约覆盖率", "contract coverage"),
        ("季末有合同的居民", "a contract on the last day"),
    ),
    "recorded": (
        ("建档率", "records made"),
        ("档案完整者占常住人口", "complete records, of those who live there"),
    ),
    "updated": (
        ("档案动态更新率", "records alive"),
        ("一年内有更新或测量", "moved, or the person measured, within a year"),
    ),
    "seen": (
        ("转诊就诊率", "referred persons seen"),
        ("本季接受的转诊中已就诊", "accepted in the quarter: the hospital saw them"),
    ),
    "closed": (
        ("转诊闭环率", "referral closure"),
        ("本季接受的转诊中已回社区", "accepted in the quarter: back in the community"),
    ),
    "down_lag": (
        ("下转及时率", "down-referral in time"),
        ("出结论到社区接收,14 天内;中位天数", "outcome to here within 14 days; median in days"),
    ),
    "attributed": (
        ("驿站测量归属率", "station readings attributed"),
        ("驿站设备的测量有主", "station devices' values that are somebody's"),
    ),
    "acknowledged": (
        ("危急值知悉及时率", "danger acknowledged in time"),
        ("升级前已知悉;中位小时", "seen before it climbed; median in hours"),
    ),
    "yield": (
        ("告警有效率", "alert yield"),
        ("结案而非驳回", "ended other than dismissed"),
    ),
}
YEAR = timedelta(days=365)


class Member(NamedTuple):
    """One that the denominator counts. places: level → place; measurements: what it rests on."""

    member: str
    resident: str | None
    counted: bool
    places: Mapping[str, str]
    measurements: tuple[int, ...] = ()
    value: float | None = None
    why: str = ""


class Figure(NamedTuple):
    """One number of one place."""

    code: str
    level: str
    place: str
    numerator: int
    denominator: int
    median: float | None
    digest: str
    members: list[Member]


def quarter_of(day: date) -> date:
    """The first day of a day's quarter."""
    return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)


def next_quarter(first: date) -> date:
    return date(first.year + (first.month == 10), (first.month + 3 - 1) % 12 + 1, 1)


def at_goal(systolic: float, diastolic: float, age: int | None, setting: str, own: Mapping[str, float]) -> bool:
    """Blood pressure below its goal: 140/90, 150/90 from 65 on, 135/85 at home; a hospital's target for this person where there is one."""
    high, low = (150.0, 90.0) if age is not None and age >= 65 else (140.0, 90.0)
    if setting in ("home", "wearable"):
        high, low = high - 5, 85.0
    return systolic < own.get("goal_systolic", high) and diastolic < own.get("goal_diastolic", low)


def to_specification(visits: int, managed_for: timedelta) -> bool:
    """Four follow-ups in twelve months; who is managed for less has one for each full quarter, and at least one."""
    return visits >= max(min(managed_for // timedelta(days=91), 4), 1)


def figures(code: str, members: Iterable[Member]) -> list[Figure]:
    """The members by place, at every level they have one."""
    found: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        for level, place in member.places.items():
            found.setdefault((level, place), []).append(member)
    return [_figure(code, level, place, of) for (level, place), of in sorted(found.items())]


def _figure(code: str, level: str, place: str, members: list[Member]) -> Figure:
    ordered = sorted(members, key=lambda member: member.member)
    proof = msgspec.json.encode([(m.member, m.counted, m.measurements, m.value, m.why) for m in ordered])
    values = [member.value for member in ordered if member.value is not None]
    return Figure(
        code, level, place, sum(member.counted for member in ordered), len(ordered), statistics.median(values) if values else None,
        hashlib.sha256(proof).hexdigest(), ordered,
    )  # fmt: skip


class Heaping(NamedTuple):
    """How the last digits of a device's systolic values fall. zeros: share that ends in 0; p: of a fair tenth each (chi-square);
    below, above: how many lie in 138 to 139 and in 140 to 141, on both sides of the number that control is judged by."""

    n: int
    zeros: float
    p: float
    below: int
    above: int
    suspicious: bool


def heaping(counts: Mapping[int, int]) -> Heaping:
    """counts: whole mm[Hg] → how often. Suspicious: far from a tenth each (p < 0.001) and more than 20 in 100 at one digit, or twice as
    many just below 140 as just above; from 100 values on. Devices that show even numbers only are judged by the even digits."""
    digits = [sum(n for value, n in counts.items() if value % 10 == digit) for digit in range(10)]
    total = sum(digits)
    even = sum(digits[::2]) == total
    judged = digits[::2] if even else digits
    p = float(chisquare(judged).pvalue) if total else 1.0
    below, above = (sum(counts.get(value, 0) for value in pair) for pair in ((138, 139), (140, 141)))
    share = max(judged, default=0) / total if total else 0.0
    odd = (p < 0.001 and share > (0.3 if even else 0.2)) or (below + above >= 20 and below >= 2 * above)
    return Heaping(total, digits[0] / total if total else 0.0, p, below, above, total >= 100 and odd)
