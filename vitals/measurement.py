"""What a device reports at one moment, and what must be known to trust it.

Times have five names: `device_time` (raw, as the device said it), `measured_at` (aware UTC, corrected),
`received_at` (gateway clock), `stored_at` (database clock) and the argument `now`. A measurement is identified
by (device, series, record); its own message's boot and seq serve receipts only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec

from vitals.metric import METRICS

Setting = Literal["clinic", "kiosk", "home", "wearable", "cuffless", "manual"]
TimeQuality = Literal["synced", "estimated", "untrusted"]
Kind = Literal[
    "blood_pressure", "glucose", "cgm", "pulse_oximetry", "temperature", "weight", "body_composition", "heart_rate", "activity",
    "spirometry", "coded",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)

SETTINGS: tuple[str, ...] = ("clinic", "kiosk", "home", "wearable", "cuffless", "manual")
WEAK_SETTINGS = frozenset({"manual", "cuffless"})
WEAK_FLAGS = frozenset({"body_movement", "cuff_too_loose", "improper_position"})


NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=rf"\A{NAME}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=64)]
Filled = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Record = Annotated[int, msgspec.Meta(ge=0, le=2**53)] | Filled
Hex = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"\A([0-9a-f]{2})*\Z")]
Flags = Annotated[list[Text], msgspec.Meta(max_length=32)]


class Samples(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A dense series of one metric: values at a fixed distance, or each at its own offset from `measured_at`, in milliseconds."""

    values: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=7200)]
    every_ms: Annotated[float, msgspec.Meta(gt=0, le=86_400_000)] | None = None
    offsets_ms: Annotated[tuple[Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)], ...], msgspec.Meta(max_length=7200)] = ()


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One report of one device.

    values: metric code → number in the metric's unit, unrounded, or a coded answer (`{"fobt": "positive"}`).
    codes: metric code → what the device said instead of a number (`NaN`, `NRes`, `+INF`, `HI`, `LO` …).
    record: the device's own sequence number, else a digest of its raw time and bytes; identity "gateway" means
    that neither existed and the gateway numbered it. raw: the bytes as hex. samples: metric code → a dense series (1 Hz heart
    rate, RR intervals, a pulse wave), stored as one block; the value that rules see of it stands in `values`. The annotations are what
    `vitals.wire` holds a payload to; whoever makes one in Python is trusted.
    """

    device: Name
    kind: Kind
    record: Record
    measured_at: Moment
    received_at: Moment
    series: Filled = "1"
    device_time: Text | None = None
    time_quality: TimeQuality = "untrusted"
    setting: Setting = "home"
    checkin: Filled | None = None
    values: dict[Text, float | Text] = {}
    codes: dict[Text, Text] = {}
    flags: Flags = []
    identity: Literal["device", "gateway"] = "device"
    raw: Hex = ""
    samples: dict[Text, Samples] = {}


def record_digest(device_time: str, raw: bytes) -> str:
    """Identity of a record whose profile has a clock but no sequence number: 16 hex digits of SHA-256."""
    return hashlib.sha256(device_time.encode() + b"\0" + raw).hexdigest()[:16]


def implausible(values: dict[str, float | str]) -> list[str]:
    """Reasons why readable values are not believable, in a stable order; empty when they are.

    The value stays what it is: stored, out of means and control, and seen by danger rules as a weak source.
    """
    reasons = []
    for code, value in values.items():
        if not isinstance(value, str):
            low, high = METRICS[code].plausible
            if not low <= value <= high:
                reasons.append(f"implausible:{code}")
    reasons.sort()
    systolic, diastolic = values.get("systolic"), values.get("diastolic")
    if isinstance(systolic, float | int) and isinstance(diastolic, float | int):
        pulse_pressure = systolic - diastolic
        if pulse_pressure <= 0:
            reasons.append("implausible:diastolic_not_below_systolic")
        elif not 10 <= pulse_pressure <= 150:
            reasons.append("implausible:pulse_pressure")
    return reasons


def weak_source(measurement: Measurement, bond_protected: bool) -> list[str]:
    """Why this measurement may never refer anyone by itself; empty when it is a trustworthy source."""
    reasons = implausible(measurement.values)
    if measurement.setting in WEAK_SETTINGS:
        reasons.append(f"setting:{measurement.setting}")
    if measurement.flags:
        reasons += [f"flag:{flag}" for flag in measurement.flags if flag in WEAK_FLAGS]
    if not bond_protected:
        reasons.append("bond:unprotected")
    return reasons


def telling(code: str, values: Sequence[float]) -> float:
    """The one value of a dense series that rules must see: the most extreme one in its metric's danger band, else the last."""
    metric = METRICS[code]
    low, high = min(values), max(values)
    if metric.priority_high is not None and high >= metric.priority_high:
        return high
    if metric.priority_low is not None and low <= metric.priority_low:
        return low
    return values[-1]


def is_priority(measurement: Measurement) -> bool:
    """Whether a gateway must send it ahead of a backlog: danger band, unknown metric, or a code instead of a number."""
    if measurement.codes:
        return True
    return any(
        isinstance(value, str) or code not in METRICS or METRICS[code].is_priority(value) for code, value in measurement.values.items()
    )
