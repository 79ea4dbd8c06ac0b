"""Care's steps in the worker's transaction: a person's ending before the rules, cases and advice after them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from care import advice, cases, residents
from care.case import ACKNOWLEDGE_WITHIN, CaseState, page
from ingest import attribution, outbox
from ingest.batch import Batch, Step
from vitals.alert import Change, State, Why
from vitals.errors import Refused
from vitals.floor.database import Connection


async def close_cases(connection: Connection, batch: Batch, now: datetime) -> datetime | None:
    """Resolve and dismiss: the case ends here, its alerts with the rules, in the same transaction."""
    for event in batch.events:
        if event.kind == "case_end":
            body = event.body
            try:
                subject = await cases.end(
                    connection, int(body["case"]), int(body["version"]), body["action"], event.account, body["why"], now
                )
            except Refused as error:
                batch.results[event.intake] = f"refused:{error.reason}"
            else:
                batch.ended.append((subject, event.account))
    return None


async def open_cases(connection: Connection, batch: Batch, now: datetime) -> datetime | None:
    """Every alert that moved belongs to a case, opened or joined in the transaction that moved it."""
    if not batch.changes:
        return None
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
            number = await cases.open_new(connection, change.subject, resident, route, change.severity, now)
            state, last_human, team = None, None, route.team
        else:
            number, state, last_human, team = case["care_case"], CaseState(case["state"]), case["last_human_at"], case["team"]
        await _join(connection, number, team, state, last_human, change, now)
    return None


async def _join(
    connection: Connection, number: int, team: str, state: CaseState | None, last_human: datetime | None, change: Change, now: datetime
) -> None:
    await cases.join_alert(connection, number, change.alert)
    paging = page(change.state, change.why, change.severity, state, last_human, now)
    shown = state or CaseState.OPEN
    await cases.log(connection, number, now, "system", "alert", shown, shown, change.alert, f"{change.state}:{change.why}")
    begins = paging.now or (change.state is State.FIRING and change.why is not Why.APPENDED)
    due = now + ACKNOWLEDGE_WITHIN[change.severity] if begins else None
    await cases.refresh(connection, number, now, paged=paging.now, again=paging.again, ack_due=due)
    if paging.now:
        await cases.log(connection, number, now, "system", "paged", shown, CaseState.OPEN if paging.again else shown, change.alert)
        body = {"case": number, "team": team, "alert": change.alert, "severity": change.severity.value, "again": paging.again}
        await outbox.put(connection, "notify", body)


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
