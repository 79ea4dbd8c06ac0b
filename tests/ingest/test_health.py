"""How devices do: a station's cuff that wanders is told from one that does not, a low battery is seen, and a look is enough for a day."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from ingest import health
from tests.ingest.helpers import Clinic, measurement, message
from vitals.floor import database
from yizhan import town

pytestmark = pytest.mark.services


def test_what_wanders_is_more_than_chance_and_more_than_a_cuff_may_be_wrong() -> None:
    assert [health.wanders(*one) for one in ((None, None), (4.9, 0.1), (5.1, 0.1), (-8.0, 2.0), (-8.0, 3.0), (8.0, None))] == [
        False, False, True, True, False, False,
    ]  # fmt: skip


async def test_a_cuff_that_reads_eight_too_high_since_a_month_wanders(clinic: Clinic) -> None:
    chance, now = random.Random(3), datetime.now(UTC)
    rows = []
    for day in range(60):
        for hour in range(2):
            ago = timedelta(days=day, hours=6 * hour + 1)
            systolic = round(chance.gauss(131, 9)) + (8 if day < 30 else 0)
            rows.append(measurement(systolic, 80, ago=ago, device=town.KIOSK_CUFF, setting="kiosk"))
            rows.append(measurement(systolic, 80, ago=ago))  # a person's own cuff: whatever moves there is the person
    rows.append(measurement(130, 80, ago=timedelta(hours=2), device=town.KIOSK_CUFF, setting="kiosk", flags=["battery_low"]))
    for start in range(0, len(rows), 40):
        await clinic.send(message(*rows[start : start + 40]))
    async with await database.connect(clinic.conninfo) as connection:
        looked = await health.look(connection, now)
        again = await health.look(connection, now + timedelta(hours=1))
        await connection.commit()
    assert (looked > 3, again) == (True, 0)
    found = {row["device"]: row for row in await clinic.rows("select * from device_health join device using (device_no)")}
    kiosk, own, silent = found[town.KIOSK_CUFF], found[town.PEOPLE[0][3]], found[town.PEOPLE[1][3]]
    assert 5 < kiosk["shift"] < 11
    assert health.wanders(kiosk["shift"], kiosk["spread"])
    assert kiosk["battery_low_at"] is not None
    assert (own["shift"], own["n"] > 50, own["battery_low_at"]) == (None, True, None)
    assert (silent["last_at"], silent["n"]) == (None, 0)
