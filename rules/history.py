"""What a table can be asked about: one person's facts and readings; and the features that make columns of them.

A feature is one of a closed list of functions of a history, named in a pack with its numbers: `{fall: {of: systolic, …}}`.
It gives a number, a word, or None where the history does not hold what it needs. Plain Python: a history is short.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

Value = float | str | bool | None

# What a reading may hold beside the metrics of `vitals.metric`: name → unit.
MORE_VALUES = {
    "glucose_mgdl": "mg/dL", "glucose_mgdl_exact": "mg/dL", "temperature_exact": "Cel", "cgm_mean_mgdl": "mg/dL",
    "cgm_mean_mmoll": "mmol/L", "waist": "cm", "lbgi": "1", "hbgi": "1", "fev1_pct_pred": "%", "fev1_fvc_ratio": "1",
    "days": "d", "active_pct": "%", "tir": "%", "tbr_total": "%", "tbr2": "%", "tar_total": "%", "tar2": "%", "duration_s": "s",
}  # fmt: skip
# What may be known about a person or a reading's circumstances: numbers, flags (yes or no) and words.
FACTS = frozenset({
    "age_years", "gestational_weeks", "spo2_scale", "baseline_temperature", "face_to_face_followups",
    "pregnant", "lactating", "hypertension", "awake", "high_risk", "family_history_htn", "high_salt", "alcohol_excess", "annual_exam",
    "lost_to_followup", "needs_assistance", "adverse_reaction", "new_complication", "supplemental_o2", "sex",
})  # fmt: skip
# Lists of what is known or told of a person: `conditions.copd`. A condition that a given list leaves out is absent; without a list
# it is unknown. A symptom nobody reported counts as absent.
LISTS = {
    "conditions": frozenset({
        "hypertension", "t1dm", "t2dm", "gdm", "copd", "asthma", "interstitial_lung_disease", "chronic_lung_disease", "heart_failure",
        "hypercapnic_respiratory_failure", "chd", "ckd", "stroke",
    }),
    "medications": frozenset({"sglt2i"}),
    "percentiles": frozenset({"sbp_p90", "sbp_p95", "dbp_p90", "dbp_p95"}),
    "symptoms": frozenset({
        "altered_consciousness", "loss_of_consciousness", "new_confusion", "behaviour_change", "severe_headache", "severe_dizziness",
        "severe_headache_or_dizziness", "nausea", "vomiting", "nausea_vomiting", "blurred_vision", "eye_pain", "sudden_visual_loss",
        "palpitations", "chest_tightness", "chest_pain", "back_pain", "dyspnoea", "dyspnoea_unable_to_lie_flat", "orthopnoea",
        "leg_oedema", "speech_disorder", "paralysis", "syncope", "sweating", "poor_appetite", "polydipsia", "polyuria", "polyphagia",
        "weight_loss", "abdominal_pain", "acetone_breath", "deep_breathing", "flushed_skin", "heart_failure", "acute_kidney_injury",
        "retinal_haemorrhage", "papilloedema", "anaphylaxis",
    }),
}  # fmt: skip


# What happened or did not: nobody reported it means no. What a person is stays unknown instead.
EVENTS = frozenset({"needs_assistance", "adverse_reaction", "new_complication", "supplemental_o2", "lost_to_followup"})


def unreported(name: str) -> float | None:
    """What holds where nothing was said: no for a symptom or an event, unknown for everything else."""
    return 0.0 if name in EVENTS or name.startswith("symptoms.") else None


@dataclass(frozen=True, slots=True)
class Reading:
    """values: metric or other number → value in its unit, rounded as the device shows it. about: posture, arm, timing, setting …"""

    at: datetime
    values: Mapping[str, float]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """One person. facts: name → number, flag or word; what is absent is unknown. Readings in order of time."""

    facts: Mapping[str, Value]
    readings: Sequence[Reading] = ()


def fits(reading: Reading, where: Mapping[str, Any]) -> bool:
    """Whether a reading is about all of this; a list means any of its members."""
    return all(
        reading.about.get(name) in wanted if isinstance(wanted, list) else reading.about.get(name) == wanted
        for name, wanted in where.items()
    )


def points_of(history: History, of: str, where: Mapping[str, Any] | None = None) -> list[tuple[datetime, float]]:
    return [(one.at, one.values[of]) for one in history.readings if of in one.values and fits(one, where or {})]


def last(history: History, of: str, where: Mapping[str, Any] | None = None) -> Value:
    """The latest value."""
    points = points_of(history, of, where)
    return points[-1][1] if points else None


def greatest(history: History, of: str) -> Value:
    points = points_of(history, of)
    return max(value for _, value in points) if points else None


def least(history: History, of: str, at_least: int = 1) -> Value:
    """The smallest value, of so many at least."""
    points = points_of(history, of)
    return min(value for _, value in points) if len(points) >= at_least else None


def count(history: History, where: Mapping[str, Any], of: str | None = None) -> Value:
    """How many readings (with a value `of`) are about this."""
    return float(sum(fits(one, where) for one in history.readings if of is None or of in one.values))


def about(history: History, name: str, of: str | None = None) -> Value:
    """What the latest reading (with a value `of`) says about itself."""
    for one in reversed(history.readings):
        if name in one.about and (of is None or of in one.values):
            found: Value = one.about[name]
            return found
    return None


def _reaches(reading: Reading, at_or_above: Mapping[str, float]) -> bool:
    return any(reading.values.get(of, -math.inf) >= bound for of, bound in at_or_above.items())


def days_reaching(history: History, at_or_above: Mapping[str, float], last_days: int) -> Value:
    """On how many of the last so many days that have readings any value was at or above its bound."""
    days = sorted({one.at.date() for one in history.readings})[-last_days:]
    return float(sum(any(_reaches(one, at_or_above) for one in history.readings if one.at.date() == day) for day in days))


def hours_apart_reaching(history: History, at_or_above: Mapping[str, float]) -> Value:
    """Hours between the first and the last reading that reach the bound; None if fewer than two do."""
    times = [one.at for one in history.readings if _reaches(one, at_or_above)]
    return (times[-1] - times[0]).total_seconds() / 3600 if len(times) > 1 else None


def minutes_above(history: History, of: str, above: float) -> Value:
    """How long the value has been above the bound without a break, up to the latest reading; 0 for a single one."""
    points = points_of(history, of)
    if not points:
        return None
    start = None
    for at, value in reversed(points):
        if value <= above:
            break
        start = at
    return 0.0 if start is None else (points[-1][0] - start).total_seconds() / 60


def longest_below(history: History, of: str, below: float) -> Value:
    """Minutes of the longest unbroken time below the bound; a reading stands until the next, the last one for the usual distance."""
    points = points_of(history, of)
    if not points:
        return None
    usual = statistics.median([(b - a).total_seconds() for (a, _), (b, _) in pairwise(points)]) if len(points) > 1 else 0.0
    longest = current = 0.0
    for number, (at, value) in enumerate(points):
        until = points[number + 1][0] if number + 1 < len(points) else at + timedelta(seconds=usual)
        current = current + (until - at).total_seconds() / 60 if value < below else 0.0
        longest = max(longest, current)
    return longest


def share(history: History, of: str, ge: float | None = None, le: float | None = None) -> Value:
    """Percent of the values within bounds, both included."""
    values = [value for _, value in points_of(history, of)]
    inside = sum((ge is None or value >= ge) and (le is None or value <= le) for value in values)
    return 100 * inside / len(values) if values else None


def rise(history: History, of: str, days: int, digits: int = 1) -> Value:
    """The greatest rise of a value within so many days."""
    found = [round(later - value, digits) for _, later, value in _rises(history, of, days)]
    return max(found) if found else None


def rise_day(history: History, of: str, days: int, above: float, digits: int = 1) -> Value:
    """On which day after the first reading a rise was above the bound."""
    for at, later, value in _rises(history, of, days):
        if round(later - value, digits) > above:
            return float((at.date() - history.readings[0].at.date()).days)
    return None


def _rises(history: History, of: str, days: int) -> list[tuple[datetime, float, float]]:
    points = points_of(history, of)
    return [
        (at, later, value)
        for number, (at, later) in enumerate(points)
        for before, value in points[:number]
        if at - before <= timedelta(days=days)
    ]


def gain(history: History, of: str, days: int, digits: int = 1) -> Value:
    """The latest value less the least one of the last so many days."""
    points = points_of(history, of)
    recent = [value for at, value in points if points[-1][0] - at <= timedelta(days=days)]
    return round(points[-1][1] - min(recent), digits) if len(recent) > 1 else None


def jump(history: History, of: str) -> Value:
    """The latest value less the one before it."""
    points = points_of(history, of)
    return points[-1][1] - points[-2][1] if len(points) > 1 else None


def fall(history: History, of: str, lying: Sequence[str], standing: str, over: Mapping[str, Sequence[float]] | None = None) -> Value:
    """How far a value fell on standing up: the last one lying or sitting less the lowest one standing.

    over: standing_seconds or standing_minutes → [from, to]: only readings so long after standing up.
    """
    rest = [one.values[of] for one in history.readings if of in one.values and one.about.get("posture") in lying]
    up = [
        one.values[of]
        for one in history.readings
        if of in one.values
        and one.about.get("posture") == standing
        and all(name in one.about and low <= one.about[name] <= high for name, (low, high) in (over or {}).items())
    ]
    return rest[-1] - min(up) if rest and up else None


def between_arms(history: History, of: str) -> Value:
    """The difference between the latest values of both arms."""
    left, right = last(history, of, {"arm": "left"}), last(history, of, {"arm": "right"})
    return abs(left - right) if isinstance(left, float) and isinstance(right, float) else None


def first_pair_gap(history: History, of: Sequence[str]) -> Value:
    """The greatest difference between the first two readings."""
    pair = [one for one in history.readings if all(name in one.values for name in of)][:2]
    return max(abs(pair[0].values[name] - pair[1].values[name]) for name in of) if len(pair) == 2 else None


def protocol_mean(history: History, of: str, gap: Mapping[str, Any]) -> Value:
    """The mean of the first two readings, of the first three where these two differ by `differ` or more; None while a third is missing."""
    points = [value for _, value in points_of(history, of)]
    found = first_pair_gap(history, gap["of"])
    if found is None:
        return None
    needed = 3 if isinstance(found, float) and found >= gap["differ"] else 2
    return statistics.fmean(points[:needed]) if len(points) >= needed else None


def lower_of_last_two(history: History, of: str, by: str) -> Value:
    """The value in that of the last two readings which is lower by another value."""
    pair = [one for one in history.readings if of in one.values and by in one.values][-2:]
    return min(pair, key=lambda one: one.values[by]).values[of] if len(pair) == 2 else None


def home_series(
    history: History, of: str, give: str, discard_days: int = 0, discard_first: int = 0, settings: Sequence[str] = ("home",)
) -> Value:
    """Mean and extent of a series of home readings: give mean, readings, days (used) or all_days.

    Whole first days, and the first readings of each session (readings within half an hour), are discarded.
    """
    mine = [one for one in history.readings if of in one.values and one.about.get("setting", settings[0]) in settings]
    days = sorted({one.at.date() for one in mine})
    used: list[float] = []
    since: datetime | None = None
    place = 0
    for one in mine:
        place = place + 1 if since is not None and one.at - since <= timedelta(minutes=30) else 0
        since = one.at
        if one.at.date() not in days[:discard_days] and place >= discard_first:
            used.append(one.values[of])
    if give == "mean":
        return statistics.fmean(used) if used else None
    return float({"readings": len(used), "days": len(days[discard_days:]), "all_days": len(days)}[give])


def blood_glucose_risk(history: History, of: str, side: str, scale: float, power: float, shift: float) -> Value:
    """LBGI (side low) or HBGI (high): the mean of 10·f² on one side of zero, f = scale·((ln mg/dL)^power − shift). Kovatchev."""
    values = [value for _, value in points_of(history, of)]
    if not values:
        return None
    risks: list[float] = [scale * (math.log(value) ** power - shift) for value in values if value > 1]
    return sum(10 * f * f for f in risks if (f < 0) == (side == "low")) / len(values)


def linear(history: History, of: str, slope: float, intercept: float) -> Value:
    """intercept + slope · value."""
    value = last(history, of)
    return intercept + slope * value if isinstance(value, float) else None


def _intervals(history: History) -> Sequence[float]:
    found: Sequence[float] = next((one.about["intervals"] for one in reversed(history.readings) if "intervals" in one.about), ())
    return found


def rmssd(history: History) -> Value:
    """Root of the mean squared difference of successive beat intervals, ms."""
    intervals = _intervals(history)
    return math.sqrt(statistics.fmean((b - a) ** 2 for a, b in pairwise(intervals))) if len(intervals) > 1 else None


def irregularity(history: History) -> Value:
    """Sample standard deviation of the beat intervals over their mean."""
    intervals = _intervals(history)
    return statistics.stdev(intervals) / statistics.fmean(intervals) if len(intervals) > 1 else None


def body_mass_index(history: History) -> Value:
    """kg/m², half up to one digit."""
    weight, height = last(history, "weight"), last(history, "height")
    if not isinstance(weight, float) or not isinstance(height, float):
        return None
    return math.floor(weight / (height / 100) ** 2 * 10 + 0.5 + 1e-9) / 10


def over_fact(history: History, of: str, fact: str, slope: float = 1, intercept: float = 0) -> Value:
    """The latest value less intercept + slope · a fact, such as a percentile or an age."""
    value, known = last(history, of), history.facts.get(fact)
    return round(value - (intercept + slope * known), 6) if isinstance(value, float) and isinstance(known, int | float) else None


def session_mean(history: History, of: str, by: Sequence[str], differ: float, gap_minutes: float) -> Value:
    """The mean of the latest session so far: of its first two readings, of three where these differ by `differ` or more in any of `by`.

    A session: readings of one setting, none more than the gap after the one before.
    """
    mine = [one for one in history.readings if of in one.values]
    if not mine:
        return None
    session = [mine[-1]]
    for one in reversed(mine[:-1]):
        if session[0].at - one.at > timedelta(minutes=gap_minutes):
            break
        if one.about.get("setting") == mine[-1].about.get("setting"):
            session.insert(0, one)
    apart = len(session) > 1 and any(abs(session[0].values.get(name, 0) - session[1].values.get(name, 0)) >= differ for name in by)
    return statistics.fmean(one.values[of] for one in session[: 3 if apart else 2])


def above_baseline(history: History, of: str, baseline: str) -> Value:
    """The highest value less the person's own baseline."""
    base, top = history.facts.get(baseline), greatest(history, of)
    return round(top - float(base), 6) if isinstance(top, float) and isinstance(base, int | float) else None
