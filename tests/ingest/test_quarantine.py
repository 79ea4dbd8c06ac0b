"""Quarantine: nothing of it is lost, whoever looks is written down, a replay counts once, a full one stops the reading."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from ingest import devices, quarantine, worker
from tests.ingest.helpers import Clinic, measurement, message
from vitals.errors import BadInput, Unavailable
from vitals.floor import database
from yizhan import books as commands


async def replay(clinic: Clinic, *numbers: int) -> dict[int, str]:
    """The command, with the worker beside it."""
    asking = asyncio.create_task(commands.replay(clinic.conninfo, list(numbers), None))
    while not asking.done():
        await clinic.idle()
        await asyncio.sleep(0.02)
    return asking.result()


async def test_what_a_device_measured_before_it_was_registered_is_stored_by_a_replay_and_only_once(clinic: Clinic) -> None:
    early = message(measurement(device="cuff-9"), measurement(120, 80), boot="b", seq=1)
    await clinic.send(early)
    assert await clinic.value("select count(*) from measurement") == 1, "the known part is stored at once"
    (number,) = [row["quarantine"] for row in await clinic.rows("select quarantine from quarantine")]
    assert await replay(clinic, number) == {number: "refused:unknown_device"}
    async with await database.connect(clinic.conninfo) as connection:
        await devices.register(connection, "cuff-9", "blood_pressure", "home", None, None)
        await connection.commit()
    assert await replay(clinic, number) == {number: "stored"}
    assert await clinic.value("select count(*) from measurement") == 2
    assert await replay(clinic, number) == {number: "refused:nothing_to_replay"}
    assert await clinic.value("select count(*) from measurement") == 2
    assert bytes(await clinic.value("select payload from quarantine")) == early, "its bytes stay"
    assert await clinic.value("select bytes from quarantine_volume") == 0


async def test_a_replayed_danger_value_pages_by_the_law_of_late_data(clinic: Clinic) -> None:
    await clinic.send(message(measurement(190, 115, device="cuff-9", ago=timedelta(days=3))))
    async with await database.connect(clinic.conninfo) as connection:
        await devices.register(connection, "cuff-9", "blood_pressure", "home", None, None)
        await connection.commit()
    await replay(clinic)
    alert = await clinic.alert()
    assert alert is not None
    assert (alert["why"], alert["severity"]) == ("late", "P2")


async def test_counts_by_reason_and_who_looked(clinic: Clinic) -> None:
    await clinic.send(b"\x00", b"{", message(measurement(device="x")))
    told = await commands.listing(clinic.conninfo, None, 10)
    assert told["waiting"] == {"not_json": 2, "unknown_device": 1}
    assert all("payload" not in row for row in told["items"])
    number = next(row["quarantine"] for row in told["items"] if row["bytes"] == 1 and row["reason"] == "not_json")
    assert (await commands.show(clinic.conninfo, number))["hex"] in ("00", "7b")
    access = await clinic.rows("select account, quarantine, what from quarantine_access")
    assert [(row["quarantine"], row["what"]) for row in access] == [(number, "show")]
    assert "cli:" in access[0]["account"]
    with pytest.raises(BadInput):
        await commands.show(clinic.conninfo, 10**9)
    json.dumps(told, default=str)


async def test_a_full_quarantine_stops_the_reading_and_it_goes_on_when_there_is_room(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RETRY_LONGEST", 0.05)
    monkeypatch.setattr(quarantine, "LIMIT", 10)
    monkeypatch.setattr(quarantine.keep, "__defaults__", (10,))
    sending = asyncio.create_task(clinic.send(message(measurement()), b"not json at all, and long"))
    await asyncio.sleep(0.4)
    assert not sending.done(), "nothing is acknowledged while what came cannot be kept"
    assert await clinic.value("select count(*) from measurement") == 0
    monkeypatch.setattr(quarantine.keep, "__defaults__", (1 << 20,))
    await asyncio.wait_for(sending, 10)
    assert await clinic.value("select count(*) from measurement") == 1
    assert await clinic.value("select count(*) from quarantine") == 1


async def test_a_quarantine_that_is_not_there_stops_the_reading_too(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "RETRY_LONGEST", 0.05)
    await clinic.run("alter table quarantine rename to gone")
    sending = asyncio.create_task(clinic.send(b"not json"))
    await asyncio.sleep(0.3)
    assert not sending.done()
    await clinic.run("alter table gone rename to quarantine")
    await asyncio.wait_for(sending, 10)
    assert await clinic.value("select count(*) from quarantine") == 1


async def test_keeping_says_why_it_cannot(conninfo: str) -> None:
    from tests.ingest.helpers import incoming

    async with await database.connect(conninfo) as connection:
        with pytest.raises(Unavailable, match="full"):
            await quarantine.keep(connection, incoming(b"x" * 100), "not_json", "", limit=50)
