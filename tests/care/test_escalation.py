"""Nothing ages silently: ladders in the database, who is told, what stops it, what leaves, and what killed notifiers leave behind."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench import escalations
from care import cases, ladders, notices, notifier, plans, residents, staff
from care.identity import Seal
from care.notices import Try
from tests.ingest.helpers import FIELD_KEY, Clinic, measurement, message
from vitals.errors import Refused
from vitals.floor import database
from yizhan import town

pytestmark = pytest.mark.services
ZONE = "Asia/Shanghai"


class Office:
    """A clinic with a notifier whose provider is a list."""

    def __init__(self, clinic: Clinic, pool: database.Pool) -> None:
        self.clinic, self.pool = clinic, pool
        self.sent: list[Try] = []
        self.refuses: set[str] = set()
        self.seal = Seal(FIELD_KEY)
        self.notifier = notifier.Notifier(clinic.conninfo, pool, self.seal, ZONE, self._send)

    async def _send(self, one: Try) -> bool:
        self.sent.append(one)
        return one.address not in self.refuses

    async def tell(self) -> list[tuple[str, str, list[str]]]:
        """Everything that is due; the rungs told since (role, state, people)."""
        before = await self.clinic.value("select coalesce(max(rung), 0) from rung where state = 'told'")
        while await self.notifier.step():
            pass
        rows = await self.clinic.rows("select role, state, told from rung where state = 'told' and rung > %s order by rung", before)
        return [(row["role"], row["state"], sorted(row["told"])) for row in rows]

    async def attempt(self) -> None:
        """Every notice whose time has come, once."""
        rows = await self.clinic.rows("select notice from notice where state = 'waiting' and try_at <= now() order by notice")
        for row in rows:
            await notices.attempt(self.pool, self.seal, row["notice"], self._send, notices.clock)

    async def pass_time(self, span: timedelta) -> None:
        """As if so much time had passed: everything that was to come comes so much sooner."""
        await self.clinic.run("update rung set due_at = due_at - %s where state = 'waiting'", span)
        await self.clinic.run("update notice set try_at = try_at - %s, lease_until = lease_until - %s", span, span)

    async def act(self, action: str, actor: str = town.DOCTOR, **more: Any) -> None:
        case = (await self.clinic.rows("select * from care_case order by care_case desc limit 1"))[0]
        async with await database.connect(self.clinic.conninfo) as connection:
            now = datetime.now(UTC)
            calendar = await staff.calendar(connection, case["team"], now, ZONE)
            await cases.act(connection, case["care_case"], case["version"], action, actor, now, calendar, **more)
            await connection.commit()

    async def run(self, do: Any) -> Any:
        async with await database.connect(self.clinic.conninfo) as connection:
            result = await do(connection)
            await connection.commit()
            return result


@pytest.fixture
async def office(clinic: Clinic) -> AsyncIterator[Office]:
    await clinic.run(
        "insert into shift (staff, centre, during) values ('duty-sun', %s, tstzrange(now() - interval '1 day', null))", town.CENTRE
    )
    async with database.pool(clinic.conninfo, 4) as pool, (opened := Office(clinic, pool)).notifier.app.open_async():
        yield opened


async def critical(clinic: Clinic) -> None:
    """A P1: pregnant, 150/95."""
    await clinic.submit("facts", {"facts": {"pregnant": True, "birth_date": "1992-01-01"}}, await clinic.resident())
    await clinic.send(message(measurement(150, 95)))


async def test_a_critical_case_climbs_until_somebody_acts_and_then_stops(office: Office) -> None:
    await critical(office.clinic)
    first = await office.tell()
    assert [(role, state) for role, state, _ in first] == [("doctor", "told")]
    assert town.DOCTOR in first[0][2]
    assert await office.clinic.value("select count(*) from notice where resident is not null") == 1, "the resident hears of it at once"
    for role, people in (("deputy", ["nurse-zhao"]), ("team_lead", ["dr-liu"])):
        await office.pass_time(timedelta(minutes=15))
        assert await office.tell() == [(role, "told", people)]
    await office.pass_time(timedelta(minutes=30))
    assert [role for role, _, _ in await office.tell()] == ["centre_duty"]
    await office.pass_time(timedelta(minutes=60))
    assert [(role, people) for role, _, people in await office.tell()] == [("supervisor", ["duty-sun"])]
    for _ in range(2):  # and again, until
        await office.pass_time(timedelta(minutes=15))
        assert [role for role, _, _ in await office.tell()] == ["supervisor"]
    await office.act("acknowledge", "nurse-zhao")
    await office.pass_time(timedelta(minutes=50))
    assert await office.tell() == []
    await office.pass_time(timedelta(minutes=15))
    ((role, _, people),) = await office.tell()
    assert role == "owner", "whoever has it is reminded"
    assert "nurse-zhao" in people
    assert await office.clinic.value("select count(*) from case_log where what = 'told'") == 8


async def test_who_is_on_leave_is_covered_and_who_means_nobody_hands_on_at_once(office: Office) -> None:
    now = datetime.now(UTC)
    await office.run(lambda c: staff.leave(c, town.DOCTOR, "dr-liu", now - timedelta(days=1), now + timedelta(days=1)))
    await office.clinic.run("delete from shift")
    await office.clinic.run("delete from membership where role = 'nurse'")
    await critical(office.clinic)
    told = await office.tell()
    assert told[0] == ("doctor", "told", ["dr-liu"])
    await office.pass_time(timedelta(minutes=15))
    told = await office.tell()
    assert [role for role, _, _ in told] == ["deputy", "team_lead"], "no deputy: the lead hears of it in the same moment"
    assert told[0][2] == []


async def test_with_nobody_at_all_the_resident_is_told_and_the_ladder_goes_on(office: Office) -> None:
    await office.clinic.run("delete from shift")
    await office.clinic.run("update staff set left_on = current_date")
    await critical(office.clinic)
    told = await office.tell()
    assert [(role, people) for role, _, people in told] == [
        (role, []) for role in ("doctor", "deputy", "team_lead", "centre_duty", "supervisor")
    ]
    assert await office.clinic.value("select count(*) from notice where resident is not null") == 1
    assert await office.clinic.value("select count(*) from rung where state = 'waiting'") == 1, "and it comes again"


async def test_what_belongs_to_no_team_has_a_queue_that_somebody_works_and_is_told_of(office: Office) -> None:
    await office.clinic.run("update contract set during = 'empty'")
    await office.clinic.run("update resident set site = null")
    await critical(office.clinic)
    assert await office.clinic.value("select team from care_case") == staff.LAST_RESORT
    assert (await office.tell())[-1] == ("supervisor", "told", ["duty-sun"]), "nobody else is meant: it climbs at once"
    reach = await office.run(lambda c: staff.reach(c, "duty-sun"))
    assert staff.LAST_RESORT in reach["teams"]
    assert staff.LAST_RESORT not in (await office.run(lambda c: staff.reach(c, town.DOCTOR)))["teams"]


async def test_what_leaves_names_nobody_and_goes_to_the_next_contact_when_the_first_fails(office: Office) -> None:
    ways = [("sms", "json://first/"), ("webhook", "https://second/#s")]
    await office.run(lambda c: staff.set_contacts(c, office.seal, ways, staff=town.DOCTOR))
    office.refuses.add("json://first/")
    await critical(office.clinic)
    await office.tell()
    for _ in range(notices.TRIES + 1):
        await office.attempt()
        await office.pass_time(timedelta(minutes=2))
    mine = [one for one in office.sent if one.kind in ("sms", "webhook")]
    assert [one.address for one in mine] == ["json://first/"] * notices.TRIES + ["https://second/#s"]
    assert len({one.key for one in mine}) == 1, "one key for every try: a provider can tell"
    row = (await office.clinic.rows("select state, place from notice where staff = %s", town.DOCTOR))[0]
    assert row == {"state": "sent", "place": 1}
    assert not any(person[0] in one.body or "150" in one.body for one in mine for person in town.PEOPLE)


async def test_an_acknowledgement_before_the_sending_stops_it(office: Office) -> None:
    await office.run(lambda c: staff.set_contacts(c, office.seal, [("sms", "json://first/")], staff=town.DOCTOR))
    await critical(office.clinic)
    await office.tell()
    await office.act("claim")
    await office.attempt()
    assert [one.kind for one in office.sent] == []
    assert await office.clinic.value("select state from notice where staff = %s", town.DOCTOR) == "stopped"


async def test_two_who_try_at_once_send_once_and_a_dead_ones_try_is_taken_over(office: Office) -> None:
    await office.run(lambda c: staff.set_contacts(c, office.seal, [("sms", "json://first/")], staff=town.DOCTOR))
    await critical(office.clinic)
    await office.tell()
    notice = await office.clinic.value("select notice from notice where staff = %s", town.DOCTOR)
    await asyncio.gather(*(notices.attempt(office.pool, office.seal, notice, office._send, notices.clock) for _ in range(5)))
    assert len(office.sent) == 1
    # another: its holder dies after the claim
    await office.clinic.run("update notice set state = 'waiting' where notice = %s", notice)
    async with office.pool.connection() as connection:
        held = await notices.claim(connection, office.seal, notice, datetime.now(UTC))
    assert held is not None
    await office.attempt()
    assert len(office.sent) == 1, "somebody has it"
    await office.clinic.run("delete from procrastinate_jobs")  # its job died with it
    await office.pass_time(notices.LEASE + timedelta(seconds=1))
    async with office.pool.connection() as connection:
        assert notice in await notices.left_over(connection, datetime.now(UTC))
    await notices.attempt(office.pool, office.seal, notice, office._send, notices.clock)
    assert len(office.sent) == 2
    async with office.pool.connection() as connection:  # the dead one wakes: what it has to say is no longer asked for
        assert await notices.settle(connection, held, False, datetime.now(UTC)) is None
    assert await office.clinic.value("select state from notice where notice = %s", notice) == "sent"


async def test_a_webhook_is_signed_and_never_goes_in_clear() -> None:
    got: list[tuple[dict[str, str], bytes]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {line.split(": ")[0].lower(): line.split(": ")[1] for line in head[1:] if ": " in line}
        got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await notices.send(Try(1, "key-1", "webhook", f"http://127.0.0.1:{port}/hook#secret", "您有待办", 1))
    headers, body = got[0]
    signed = hmac.digest(b"secret", f"key-1.{headers['webhook-timestamp']}.".encode() + body, "sha256")
    assert headers["webhook-signature"] == "v1," + base64.b64encode(signed).decode()
    assert json.loads(body) == {"id": "key-1", "text": "您有待办"}
    assert not await notices.send(Try(1, "key-1", "webhook", "http://elsewhere.example/hook#secret", "x", 1))
    server.close()


async def test_handing_over_putting_off_and_calling_have_their_clocks(office: Office) -> None:
    await office.clinic.send(message(measurement(186, 112, ago=timedelta(minutes=2))), message(measurement(188, 113)))
    await office.act("claim")
    with pytest.raises(Refused, match="unknown_outcome"):
        await office.act("call", coded="fine")
    await office.act("call", coded="no_answer")
    with pytest.raises(Refused, match="bad_range"):
        await office.act("snooze", until=datetime.now(UTC) + timedelta(days=15))
    until = datetime.now(UTC) + timedelta(days=3)
    await office.act("snooze", until=until, why="出差")
    due = await office.clinic.rows("select role, due_at from rung where state = 'waiting' order by level")
    assert due[0] == {"role": "owner", "due_at": until}
    await office.act("note", why="家属来电")
    assert (await office.clinic.rows("select role, due_at from rung where state = 'waiting' order by level"))[0] == due[0], (
        "a note moves nothing"
    )
    assert await office.clinic.value("select snoozed_until from care_case") == until
    await office.act("hand_over", to="dr-liu", why="休假")
    case = (await office.clinic.rows("select state, claimed_by, snoozed_until from care_case"))[0]
    assert case == {"state": "open", "claimed_by": "dr-liu", "snoozed_until": None}
    await office.pass_time(timedelta(days=1))
    assert "dr-liu" in (await office.tell())[0][2]
    with pytest.raises(Refused, match="unknown_doctor"):
        await office.act("hand_over", to="nobody", why="x")
    await critical(office.clinic)
    await office.act("claim")
    with pytest.raises(Refused, match="cannot_wait"):
        await office.act("snooze", until=until)
    log = await office.clinic.rows("select what, coded from case_log where coded is not null")
    assert log == [{"what": "call", "coded": "no_answer"}]


async def test_of_fifty_doctors_who_claim_one_case_exactly_one_has_it(office: Office) -> None:
    await office.clinic.send(message(measurement(186, 112)))
    case = (await office.clinic.rows("select * from care_case"))[0]
    calendar = await office.run(lambda c: staff.calendar(c, town.TEAM, datetime.now(UTC), ZONE))

    async def claim(number: int) -> bool:
        async with await database.connect(office.clinic.conninfo) as connection:
            try:
                await cases.act(connection, case["care_case"], case["version"], "claim", f"dr-{number}", datetime.now(UTC), calendar)
            except Refused as error:
                assert error.reason == "stale_version"
                return False
            await connection.commit()
            return True

    won = await asyncio.gather(*(claim(number) for number in range(50)))
    assert sum(won) == 1
    assert await office.clinic.value("select claimed_by from care_case") == f"dr-{won.index(True)}"
    assert await office.clinic.value("select count(*) from case_log where what = 'claim'") == 1


async def test_the_dead_and_the_moved_are_asked_for_nothing_more(office: Office) -> None:
    resident = await office.clinic.resident()
    await office.clinic.run("update contract set during = daterange(current_date - 100, null)")
    async with office.pool.connection() as connection:
        made = await plans.daily(connection, datetime.now(UTC), ZONE)
        assert made > 0
        assert await plans.daily(connection, datetime.now(UTC), ZONE) == 0, "asked again, nothing new"
        await residents.leave(connection, resident, datetime.now(UTC).date() + timedelta(days=1), "deceased", "dr-zhang")
        assert await plans.daily(connection, datetime.now(UTC), ZONE) == 0
    assert await office.clinic.value("select count(*) from task where resident = %s and state = 'open'", resident) == 0
    assert await office.clinic.value("select ended_why from contract where resident = %s", resident) == "deceased"


async def test_two_thousand_escalations_while_notifiers_die() -> None:
    told = await escalations.run(lambda _: None, ladders=2400, seed=20, deaths=6, speed=240)
    assert told["ok"], told
    assert told["escalations"] >= 2000
    assert told["kills"] + told["freezes"] == 6


async def test_the_rung_of_a_case_that_ended_tells_nobody(office: Office) -> None:
    await critical(office.clinic)
    await office.act("claim")
    body = {"case": 1, "version": await office.clinic.value("select version from care_case"), "action": "resolve", "why": "x"}
    assert await office.clinic.submit("case_end", body, await office.clinic.resident()) == "applied"
    await office.pass_time(timedelta(days=30))
    await office.tell()
    assert await office.clinic.value("select count(*) from rung where care_case = 1 and state = 'told'") == 0
    assert {rung["state"] for rung in await office.run(lambda c: ladders.of_case(c, 1))} == {"stopped"}
