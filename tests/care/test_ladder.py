"""Who must have seen something by when: the pure ladder, working time, identity numbers, and the steps of a referral."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care.calendar import Calendar
from care.identity import Seal, check_digit, id_card, normal
from care.ladder import Role, acknowledge_by, calling, resting, working
from care.notifier import Clock
from care.referral import COMMUNITY, ENDED, HOSPITAL, STEPS, Stage, next_stage
from care.task import plan
from vitals.alert import Severity
from vitals.errors import BadInput, ConfigError, Refused

ZONE = ZoneInfo("Asia/Shanghai")
CALENDAR = Calendar(ZONE, days={date(2026, 10, 1): False, date(2026, 10, 2): False, date(2026, 10, 10): True})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE)


MOMENTS = st.integers(0, 1_000_000).map(lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("begins", "told", "seen_by"),
    [
        ("2026-11-26T10:00", "2026-11-26T10:00", "2026-11-26T12:00"),  # a working morning
        ("2026-11-26T16:30", "2026-11-26T16:30", "2026-11-27T08:30"),  # too late for today: next morning
        ("2026-11-26T19:00", "2026-11-26T19:00", "2026-11-27T08:30"),
        ("2026-11-26T23:00", "2026-11-27T07:00", "2026-11-27T08:30"),  # nobody is woken for it
        ("2026-11-27T02:00", "2026-11-27T07:00", "2026-11-27T08:30"),
        ("2026-10-01T10:00", "2026-10-01T10:00", "2026-10-02T08:30"),  # a holiday: the duty is there, and tomorrow too
        ("2026-10-10T10:00", "2026-10-10T10:00", "2026-10-10T12:00"),  # a Saturday that is worked
    ],
)
def test_an_urgent_case_waits_for_the_morning_and_for_no_holiday(begins: str, told: str, seen_by: str) -> None:
    rungs = calling(Severity.P2, at(begins), CALENDAR)
    assert rungs[0].due_at == at(told)
    assert acknowledge_by(Severity.P2, rungs) == at(seen_by)


@given(MOMENTS)
def test_a_critical_case_knows_no_night(begins: datetime) -> None:
    rungs = calling(Severity.P1, begins, CALENDAR)
    assert [(rung.role, rung.due_at - begins) for rung in rungs] == [
        (Role.DOCTOR, timedelta()), (Role.DEPUTY, timedelta(minutes=15)), (Role.TEAM_LEAD, timedelta(minutes=30)),
        (Role.CENTRE_DUTY, timedelta(hours=1)), (Role.SUPERVISOR, timedelta(hours=2)),
    ]  # fmt: skip


@given(MOMENTS, st.sampled_from(Severity))
def test_every_ladder_climbs_and_its_last_rung_comes_again(begins: datetime, severity: Severity) -> None:
    for rungs in (calling(severity, begins, CALENDAR), working(severity, begins, CALENDAR), resting(begins, CALENDAR)):
        assert [rung.level for rung in rungs] == list(range(len(rungs)))
        assert all(first.due_at < second.due_at for first, second in itertools.pairwise(rungs))
        assert rungs[0].due_at >= begins
        assert [rung.again is not None for rung in rungs] == [False] * (len(rungs) - 1) + [True]


@given(MOMENTS)
def test_a_centre_opens_again_and_the_morning_is_no_night(moment: datetime) -> None:
    opening = CALENDAR.next_opening(moment)
    assert opening >= moment
    assert CALENDAR.is_open(opening)
    assert not CALENDAR.is_quiet(CALENDAR.morning(moment, time(7)))
    assert CALENDAR.works(CALENDAR.days_after(moment, 3).astimezone(ZONE).date())


def test_a_centre_that_never_opens_lets_nobody_wait_for_ever() -> None:
    never = Calendar(ZONE, days={date(2026, 11, 1) + timedelta(days=day): False for day in range(400)})
    assert never.next_opening(at("2026-11-26T10:00")) == at("2026-11-26T10:00")
    assert never.days_after(at("2026-11-26T10:00"), 2) < at("2027-02-01T10:00")


@pytest.mark.parametrize("number", ["11010519491231002X", "11010519491231002x", " 440524188001010014 "])
def test_an_identity_number_is_read(number: str) -> None:
    read = id_card(number, date(2026, 11, 26))
    assert read.number == number.strip().upper()
    assert read.sex == ("male" if int(read.number[16]) % 2 else "female")


@pytest.mark.parametrize(
    "number",
    ["", "110105194912310020", "1101051949123100", "11010519491331002X", "01010519491231002X", "11010519491231002Y", "１1010519491231002X",
     "11010529991231002" + check_digit("11010529991231002"), "11010518001231002" + check_digit("11010518001231002")],
)  # fmt: skip
def test_what_is_no_identity_number_is_refused(number: str) -> None:
    with pytest.raises(BadInput, match="bad_id_number"):
        id_card(number, date(2026, 11, 26))


@given(st.integers(10**16, 10**17 - 1).map(str), st.integers(0, 16), st.integers(1, 9))
def test_one_wrong_digit_is_always_noticed(first: str, place: int, by: int) -> None:
    """MOD 11-2 finds every single-digit error and every swap of neighbours."""
    wrong = first[:place] + str((int(first[place]) + by) % 10) + first[place + 1 :]
    assert check_digit(wrong) != check_digit(first)
    if place < 16 and first[place] != first[place + 1]:
        swapped = first[:place] + first[place + 1] + first[place] + first[place + 2 :]
        assert check_digit(swapped) != check_digit(first)


def test_a_sealed_field_opens_for_its_owner_and_nowhere_else() -> None:
    seal, other = Seal("one secret of a deployment"), Seal("another secret of one more")
    text = normal("phone", "+86 139-0000-0001", date(2026, 1, 1))
    sealed = seal.seal("r-1", "phone", text)
    assert seal.open("r-1", "phone", sealed) == "+8613900000001"
    assert sealed != seal.seal("r-1", "phone", text), "the same value never looks the same"
    assert b"139" not in sealed
    for owner, kind, how, bytes_ in (("r-2", "phone", seal, sealed), ("r-1", "address", seal, sealed), ("r-1", "phone", other, sealed),
                                     ("r-1", "phone", seal, sealed[:-1] + b"\0")):  # fmt: skip
        with pytest.raises(BadInput, match="cannot_open"):
            how.open(owner, kind, bytes_)
    assert seal.lookup("phone", text) == seal.lookup("phone", text) != seal.lookup("health_card", text)
    assert seal.lookup("phone", text) != other.lookup("phone", text)
    with pytest.raises(ConfigError):
        Seal("short")


def test_a_referral_goes_up_and_comes_down_and_every_step_is_one_sides() -> None:
    stage = Stage.SUGGESTED
    for action, side in (("accept", COMMUNITY), ("book", HOSPITAL), ("see", HOSPITAL), ("report", HOSPITAL), ("suggest_down", HOSPITAL),
                         ("accept_down", COMMUNITY), ("return", COMMUNITY)):  # fmt: skip
        with pytest.raises(Refused):
            next_stage(action, stage, HOSPITAL if side == COMMUNITY else COMMUNITY)
        stage = next_stage(action, stage, side)
    assert stage is Stage.COMMUNITY
    for ended in ENDED:
        for action in STEPS:
            for side in (COMMUNITY, HOSPITAL):
                with pytest.raises(Refused):
                    next_stage(action, ended, side)
    with pytest.raises(Refused, match="wrong_side"):
        next_stage("reject", Stage.SUGGESTED, HOSPITAL)
    with pytest.raises(Refused, match="wrong_side"):
        next_stage("reject", Stage.ACCEPTED, COMMUNITY)
    assert next_stage("reject", Stage.ACCEPTED, HOSPITAL) is Stage.REJECTED


def test_a_clock_that_goes_back_delays_nothing_and_one_that_jumps_ahead_is_believed() -> None:
    start = datetime(2026, 11, 26, tzinfo=UTC)
    day = 86_400.0
    clock = Clock()
    assert clock.at(start, 0) == start
    assert clock.at(start + timedelta(seconds=10), 10) == start + timedelta(seconds=10)
    assert clock.at(start + timedelta(seconds=20 - day), 20) == start + timedelta(seconds=20), "a day back: as if nothing had happened"
    assert clock.at(start + timedelta(seconds=30), 30) == start + timedelta(seconds=30), "put right again"
    assert clock.at(start + timedelta(seconds=40 + day), 40) == start + timedelta(seconds=40 + day), "ahead: believed, nothing waits"
    assert clock.at(start + timedelta(seconds=50), 50) == start + timedelta(seconds=50), "and back to where it was"


def test_the_plan_asks_for_a_visit_each_quarter_and_in_two_weeks_where_it_is_not_under_control() -> None:
    today, signed = date(2026, 11, 26), date(2026, 1, 1)

    def due(last: date | None, uncontrolled: bool = False, of: frozenset[str] = frozenset({"hypertension"})) -> list[tuple[str, date]]:
        return [(one.kind, one.due_on) for one in plan("r-1", of, signed, last, None, uncontrolled, today)]

    assert due(date(2026, 11, 1)) == [("follow_up", date(2027, 1, 30))]
    assert due(date(2026, 11, 20), uncontrolled=True) == [("follow_up", date(2026, 12, 4))]
    assert due(None) == [("follow_up", today)], "never seen: due now, once"
    assert due(date(2026, 11, 20), of=frozenset({"65+"})) == [("contact", date(2027, 2, 19))]
    assert len(due(date(2026, 11, 1), of=frozenset({"hypertension", "diabetes"}))) == 2
    assert plan("r-1", frozenset({"hypertension"}), None, None, None, False, today) == []
