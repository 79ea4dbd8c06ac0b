"""The worker's transaction: once, attributed, in order, and never blocked by poison."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from ingest import attribution, intake, receipts, worker
from tests.ingest.helpers import CUFF, TOPIC, Clinic, incoming, measurement, message
from vitals.floor import database
from yizhan import town

pytestmark = pytest.mark.services


async def test_a_reading_is_stored_once_however_often_and_however_it_comes(clinic: Clinic) -> None:
    one = measurement(121, 81)
    re_timestamped = one | {"measured_at": (datetime.now(UTC) - timedelta(days=40)).isoformat()}
    await clinic.send(message(one), message(one))
    await clinic.send(message(one, boot="other-gateway-life"), message(re_timestamped))
    assert await clinic.value("select count(*) from measurement") == 1
    assert await clinic.value("select count(*) from reading") == 3


async def test_the_same_key_with_other_bytes_opens_a_series_of_its_own_and_is_evaluated(clinic: Clinic) -> None:
    first = measurement(121, 81, record=7, raw="1e01")
    other = measurement(185, 112, record=7, raw="1e02")
    await clinic.send(message(first), message(other), message(other))
    rows = await clinic.rows("select series, flags from measurement order by measurement")
    assert [row["flags"] for row in rows] == [None, ["series_break"]]
    assert len({row["series"] for row in rows}) == 2
    assert (await clinic.alert() or {})["state"] == "pending"


async def test_two_series_of_samples_under_one_record_are_told_apart(clinic: Clinic) -> None:
    same = {"values": {}, "raw": "", "record": 8}
    first = measurement(**same, samples={"heart_rate": {"values": [70, 71, 72], "every_ms": 1000}})
    other = measurement(**same, samples={"heart_rate": {"values": [90, 91, 72], "every_ms": 1000}})
    await clinic.send(message(first), message(other), message(first))
    assert await clinic.value("select count(*) from measurement") == 2
    assert await clinic.value("select count(*) from sample") == 6


async def test_a_poisonous_message_goes_aside_and_delays_nobody(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    real = worker.readings.write

    async def write(connection: database.Connection, items: list[object], now: datetime) -> None:
        if any("poison" in stored.measurement.flags for stored, _ in items):  # type: ignore[attr-defined, misc]
            await connection.execute("select 1 / 0")
        await real(connection, items, now)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.readings, "write", write)
    payloads = [message(measurement(120 + n, 80)) for n in range(20)]
    payloads[13] = message(measurement(140, 80, flags=["poison"]))
    judged = await clinic.send(*payloads)
    assert await clinic.value("select count(*) from measurement") == 19
    kept = await clinic.rows("select payload, reason from quarantine")
    assert [(bytes(row["payload"]), row["reason"]) for row in kept] == [(payloads[13], "store_failed:22012")]
    assert [one.refusal is None for one in judged].count(False) == 1


async def test_results_do_not_depend_on_how_messages_are_batched(conninfo: str, clinic: Clinic) -> None:
    chance = random.Random(5)
    values = [(chance.choice([150, 179, 182, 165, 120]), chance.choice([80, 95, 112])) for _ in range(40)]
    people = [town.PEOPLE[n % 3][3] for n in range(40)]
    at = [timedelta(hours=60 - n) for n in range(40)]
    payloads = [message(measurement(s, d, ago=ago, device=device)) for (s, d), ago, device in zip(values, at, people, strict=True)]

    async def outcome() -> list[tuple[str, ...]]:
        rows = await clinic.rows(
            "select l.state, l.why, l.severity, m.record from alert_log l"
            " left join measurement m using (measurement) order by l.measurement, l.n"
        )
        return [tuple(str(v) for v in row.values()) for row in rows]

    await clinic.send(*payloads)
    together = await outcome()
    assert together, "the example must raise something"
    for table in (
        "notice",
        "rung",
        "referral_log",
        "referral",
        "case_log",
        "case_alert",
        "care_case",
        "alert_log",
        "alert",
        "rule_state",
        "rule_timer",
        "measurement",
        "ledger",
        "outbox",
    ):
        await clinic.run(f"delete from {table}")
    for payload in payloads:
        await clinic.send(payload)
    assert await outcome() == together


async def test_a_database_that_goes_away_costs_latency_only(clinic: Clinic) -> None:
    await clinic.send(message(measurement()))
    connection = await clinic.worker.connection()
    pid = connection.info.backend_pid
    async with await database.connect(clinic.conninfo, autocommit=True) as other:
        await other.execute("select pg_terminate_backend(%s)", (pid,))
    await clinic.send(message(measurement()))
    assert await clinic.value("select count(*) from measurement") == 2


async def test_receipts_name_what_is_stored_and_what_was_refused(clinic: Clinic) -> None:
    sent: list[tuple[str, bytes]] = []

    class Recorder:
        async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
            sent.append((topic, payload))

    judged = await clinic.send(
        message(measurement(), boot="b", seq=5),
        message(measurement(), boot="b", seq=6),
        message(measurement(device="nobody"), boot="b", seq=9),
    )
    await receipts.send(Recorder(), judged)  # type: ignore[arg-type]
    assert sent == [
        (TOPIC.replace("up/readings", "down/receipt"), b'{"boot":"b","stored":[[5,6]],"quarantined":[{"seq":9,"reason":"unknown_device"}]}')
    ]


async def test_a_gateway_speaks_only_for_itself_and_only_while_enrolled(clinic: Clinic) -> None:
    await clinic.send(message(measurement()), topic="yz/1/station-1/gateway-9/up/readings")
    await clinic.send(message(measurement()), topic="yz/1/station-2/gateway-1/up/readings")
    await clinic.run("update gateway set revoked_at = now()")
    await clinic.send(message(measurement()))
    assert await clinic.value("select count(*) from measurement") == 0
    assert await clinic.value("select count(*) from quarantine where reason = 'unknown_gateway'") == 3


async def test_old_and_future_times_are_stored_and_never_guessed(clinic: Clinic) -> None:
    await clinic.send(
        message(measurement(120, 80, measured_at="1970-01-01T00:00:00Z")),
        message(measurement(121, 80, measured_at="2099-01-01T00:00:00Z")),
        message(measurement(122, 80, measured_at="2026-01-05T08:00:00")),
        message(measurement(123, 80, measured_at="2018-05-05T08:00:00Z")),
    )
    rows = await clinic.rows("select time_quality, measured_at = received_at as moved from measurement order by measurement")
    assert [(row["time_quality"], row["moved"]) for row in rows] == [("untrusted", True)] * 3 + [("synced", False)]


async def test_a_personal_device_belongs_to_whoever_wore_it_when_it_measured(clinic: Clinic) -> None:
    first = await clinic.resident()
    assert await clinic.submit("unbind", {"device": CUFF}) == "applied"
    second = await clinic.resident(town.PEOPLE[1][3])
    assert await clinic.submit("bind", {"device": CUFF, "resident": second}) == "applied"
    assert await clinic.submit("bind", {"device": CUFF, "resident": first}) == "refused:already_bound"
    await clinic.send(message(measurement(ago=timedelta(hours=1))), message(measurement()), message(measurement(ago=timedelta(days=60))))
    rows = await clinic.rows("select subject from measurement order by measurement")
    assert [row["subject"] for row in rows] == [first, second, f"device:{CUFF}"]


async def test_a_station_belongs_to_the_open_checkin_that_the_reading_names(clinic: Clinic) -> None:
    resident = await clinic.resident()
    await clinic.submit("checkin", {"checkin": "c-1", "station": town.GATEWAY, "resident": resident})
    kiosk = {"device": town.KIOSK_CUFF, "setting": "kiosk"}
    await clinic.send(
        message(measurement(checkin="c-1", **kiosk)),
        message(measurement(**kiosk)),  # names no check-in
        message(measurement(checkin="c-1", ago=timedelta(hours=1), **kiosk)),  # measured before it began
    )
    await clinic.submit("checkin", {"checkin": "c-2", "station": town.GATEWAY, "resident": await clinic.resident(town.PEOPLE[1][3])})
    await clinic.send(message(measurement(checkin="c-1", **kiosk)))  # the next person is already here
    rows = await clinic.rows("select subject from measurement order by measurement")
    assert [row["subject"] for row in rows] == [resident] + [f"device:{town.KIOSK_CUFF}"] * 3


async def test_a_checkin_ends_after_two_idle_minutes_and_never_outlives_fifteen(connection: database.Connection, clinic: Clinic) -> None:
    await clinic.submit("checkin", {"checkin": "c-1", "station": town.GATEWAY, "resident": await clinic.resident()})
    rows = await clinic.rows("select ends_at - started_at as idle, latest_at - started_at as longest from checkin")
    assert (rows[0]["idle"], rows[0]["longest"]) == (timedelta(minutes=2), timedelta(minutes=15))
    await attribution.extend(connection, "c-1", datetime.now(UTC) + timedelta(hours=3))
    await connection.commit()
    assert await clinic.value("select ends_at = latest_at from checkin")
    assert await clinic.submit("checkout", {"checkin": "c-1"}) == "applied"
    assert await clinic.submit("checkout", {"checkin": "c-1"}) == "refused:checkin_over"


async def test_an_unclaimed_danger_value_goes_to_the_stations_duty_queue_and_can_be_claimed(clinic: Clinic) -> None:
    await clinic.send(message(measurement(190, 115, device=town.KIOSK_CUFF, setting="kiosk")))
    case = (await clinic.rows("select subject, team, routed_by from care_case"))[0]
    assert case == {"subject": f"device:{town.KIOSK_CUFF}", "team": town.TEAM, "routed_by": "duty"}
    resident = await clinic.resident()
    number = await clinic.value("select measurement from measurement")
    assert await clinic.submit("claim", {"measurement": number, "resident": resident}) == "applied"
    assert await clinic.submit("claim", {"measurement": number, "resident": resident}) == "refused:already_claimed"
    subjects = await clinic.rows("select subject from alert where state = 'pending' order by alert")
    assert resident in {row["subject"] for row in subjects}


async def test_two_workers_at_once_store_each_reading_once(conninfo: str, clinic: Clinic) -> None:
    other = await Clinic(conninfo).open()
    payloads = [message(measurement(110 + n, 70)) for n in range(50)]
    shuffled = random.Random(3).sample(payloads, len(payloads))
    await asyncio.gather(clinic.send(*payloads), other.send(*shuffled))
    await other.worker.close()
    assert await clinic.value("select count(*) from measurement") == 50


async def test_a_message_without_a_transaction_is_never_reported_as_stored(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit itself fails once: nothing is acknowledged, and the second try stores it."""
    tries = 0
    real = worker.Worker._transaction

    async def transaction(self: worker.Worker, items: list[object]) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise psycopg.OperationalError("the line went dead")
        return await real(self, items)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.Worker, "_transaction", transaction)
    await clinic.worker.process([incoming(message(measurement()))])
    assert tries == 2
    assert await clinic.value("select count(*) from measurement") == 1


async def test_an_intake_row_that_breaks_something_is_refused_alone(clinic: Clinic) -> None:
    resident = await clinic.resident()
    rows: list[dict[str, Any]] = [{"facts": {"hypertension": True}}, {"nonsense": 1}, {"facts": {"pregnant": False}}]
    async with await database.connect(clinic.conninfo) as connection:
        for body in rows:
            await intake.submit(connection, "facts", body, "tester", resident)
        await connection.commit()
    await clinic.send(message(measurement()))
    results = await clinic.rows("select result from intake order by intake")
    assert [row["result"] for row in results] == ["applied", "refused:internal:KeyError", "applied"]
    assert await clinic.value("select count(*) from measurement") == 1
    assert await clinic.value("select count(*) from quarantine") == 0


async def test_when_our_own_steps_fail_everything_waits_and_nothing_goes_to_quarantine(clinic: Clinic) -> None:
    real = clinic.worker._steps
    failing = True

    async def broken(connection: database.Connection, batch: object, now: datetime) -> datetime | None:
        if failing:
            raise ZeroDivisionError
        return None

    clinic.worker._steps = [broken, *real]
    async with await database.connect(clinic.conninfo) as connection:
        await intake.submit(connection, "facts", {"facts": {"hypertension": True}}, "tester", await clinic.resident())
        await connection.commit()
    sending = asyncio.create_task(clinic.send(message(measurement(186, 112))))
    await asyncio.sleep(0.5)
    assert not sending.done()
    failing = False
    assert await clinic.value("select result from intake") is None, "an innocent row waits as well"
    await asyncio.wait_for(sending, 20)
    assert await clinic.value("select result from intake") == "applied"
    assert await clinic.value("select count(*) from quarantine") == 0
    assert ((await clinic.alert()) or {})["state"] == "pending"
