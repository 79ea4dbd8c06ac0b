"""Care's steps in the worker's transaction: a person's ending before the rules, cases and advice after them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from care import advice, cases, plans, residents, staff
from care.case import PAGED, CaseState, calls
from ingest import attribution, outbox
from ingest.batch import Batch, Step
from vitals.alert import Change, Severity, State, Why
from vitals.errors import Refused
from vitals.floor.database import Connection


def close_cases(zone: str) -> Step:
    """A step: resolve and dismiss. The case ends here, its alerts with the rules, in the same transaction."""

    async def step(connection: Connection, batch: Batch, now: datetime) -> datetime | None:
        for event in batch.events:
            if event.kind != "case_end":
                continue
            body = event.body
            try:
                case = await cases.end(connection, int(body["case"]), int(body["version"]), body["action"], event.account, body["why"], now)
            except Refused as error:
                batch.results[event.intake] = f"refused:{error.reason}"
            else:
                batch.ended.append((case["subject"], event.account))
                await plans.after_case(connection, case, body["action"], now, zone)
        return None

    return step


def open_cases(zone: str) -> Step:
    """A step: every alert that moved belongs to a case, opened or joined in the transaction that moved it."""

    async def step(connection: Connection, batch: Batch, now: datetime) -> datetime | None:
        sites = {stored.subject: stored.site for stored in batch.measurements}
        people = {stored.subject: stored.resident for stored in batch.measurements}
        for change in batch.changes:
            if change.state is State.CLOSED:
                continue
            case = await cases.active_of(connection, change.subject)
            if case is None:
                if change.state is State.CLEARED:
                    continue
                resident = people.get(change.subject, change.subject if change.subject.startswith("r-") else None)
                route = await residents.route(connection, resident, sites.get(change.subject))
                await cases.open_new(connection, change.subject, resident, route, change.severity, now)
                case = await cases.active_of(connection, change.subject)
                assert case is not None
            await _join(connection, case, change, now, zone)
        return None

    return step


async def _join(connection: Connection, case: dict[str, Any], change: Change, now: datetime, zone: str) -> None:
    """The case takes the alert in; whoever must be reached is called, once for everything that is open about a person."""
    number, state = case["care_case"], CaseState(case["state"])
    await cases.join_alert(connection, number, change.alert)
    await cases.log(connection, number, now, "system", "alert", state, state, change.alert, f"{change.state}:{change.why}")
    await cases.refresh(connection, number, now)
    called = Severity(case["called"]) if case["called"] is not None else None
    if calls(change, state, called, case["last_human_at"], now):
        await cases.call(connection, number, change.severity, now, await staff.calendar(connection, case["team"], now, zone))
        if change.severity in PAGED:
            await cases.log(connection, number, now, "system", "paged", state, CaseState.OPEN, change.alert)
    if change.state is State.FIRING and change.why is not Why.APPENDED and case["resident"] is not None:
        await plans.after_alert(connection, case, change, now, zone)


def advise(symptoms: Sequence[str]) -> Step:
    """A step that tells the station what was received and what to do next; symptoms: what to ask about danger."""

    async def step(connection: Connection, batch: Batch, now: datetime) -> datetime | None:
        for stored in batch.measurements:
            if stored.station is None:
                continue
            told = advice.advice(stored, batch.changes, symptoms)
            if stored.checkin is not None:
                told["checkin"] = stored.checkin
                pending = [c for c in batch.changes if c.measurement == stored.number and c.why is Why.OPENED and c.deadline]
                if pending:  # the check-in stays open while a repeat is asked for
                    await attribution.extend(connection, stored.checkin, max(c.deadline for c in pending if c.deadline))
            await outbox.put(connection, "advice", told, gateway=stored.station, checkin=stored.checkin)
        return None

    return step
