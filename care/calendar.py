"""Working time of a centre, and hours in which people are left alone. Pure; local time is the deployment's zone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

QUIET_FROM, QUIET_UNTIL = time(22), time(7)
_DAY = timedelta(days=1)
LOOK_AHEAD = 60  # days until a centre that never opens counts as open: nobody waits for ever


@dataclass(frozen=True, slots=True)
class Calendar:
    """When a centre is open. days: dates that are not what their weekday says, True worked, False free."""

    zone: ZoneInfo
    opens: time = time(8)
    closes: time = time(17, 30)
    days: Mapping[date, bool] = field(default_factory=dict)

    def works(self, day: date) -> bool:
        """Whether the centre is open that day at all."""
        return self.days.get(day, day.weekday() < 5)

    def is_open(self, moment: datetime) -> bool:
        local = moment.astimezone(self.zone)
        return self.works(local.date()) and self.opens <= local.time() < self.closes

    def at(self, day: date, clock: time) -> datetime:
        """A local time of a day; in the hour that a clock change skips, the moment after it."""
        return datetime.combine(day, clock, self.zone).astimezone(ZoneInfo("UTC"))

    def next_opening(self, moment: datetime) -> datetime:
        """The moment itself when open, else when it opens."""
        if self.is_open(moment):
            return moment
        day = moment.astimezone(self.zone).date()
        for _ in range(LOOK_AHEAD):
            opening = self.at(day, self.opens)
            if self.works(day) and opening >= moment:
                return opening
            day += _DAY
        return moment

    def days_after(self, moment: datetime, count: int) -> datetime:
        """The same time of day, `count` working days later."""
        local = moment.astimezone(self.zone)
        day = local.date()
        for _ in range(LOOK_AHEAD + count):
            if count <= 0:
                break
            day += _DAY
            count -= self.works(day)
        return self.at(day, local.time())

    def morning(self, moment: datetime, clock: time) -> datetime:
        """The next time the clock shows this, holiday or not."""
        local = moment.astimezone(self.zone)
        day = local.date() if local.time() < clock else local.date() + _DAY
        return self.at(day, clock)

    def is_quiet(self, moment: datetime) -> bool:
        """Whether it is night for whoever would be told."""
        clock = moment.astimezone(self.zone).time()
        return clock >= QUIET_FROM or clock < QUIET_UNTIL
