"""Features of a person's own baseline: what changed about somebody, against what is usual for them.

They may raise what nobody needs to hurry for and relax nothing. Days of an open alert (`frozen`) are in no baseline, and a feature
that has too few values says nothing. Each takes one value a day or less; docs/packs.md says which rule uses which.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np

from rules import history as histories
from rules.history import History, Value, points_of


def split(history: History, of: str, recent: int = 1) -> tuple[list[float], list[float]]:
    """(baseline, the latest so many): days of an open alert are in no baseline."""
    mine = [one for one in history.readings if of in one.values]
    old = [one.values[of] for one in mine[:-recent] if not one.about.get("frozen")]
    return old, [one.values[of] for one in mine[-recent:]]


def robust_z(history: History, of: str, at_least: int, floor: float) -> Value:
    """The latest value less the median of those before it, in robust standard deviations (1.4826·MAD, never below `floor`)."""
    old, latest = split(history, of)
    if len(old) < at_least:
        return None
    middle = statistics.median(old)
    return round((latest[0] - middle) / max(floor, 1.4826 * statistics.median([abs(value - middle) for value in old])), 6)


def above_median(history: History, of: str, at_least: int) -> Value:
    """The latest value less the median of those before it."""
    old, latest = split(history, of)
    return round(latest[0] - statistics.median(old), 6) if len(old) >= at_least else None


def run_above(history: History, of: str, by: float, at_least: int) -> Value:
    """How many of the latest values, without a break, lie at or above the median of the rest plus `by`."""
    for recent in range(1, len(history.readings)):
        old, new = split(history, of, recent)
        if len(old) < at_least:
            return None if recent == 1 else float(recent - 1)
        if new[0] < statistics.median(old) + by:
            return float(recent - 1)
    return None


def crossing_averages(history: History, of: str, fast_days: float, slow_days: float, at_least: int) -> Value:
    """A fast less a slow exponentially weighted mean (MACD); each value weighs 1 − exp(−Δt / τ) against what was before it."""
    points = points_of(history, of)
    if len(points) < at_least:
        return None
    fast = slow = points[0][1]
    for (before, _), (at, value) in pairwise(points):
        passed = (at - before) / timedelta(days=1)
        fast += (1 - math.exp(-passed / fast_days)) * (value - fast)
        slow += (1 - math.exp(-passed / slow_days)) * (value - slow)
    return round(fast - slow, 6)


def cusum(history: History, of: str, recent: int, slack: float, floor: float, at_least: int) -> Value:
    """Upper tabular CUSUM of the latest `recent` values, in robust standard deviations of those before; slack is taken off each."""
    old, new = split(history, of, recent)
    if len(old) < at_least:
        return None
    middle = statistics.median(old)
    deviation = max(floor, 1.4826 * statistics.median([abs(value - middle) for value in old]))
    total = 0.0
    for value in new:
        total = max(0.0, total + (value - middle) / deviation - slack)
    return round(total, 6)


def change_of_means(history: History, of: str, recent_days: int, at_least: int) -> Value:
    """By how many percent the mean of the latest days differs from the mean of those before, each of so many values at least."""
    points = points_of(history, of)
    if not points:
        return None
    edge = points[-1][0] - timedelta(days=recent_days)
    old = [one.values[of] for one in history.readings if of in one.values and one.at <= edge and not one.about.get("frozen")]
    new = [value for at, value in points if at > edge]
    if len(old) < at_least or len(new) < at_least:
        return None
    before = statistics.fmean(old)
    return round(100 * (statistics.fmean(new) - before) / before, 6) if before else None


def slope(history: History, of: str, per_days: float, at_least: int, over_days: float) -> Value:
    """Theil–Sen slope for so many days: the median of the slopes of all pairs. None below `at_least` values over `over_days`."""
    points = points_of(history, of)
    if len(points) < at_least or points[-1][0] - points[0][0] < timedelta(days=over_days):
        return None
    from scipy.stats import theilslopes  # half a second to import, which commands that need no slope should not pay

    days = [(at - points[0][0]) / timedelta(days=1) for at, _ in points]
    return round(float(theilslopes([value for _, value in points], days).slope) * per_days, 6)


def cosinor(history: History, of: str, give: str, at_least: int) -> Value:
    """One cosine of 24 hours fitted by least squares: its mesor, its amplitude, or the hour of its peak (UTC). None below three days."""
    points = points_of(history, of)
    if len(points) < at_least or points[-1][0] - points[0][0] < timedelta(hours=70):
        return None
    angle = np.array([2 * math.pi * (at.hour + at.minute / 60 + at.second / 3600) / 24 for at, _ in points])
    design = np.column_stack([np.ones(len(angle)), np.cos(angle), np.sin(angle)])
    (mesor, x, y), _, rank, _ = np.linalg.lstsq(design, np.array([value for _, value in points]), rcond=None)
    if rank < 3:
        return None
    found = {"mesor": mesor, "amplitude": math.hypot(x, y), "peak_hour": (math.atan2(y, x) / (2 * math.pi) * 24) % 24}
    return round(float(found[give]), 6)


def dipping(history: History, of: str, at_least: int) -> Value:
    """By how many percent the mean of the night's values lies below that of the day's; `kind` of a reading is day or night."""
    day, night = ([value for _, value in points_of(history, of, {"kind": kind})] for kind in ("day", "night"))
    if len(day) < at_least or len(night) < at_least:
        return None
    return round(100 * (1 - statistics.fmean(night) / statistics.fmean(day)), 6)


FEATURES: dict[str, Callable[..., Value]] = {
    function.__name__: function
    for function in (
        histories.last, histories.greatest, histories.least, histories.count, histories.about, histories.days_reaching,
        histories.hours_apart_reaching, histories.minutes_above, histories.longest_below, histories.share, histories.rise,
        histories.rise_day, histories.gain, histories.jump, histories.fall, histories.between_arms, histories.first_pair_gap,
        histories.protocol_mean, histories.lower_of_last_two, histories.home_series, histories.blood_glucose_risk, histories.linear,
        histories.rmssd, histories.irregularity, histories.body_mass_index, histories.over_fact, histories.above_baseline,
        histories.session_mean, robust_z, above_median, run_above, crossing_averages, cusum, change_of_means, slope, cosinor, dipping,
    )
}  # fmt: skip


def number(value: Any) -> float:
    """What a feature or a table gives, as a column holds it: NaN where it is unknown, or a word."""
    return float("nan") if value is None or isinstance(value, str) else float(value)


def evaluate(made: Mapping[str, Any], past: History) -> float:
    """One column: `{feature: {…}}` of a history; NaN where the past does not hold what it needs."""
    ((name, arguments),) = made.items()
    return number(FEATURES[name](past, **arguments))
