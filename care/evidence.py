"""What goes to the hospital with a referral: gathered once, the same for ever, taken with a receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from care import cases, consents, fhir, files, residents
from ingest import devices, readings
from rules import alerts
from vitals.errors import Refused
from vitals.floor.database import Connection

SPAN = timedelta(days=30)
UNSENT = ("suggested", "rejected")


async def gathered(connection: Connection, referral: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """What the page shows: the person, the confirming readings, thirty days, devices, history, what was agreed to."""
    who = referral["resident"]
    found = await alerts.by_number(connection, await cases.alerts_of(connection, referral["care_case"]))
    cited = sorted({entry["measurement"] for alert in found for entry in alert["log"] if entry["measurement"] is not None})
    file = await files.of_resident(connection, who)
    confirming = await readings.by_number(connection, cited)
    named = [row["device"] for row in (*confirming, *file["devices"])]
    said = await consents.of_resident(connection, who)
    return {
        "person": await residents.get(connection, who), "alerts": found, "confirming": confirming,
        "devices": await devices.described(connection, named),
        "month": await readings.of_subject(connection, who, now - SPAN, now, 2000), "file": file,
        "consent": next(one for one in said if one["purpose"] == "hospital"),
    }  # fmt: skip


async def pack(connection: Connection, referral: Mapping[str, Any], now: datetime, by: str) -> dict[str, Any]:
    """The bundle of a referral and its digest: made at the first question after it was accepted, afterwards only read.

    Raises Refused `not_sent` for one that no hospital has, `consent_withdrawn`.
    """
    if referral["state"] in UNSENT:
        raise Refused("not_sent", "accepted referrals have an evidence pack")
    if not await consents.holds(connection, referral["resident"], "hospital"):
        raise Refused("consent_withdrawn")
    number = referral["referral"]
    cursor = await connection.execute("select * from evidence where referral = %s", (number,))
    known = await cursor.fetchone()
    if known is not None:
        return known
    of = await gathered(connection, referral, now)
    measured = {row["measurement"]: row for row in (*of["month"], *of["confirming"])}
    resources = [
        fhir.patient(of["person"]), fhir.service_request(referral), fhir.consent(referral["resident"], of["consent"]),
        *fhir.conditions(referral["resident"], of["file"]["facts"]), *(fhir.device(row) for row in of["devices"]),
        *(one for number in sorted(measured) for one in fhir.observations(measured[number])),
    ]  # fmt: skip
    made = fhir.bundle("collection", resources, now, f"referral-{number}")
    digest = hashlib.sha256(msgspec.json.encode(made, order="sorted")).hexdigest()
    await connection.execute(
        "insert into evidence (referral, bundle, digest, made_at, made_by) values (%s, %s, %s, %s, %s) on conflict do nothing",
        (number, Jsonb(made), digest, now, by),
    )
    kept = await (await connection.execute("select * from evidence where referral = %s", (number,))).fetchone()
    assert kept is not None
    return kept


async def receive(connection: Connection, referral: int, digest: str, by: str, now: datetime) -> dict[str, Any]:
    """The hospital has it: the receipt, the same one however often it is asked for. Raises Refused `unknown_evidence`."""
    await connection.execute(
        "update evidence set received_at = %s, received_by = %s where referral = %s and digest = %s and received_at is null",
        (now, by, referral, digest),
    )
    cursor = await connection.execute(
        "select referral, digest, received_at, received_by from evidence where referral = %s and digest = %s and received_at is not null",
        (referral, digest),
    )
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_evidence", "another digest than that of the bundle")
    return row
