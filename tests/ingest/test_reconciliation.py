"""The gateway's books and ours, day by day: they agree, or they say where they do not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway import spool as spools
from gateway.spool import LANE_NORMAL, Item, Record, Spool, Worth
from ingest import lives
from tests.ingest.helpers import Clinic, measurement, message
from vitals import wire
from vitals.floor import database

DAY = 86_400.0


class Edge:
    """A gateway's spool with a clock of its own, and its messages as the uplink makes them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time() - 3 * DAY
        monkeypatch.setattr(spools.time, "time", lambda: self.now)
        self.path = path
        self.spool = Spool(path)

    def measure(self, count: int) -> None:
        for _ in range(count):
            one = wire.decode_message(_message(), datetime.now(UTC)).measurements[0]
            self.spool.append([Item(wire.encode_measurement(one), LANE_NORMAL, Worth.SPOT)])

    def messages(self) -> list[tuple[Record, bytes]]:
        at = datetime.now(UTC)
        return [(r, wire.encode_message(r.boot, r.seq, at, [r.body], r.day)) for r in self.spool.waiting(10_000)]


def _message() -> bytes:
    return message(measurement())


async def reconcile(clinic: Clinic) -> list[lives.Disagreement]:
    async with await database.connect(clinic.conninfo) as connection:
        return await lives.reconcile(connection, timedelta())


async def test_days_that_are_over_agree_in_count_and_digest(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(tmp_path / "spool.db", monkeypatch)
    edge.measure(5)
    edge.now += DAY
    edge.measure(7)
    edge.now += DAY
    assert edge.spool.tell_days() == 2
    assert edge.spool.tell_days() == 0, "told once"
    payloads = [payload for _, payload in edge.messages()]
    await clinic.send(*payloads[:6], payloads[2], *payloads[4:], *payloads)  # redelivered, out of order: counted once
    assert await reconcile(clinic) == []
    assert await clinic.value("select count(*) from day_report where agreed_at is not null") == 2
    rows = await clinic.rows(
        "select t.messages, t.digest = r.digest as same from day_tally t join day_report r using (source, boot, day) order by day"
    )
    assert [(row["messages"], row["same"]) for row in rows] == [(5, True), (7, True)]


async def test_a_message_that_is_missing_is_named(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(tmp_path / "spool.db", monkeypatch)
    edge.measure(9)
    edge.now += DAY
    edge.spool.tell_days()
    sent = [payload for record, payload in edge.messages() if record.seq not in (4, 5, 8)]
    await clinic.send(*sent)
    (found,) = await reconcile(clinic)
    assert (found.reported, found.stored, found.missing, found.why) == (9, 6, [(4, 5), (8, 8)], "missing")
    async with await database.connect(clinic.conninfo) as connection:
        ((gateway, _boot, holes),) = await lives.holes(connection, timedelta())
    assert holes == [(4, 5), (8, 8)]
    assert gateway == found.gateway
    await clinic.send(*[payload for _, payload in edge.messages()])  # they come after all
    assert await reconcile(clinic) == []


async def test_other_bytes_under_the_same_number_are_noticed(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(tmp_path / "spool.db", monkeypatch)
    edge.measure(3)
    edge.now += DAY
    edge.spool.tell_days()
    messages = edge.messages()
    changed = messages[1][1].replace(b'"systolic":120', b'"systolic":121')
    assert changed != messages[1][1]
    await clinic.send(messages[0][1], changed, *[payload for _, payload in messages[2:]])
    (found,) = await reconcile(clinic)
    assert (found.why, found.missing, found.reported, found.stored) == ("content", [], 3, 3)


async def test_what_a_full_spool_dropped_and_told_explains_the_hole(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge(tmp_path / "spool.db", monkeypatch)
    edge.spool._limit = 1500
    edge.measure(20)
    edge.now += DAY
    edge.spool.tell_days()
    await clinic.send(*[payload for _, payload in edge.messages()])
    assert await clinic.value("select count(*) from gap") > 0
    assert await reconcile(clinic) == []
    async with await database.connect(clinic.conninfo) as connection:
        assert await lives.holes(connection, timedelta()) == []


async def test_a_quarantined_message_is_no_hole(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(tmp_path / "spool.db", monkeypatch)
    edge.measure(2)
    unknown = wire.decode_message(_message().replace(b"cuff-home-1", b"cuff-nobody"), datetime.now(UTC)).measurements[0]
    edge.spool.append([Item(wire.encode_measurement(unknown), LANE_NORMAL, Worth.SPOT)])
    edge.now += DAY
    edge.spool.tell_days()
    await clinic.send(*[payload for _, payload in edge.messages()])
    assert await clinic.value("select count(*) from quarantine") == 1
    assert await reconcile(clinic) == []


async def test_the_books_survive_a_restart_of_the_gateway(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(tmp_path / "spool.db", monkeypatch)
    edge.measure(4)
    edge.spool.close()
    edge.spool = Spool(edge.path)
    edge.measure(2)
    assert edge.spool.tell_days() == 1, "the life before is over, whatever the day"
    edge.now += DAY
    assert edge.spool.tell_days() == 1
    await clinic.send(*[payload for _, payload in edge.messages()])
    assert await reconcile(clinic) == []
    assert await clinic.value("select count(*) from day_report where agreed_at is not null") == 2
