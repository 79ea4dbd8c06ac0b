"""The district that `make up` shows: every page has something on it, and nothing of it contradicts itself."""

from __future__ import annotations

import pytest

from care import cases, indicators, tasks
from tests.ingest.helpers import FIELD_KEY, Clinic
from vitals.floor import database
from yizhan import district, town

pytestmark = pytest.mark.services


async def test_a_small_district_has_a_year_behind_it_and_a_day_before_it(clinic: Clinic) -> None:
    told = await district.settle(clinic.conninfo, FIELD_KEY, "Asia/Shanghai", people=240)
    assert told["residents"] == 240
    assert told["measurements"] > 4000
    async with await database.connect(clinic.conninfo) as connection:
        queue = await cases.queue(connection, [team for team, _, _ in district.teams()], 500)
        own = await cases.queue(connection, [town.TEAM], 500)
        quarters = await indicators.quarters(connection)
        figures = {one["code"]: one for one in await indicators.listing(connection, quarters[0], "district", None)}
        work = await tasks.listing(connection, teams=[town.TEAM], places=[], staff=None)
    assert len(queue) > 20
    assert {"open", "claimed"} <= {row["state"] for row in queue}
    assert {alert["state"] for row in queue for alert in row["alerts"] or ()} >= {"pending", "firing"}
    assert len(own) >= 3
    assert work
    assert len(quarters) == 2
    assert 0 < figures["htn_controlled"]["numerator"] < figures["htn_controlled"]["denominator"]
    assert figures["signed"]["denominator"] >= 200
    states = {row["state"] for row in await clinic.rows("select distinct state from referral")}
    assert len(states) > 2
    assert await clinic.value("select count(*) from measurement where subject not in (select resident from resident)") == 0
    assert await clinic.value("select count(*) from care_case where ended_at < acknowledged_at or acknowledged_at < opened_at") == 0
    broken = "select count(*) from referral r where state <> (select to_state from referral_log l where l.referral = r.referral"
    assert await clinic.value(broken + " order by entry desc limit 1)") == 0
