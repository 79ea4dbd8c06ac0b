"""Routing, paging, and what a person may do with a case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care import advice
from care.case import ACTIONS, ENDED, CaseState, calls, next_state
from ingest.batch import Stored
from rules import pack
from tests.ingest.helpers import CUFF, Clinic, measurement, message
from vitals.alert import OPEN_STATES, TRANSITIONS, Change, Severity, State, Why, may_move
from vitals.errors import Refused
from vitals.measurement import Measurement
from yizhan import town

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "why", "severity", "case", "called", "last_human", "expected"),
    [
        (State.PENDING, Why.OPENED, "P2", CaseState.OPEN, None, None, False),  # seen, not called about
        (State.FIRING, Why.CONFIRMED, "P2", CaseState.OPEN, None, None, True),
        (State.FIRING, Why.LATE, "P2", CaseState.OPEN, None, None, True),
        (State.FIRING, Why.CONFIRMED, "P2", CaseState.OPEN, "P2", None, False),  # grouped: they are being called about this person
        (State.FIRING, Why.URGENT, "P1", CaseState.OPEN, "P2", None, True),  # worse
        (State.FIRING, Why.REPEATED, "P3", CaseState.OPEN, None, None, True),  # its clock begins, it reaches nobody at once
        (State.FIRING, Why.REPEATED, "P3", CaseState.CLAIMED, None, NOW, False),
        (State.UNCONFIRMED, Why.NOT_CONFIRMED, "P3", CaseState.OPEN, None, None, True),  # a P3 item has its clock
        (State.FIRING, Why.APPENDED, "P2", CaseState.OPEN, "P2", None, False),  # already on its way
        (State.FIRING, Why.APPENDED, "P2", CaseState.ACKNOWLEDGED, "P2", NOW - timedelta(minutes=119), False),
        (State.FIRING, Why.APPENDED, "P2", CaseState.ACKNOWLEDGED, "P2", NOW - timedelta(hours=2), True),
        (State.FIRING, Why.DEADLINE, "P2", CaseState.ACKNOWLEDGED, None, NOW, True),  # acknowledged while pending
        (State.FIRING, Why.DEADLINE, "P2", CaseState.REFERRED, "P2", NOW, True),
        (State.CLEARED, Why.CLEARED, "P2", CaseState.CLAIMED, "P2", NOW, False),
    ],
)
def test_who_is_called_when(
    state: State, why: Why, severity: str, case: CaseState, called: str | None, last_human: datetime | None, expected: bool
) -> None:
    change = Change("r-1", "bp_danger", "x", state, Severity(severity), why, NOW)
    assert calls(change, case, Severity(called) if called else None, last_human, NOW) is expected


def test_nothing_leads_out_of_an_ended_case() -> None:
    for action in ACTIONS:
        for state in ENDED:
            with pytest.raises(Refused):
                next_state(action, state)


@given(st.lists(st.sampled_from(State), max_size=12))
def test_an_alert_never_comes_back_from_its_end(moves: list[State]) -> None:
    current: State | None = None
    for new in moves:
        if may_move(current, new):
            assert current is None or current in OPEN_STATES
            current = new
    assert set(TRANSITIONS) == {None, *State}


@pytest.mark.services
async def test_the_signed_team_gets_the_case_the_unsigned_go_to_the_stations_duty(clinic: Clinic) -> None:
    await clinic.run("insert into team values ('other', '别的团队', 'centre')")
    await clinic.run("insert into staff values ('dr-other', '别的医生', 'other')")
    signed, unsigned, nowhere = [await clinic.resident(person[3]) for person in town.PEOPLE]
    await clinic.run("update contract set team = 'other' where resident = %s", signed)
    await clinic.run("update contract set during = daterange('2020-01-01', '2021-01-01') where resident in (%s, %s)", unsigned, nowhere)
    await clinic.run("update resident set site = null where resident = %s", nowhere)
    for person in town.PEOPLE:
        await clinic.send(message(measurement(186, 112, device=person[3])))
    routes = {
        row["subject"]: (row["team"], row["routed_by"]) for row in await clinic.rows("select subject, team, routed_by from care_case")
    }
    assert routes == {signed: ("other", "contract"), unsigned: (town.TEAM, "duty"), nowhere: ("centre", "duty")}


@pytest.mark.services
async def test_a_case_gathers_everything_open_about_one_person(clinic: Clinic) -> None:
    await clinic.submit("facts", {"facts": {"birth_date": "1992-01-01"}}, await clinic.resident())
    await clinic.send(message(measurement(150, 95)), message(measurement(186, 112)))
    assert await clinic.value("select count(*) from care_case") == 1
    row = (await clinic.rows("select severity, (select count(*) from case_alert) as alerts from care_case"))[0]
    assert row == {"severity": "P2", "alerts": 2}


@pytest.mark.services
async def test_acknowledging_a_pending_case_does_not_stop_its_confirmation(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112, ago=timedelta(minutes=3))))
    await clinic.run("update care_case set state = 'acknowledged', acknowledged_at = now(), last_human_at = now(), version = version + 1")
    await clinic.send(message(measurement(188, 113)))
    assert ((await clinic.alert()) or {})["state"] == "firing"
    case = (await clinic.rows("select state, paged_at is not null as paged, ack_due_at is not null as due from care_case"))[0]
    assert case == {"state": "open", "paged": True, "due": True}


@pytest.mark.services
async def test_ending_a_case_with_a_stale_version_ends_nothing(clinic: Clinic) -> None:
    await clinic.send(message(measurement(186, 112)))
    await clinic.run("update care_case set state = 'claimed'")
    body = {"case": 1, "version": 99, "action": "resolve", "why": "x"}
    assert await clinic.submit("case_end", body, await clinic.resident(CUFF)) == "refused:stale_version"
    assert ((await clinic.alert()) or {})["state"] == "pending"
    version = await clinic.value("select version from care_case")
    assert await clinic.submit("case_end", body | {"version": version}) == "applied"
    assert ((await clinic.alert()) or {})["state"] == "closed"
    assert await clinic.value("select count(*) from rule_timer where rule <> '@daily'") == 0


def _stored(**values: float) -> Stored:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    one = Measurement(device="d", kind="glucose", record=1, measured_at=at, received_at=at, setting="kiosk", values=dict(values))
    return Stored(7, one, "r-1", "r-1", "c", "g", "s", ())


@pytest.mark.parametrize(
    ("family", "state", "expected"),
    [
        ("bp_danger", State.PENDING, "rest_and_repeat"), ("bp_danger", State.FIRING, "call_for_help"), ("glucose_low", State.FIRING, "take_sugar"),
        ("glucose_high", State.PENDING, "wash_and_repeat"), ("glucose_high", State.FIRING, "call_for_help"),
        ("hypoxia", State.PENDING, "warm_and_repeat"), ("hypoxia", State.UNCONFIRMED, "see_doctor"), ("fever", State.PENDING, "see_doctor"),
        ("bp_control", State.FIRING, "done"), ("glucose_low", State.CLEARED, "done"),
    ],
)  # fmt: skip
def test_the_screen_never_says_done_about_a_danger(family: str, state: State, expected: str) -> None:
    change = Change("r-1", family, "x", state, Severity.P2, Why.OPENED, datetime(2026, 1, 5, tzinfo=UTC), measurement=7)
    told = advice.advice(_stored(glucose=2.8), [change], ["eye_pain"])
    assert told["next"] == expected
    assert ("ask_symptoms" in told) == (family == "bp_danger")


def test_every_family_that_can_page_has_an_advice() -> None:
    rules = [rule for name in pack.shipped() for rule in pack.load_named(name).rules]
    assert {rule.family for rule in rules if rule.severity <= Severity.P2} | {"not_judged"} == set(advice.DANGER)
    at_once = [rule for rule in rules if rule.absence is None and rule.daily is None]  # the others nobody stands at a station for
    assert {rule.family for rule in at_once if rule.severity > Severity.P2} <= advice.REVIEWED | {"bp_control"}
