"""When something was measured, and how well that is known: the device's clock against ours, honestly.

A device's time is kept as it was said. What corrects it is the offset seen at the connection (coincident times); a
clock that cannot be read, was never set or has been moved since we last met makes the result weaker, never wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from vitals.gatt import DeviceTime
from vitals.measurement import TimeQuality
from vitals.wire import EARLIEST, SKEW

NEVER_SET = timedelta(days=1)  # a clock further off was never set: its differences still hold, its date does not
MOVED = timedelta(minutes=2)  # more than any quartz drifts between two visits: somebody set it in between
WRONG = timedelta(seconds=5)  # worth correcting on the device


class ClockReading(NamedTuple):
    """Coincident times: what the device's clock showed (naive local) when ours said `at` (aware).

    moved: this device was met before, and its clock had another offset then.
    """

    shown: datetime
    at: datetime
    moved: bool = False

    def offset(self, zone: ZoneInfo) -> timedelta:
        """How far ahead of true local time the device's clock is."""
        return self.shown - self.at.astimezone(zone).replace(tzinfo=None)

    def wrong(self, zone: ZoneInfo) -> bool:
        return abs(self.offset(zone)) > WRONG


def was_moved(clock: ClockReading, before: timedelta | None, zone: ZoneInfo) -> bool:
    """Whether the clock was set since its offset was `before`: then records from in between have an unknown offset."""
    return before is not None and abs(clock.offset(zone) - before) > MOVED


def measured_at(
    device_time: DeviceTime | None, clock: ClockReading | None, zone: ZoneInfo, received_at: datetime
) -> tuple[datetime, TimeQuality]:
    """When it was measured, and how well that is known.

    synced: the device's clock was read at this connection, is about right and was not moved since the last one.
    estimated: it was read but had never been set (its offset is applied) or was moved, or it was not read and its
    time was taken as local. untrusted: no usable time; measured_at is received_at.
    """
    told = device_time.calendar() if device_time is not None else None
    if told is None:
        return received_at, "untrusted"
    try:
        if clock is not None:
            moment = clock.at - (clock.shown - told)
            quality: TimeQuality = "synced" if abs(clock.offset(zone)) < NEVER_SET and not clock.moved else "estimated"
        else:
            moment = told.replace(tzinfo=zone).astimezone(UTC)
            quality = "estimated"
    except OverflowError:
        return received_at, "untrusted"
    if not EARLIEST <= moment <= received_at + SKEW:
        return received_at, "untrusted"
    return min(moment, received_at), quality
