"""Who must have seen something by when, and who hears of it next if nobody did. Pure.

A ladder is laid when a person must be reached: rows with due times. Each due row tells its role; acknowledging stops the rest; the last
row comes again until somebody does. Times are a centre's proposal to sign off (IEC 60601-1-8's ranks by harm and its onset).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum

from care.calendar import QUIET_UNTIL, Calendar
from vitals.alert import Severity

MORNING = time(8, 30)  # when what came by night without a symptom must have been seen


class Role(StrEnum):
    """Who a rung tells; who that is at the moment is asked when it is due."""

    DOCTOR = "doctor"  # the signed one, or who covers the leave; the duty when the centre is closed and it cannot wait
    DEPUTY = "deputy"  # the others of the team
    TEAM_LEAD = "team_lead"
    CENTRE_DUTY = "centre_duty"
    SUPERVISOR = "supervisor"
    OWNER = "owner"  # of a task


@dataclass(frozen=True, slots=True)
class Rung:
    """One row: at `due_at` its role hears of it; again: how long until it hears again, for the last one."""

    level: int
    role: Role
    due_at: datetime
    again: timedelta | None = None


# after how long each rung of what reaches out is due; the second is when somebody must have seen it
P1 = tuple(zip(Role, (timedelta(minutes=minutes) for minutes in (0, 15, 30, 60, 120)), strict=False))
P2 = tuple(zip(Role, (timedelta(hours=hours) for hours in (0, 2, 4, 8, 24)), strict=False))
# working days until what waits in the queue is told at all
WAITING = {
    Severity.P3: ((Role.DOCTOR, 2), (Role.TEAM_LEAD, 4), (Role.SUPERVISOR, 5)),
    Severity.P4: ((Role.DOCTOR, 5), (Role.TEAM_LEAD, 10)),
}
AGAIN = {
    Severity.P1: timedelta(minutes=15),
    Severity.P2: timedelta(hours=2),
    Severity.P3: timedelta(days=1),
    Severity.P4: timedelta(days=7),
}
# hours, or working days, a person's work may rest before they and then their lead are reminded
RESTS = {Severity.P1: timedelta(hours=1), Severity.P2: timedelta(hours=8)}
REST_DAYS = {Severity.P3: 5, Severity.P4: 10}
DAILY = timedelta(days=1)


def ladder(rows: list[tuple[Role, datetime]], again: timedelta) -> list[Rung]:
    """Rows in order; the last one comes again."""
    return [Rung(level, role, due, again if level == len(rows) - 1 else None) for level, (role, due) in enumerate(rows)]


def calling(severity: Severity, begins: datetime, calendar: Calendar) -> list[Rung]:
    """The ladder of an alert that nobody has seen.

    P1 knows no night. P2 waits for the end of the quiet hours, and overnight until half past eight, holidays included: the duty is
    there. P3 and P4 tell nobody at once (they are in the queue); working days later they are somebody's neglect.
    """
    match severity:
        case Severity.P1:
            rows = [(role, begins + after) for role, after in P1]
        case Severity.P2:
            start = calendar.morning(begins, QUIET_UNTIL) if calendar.is_quiet(begins) else begins
            seen = start + P2[1][1]
            if not (calendar.is_open(start) and calendar.is_open(seen)):
                seen = calendar.morning(start, MORNING)
            rows = [(role, start if after == timedelta() else seen + (after - P2[1][1])) for role, after in P2]
        case _:
            rows = [(role, calendar.days_after(begins, days)) for role, days in WAITING[severity]]
    return ladder(rows, AGAIN[severity])


def acknowledge_by(severity: Severity, rungs: list[Rung]) -> datetime:
    """When somebody must have seen it: before the second rung of what reaches out, the first of what waits in the queue."""
    return rungs[1 if severity <= Severity.P2 else 0].due_at


def working(severity: Severity, now: datetime, calendar: Calendar) -> list[Rung]:
    """After a person acted: nothing rests for ever, whoever has it is reminded, then the lead."""
    if severity in RESTS:
        first = now + RESTS[severity]
        rows = [(Role.OWNER, first), (Role.TEAM_LEAD, first + RESTS[severity])]
    else:
        days = REST_DAYS[severity]
        rows = [(Role.OWNER, calendar.days_after(now, days)), (Role.TEAM_LEAD, calendar.days_after(now, 2 * days))]
    return ladder(rows, DAILY)


def resting(until: datetime, calendar: Calendar) -> list[Rung]:
    """A snooze ends, or a clock that somebody owns lapses: the owner, then who answers for them."""
    waits = ((Role.OWNER, 0), (Role.TEAM_LEAD, 2), (Role.SUPERVISOR, 5))
    return ladder([(role, calendar.days_after(until, days) if days else until) for role, days in waits], timedelta(days=7))
