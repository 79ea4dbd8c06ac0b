"""A measurement that is somebody else's moves, what was concluded from it is retracted, and who owns it now is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ingest import intake
from ingest.batch import Incoming
from ingest.worker import Worker
from tests.ingest.helpers import CUFF, Clinic, measurement, message
from vitals.floor import database
from vitals.settings import Settings
from yizhan import town
from yizhan.compose import steps

OTHER = town.PEOPLE[1][3]


async def number_of(clinic: Clinic, record: str) -> int:
    return int(await clinic.value("select measurement from measurement where record = %s", record))


async def alerts_of(clinic: Clinic, subject: str) -> list[tuple[str, str]]:
    rows = await clinic.rows("select state, why from alert where subject = %s and family = 'bp_danger' order by alert", subject)
    return [(row["state"], row["why"]) for row in rows]


async def test_a_danger_value_that_was_the_spouses_is_retracted_here_and_pending_there(clinic: Clinic) -> None:
    mine, theirs = await clinic.resident(CUFF), await clinic.resident(OTHER)
    await clinic.send(message(measurement(186, 112, record="a")))
    assert await alerts_of(clinic, mine) == [("pending", "opened")]
    body = {"measurement": await number_of(clinic, "a"), "resident": theirs, "why": "the spouse used the cuff"}
    assert await clinic.submit("reattribute", body, mine) == "applied"
    assert await alerts_of(clinic, mine) == [("cleared", "retracted")]
    assert await alerts_of(clinic, theirs) == [("pending", "opened")]
    log = await clinic.rows("select from_subject, to_subject, why, account from attribution_log")
    assert log == [{"from_subject": mine, "to_subject": theirs, "why": "the spouse used the cuff", "account": "tester"}]
    assert await clinic.value("select count(*) from rule_timer where subject = %s and rule <> '@daily'", mine) == 0, (
        "nobody waits for a repeat any more"
    )
    assert await clinic.submit("reattribute", body, mine) == "refused:already_theirs"


async def test_who_belongs_to_another_worker_is_looked_at_by_that_one(clinic: Clinic) -> None:
    mine, theirs = await clinic.resident(CUFF), await clinic.resident(OTHER)
    await clinic.send(message(measurement(186, 112, record="a")))
    number = await number_of(clinic, "a")

    async def apply(only: str) -> None:
        """A transaction of the worker that has only this person."""

        class Partition:
            def mine(self, subject: str) -> bool:
                return subject == only

            def committed(self, items: list[Incoming]) -> None:
                assert items == []

        worker = Worker(clinic.conninfo, steps(Settings()), Partition())  # type: ignore[arg-type]
        await worker.process([])
        await worker.close()

    async with await database.connect(clinic.conninfo) as connection:
        await intake.submit(connection, "reattribute", {"measurement": number, "resident": theirs, "why": "x"}, "tester", mine)
        await connection.commit()
    await apply(mine)
    assert (await alerts_of(clinic, mine), await alerts_of(clinic, theirs)) == ([("cleared", "retracted")], [])
    waiting = await clinic.rows("select kind, subject, body from intake where applied_at is null")
    assert waiting == [{"kind": "arrived", "subject": theirs, "body": {"measurements": [number]}}]
    await apply(theirs)
    assert await alerts_of(clinic, theirs) == [("pending", "opened")]
    await clinic.submit("reattribute", {"measurement": number, "resident": mine, "why": "y"}, theirs)
    async with await database.connect(clinic.conninfo) as connection:
        await intake.submit(connection, "reattribute", {"measurement": number, "resident": theirs, "why": "z"}, "tester", mine)
        await connection.commit()
    await apply(theirs)  # the worker of the new owner got the row: the former owner's is told
    assert (await clinic.rows("select kind, subject from intake where applied_at is null")) == [{"kind": "taken", "subject": mine}]
    await apply(mine)
    assert (await alerts_of(clinic, mine))[-1] == ("cleared", "retracted")


async def test_a_confirmation_that_was_somebody_elses_leaves_a_paged_alert_firing_and_says_so(clinic: Clinic) -> None:
    mine, theirs = await clinic.resident(CUFF), await clinic.resident(OTHER)
    await clinic.send(message(measurement(186, 112, record="a", ago=timedelta(minutes=3)), measurement(190, 115, record="b")))
    assert await alerts_of(clinic, mine) == [("firing", "confirmed")]
    await clinic.submit("reattribute", {"measurement": await number_of(clinic, "b"), "resident": theirs, "why": "x"}, mine)
    assert await alerts_of(clinic, mine) == [("firing", "reevaluated")], "a person was paged: it stays until a person ends it"
    alert = await clinic.rows("select explanation from alert where subject = %s", mine)
    assert alert[0]["explanation"]["retraction"]["taken"] == [await number_of(clinic, "b")]
    phase = await clinic.value("select phase from rule_state where subject = %s and rule = 'htn.danger'", mine)
    assert phase == 1, "the first value alone is pending"
    await clinic.submit("reattribute", {"measurement": await number_of(clinic, "a"), "resident": theirs, "why": "x"}, mine)
    assert await alerts_of(clinic, mine) == [("cleared", "retracted")]


async def test_what_remains_gives_the_state_it_would_have_given_alone(clinic: Clinic) -> None:
    """Taking a measurement away leaves exactly the state of a history without it."""
    mine, theirs = await clinic.resident(CUFF), await clinic.resident(OTHER)
    values = [(150, 95, 30), (186, 112, 20), (118, 76, 12), (165, 99, 8), (152, 96, 1)]
    for systolic, diastolic, days in values:
        await clinic.send(message(measurement(systolic, diastolic, record=f"m{days}", ago=timedelta(days=days))))
        await clinic.send(message(measurement(systolic, diastolic, record=f"t{days}", ago=timedelta(days=days), device=OTHER)))
    extra = message(measurement(200, 125, record="extra", ago=timedelta(days=10)))
    await clinic.send(extra)
    await clinic.submit("reattribute", {"measurement": await number_of(clinic, "extra"), "resident": None, "why": "a test"}, mine)
    columns = "rule, phase, first, last, clears, weak, count"
    states = [await clinic.rows(f"select {columns} from rule_state where subject = %s order by rule", one) for one in (mine, theirs)]
    for one in states:
        for row in one:
            row["first"], row["last"] = row["first"] // 10**7, row["last"] // 10**7  # the two were sent milliseconds apart
    assert states[0] == states[1]
    assert await clinic.value("select subject from measurement where record = 'extra'") == f"device:{CUFF}"


async def test_correcting_who_wore_a_device_moves_what_it_measured_then(clinic: Clinic) -> None:
    mine, theirs = await clinic.resident(CUFF), await clinic.resident(OTHER)
    now = datetime.now(UTC)
    await clinic.send(
        message(
            measurement(120, 80, record="before", ago=timedelta(days=9)), measurement(186, 112, record="during", ago=timedelta(days=5)),
            measurement(121, 81, record="after", ago=timedelta(days=1)),
        )
    )  # fmt: skip
    assert await alerts_of(clinic, mine) == [("firing", "late")]
    body = {
        "device": CUFF, "resident": theirs, "since": (now - timedelta(days=7)).isoformat(), "until": (now - timedelta(days=2)).isoformat(),
        "why": "bands were mixed up",
    }  # fmt: skip
    assert await clinic.submit("rebind", body, theirs) == "applied"
    rows = await clinic.rows("select record, subject from measurement order by measured_at")
    assert [(row["record"], row["subject"]) for row in rows] == [("before", mine), ("during", theirs), ("after", mine)]
    intervals = await clinic.rows(
        "select resident from binding join device using (device_no) where device = %s order by lower(during)", CUFF
    )
    assert [row["resident"] for row in intervals] == [mine, theirs, mine]
    assert await alerts_of(clinic, mine) == [("cleared", "retracted")]
    assert await alerts_of(clinic, theirs) == [("firing", "late")]
    await clinic.send(message(measurement(122, 82, record="late one", ago=timedelta(days=4))))
    assert await clinic.value("select subject from measurement where record = 'late one'") == theirs, (
        "what comes later follows the correction"
    )


async def test_a_claim_retracts_what_the_device_alone_concluded(clinic: Clinic) -> None:
    mine = await clinic.resident(CUFF)
    await clinic.run("delete from binding")
    await clinic.send(message(measurement(186, 112, record="a")))
    assert await alerts_of(clinic, f"device:{CUFF}") == [("pending", "opened")]
    assert await clinic.submit("claim", {"measurement": await number_of(clinic, "a"), "resident": mine}, mine) == "applied"
    assert await alerts_of(clinic, f"device:{CUFF}") == [("cleared", "retracted")]
    assert await alerts_of(clinic, mine) == [("pending", "opened")]
    assert await clinic.submit("claim", {"measurement": await number_of(clinic, "a"), "resident": mine}, mine) == "refused:already_claimed"
