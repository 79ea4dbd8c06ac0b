"""`yizhan chaos escalation`: thousands of ladders under a clock that runs fast, while the notifiers are killed and frozen.

Real notifiers (two processes), the real database, notices delivered over real HTTP to a provider that fails now and then. The database's
`now()` is replaced by one that runs many times as fast, so that two hours of a ladder pass in two minutes; leases, which are about how
long a process may hold something, are lengthened alike. Each notifier's own wall clock stands a day ahead or a day behind.

The checker knows from the pure ladder what had to happen: every rung due before its acknowledgement was told, once, not before it was due;
every notice reached the provider; how many reached it twice, against how many processes died.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from bench import rig
from bench.rig import Say
from care import cases, notices, notifier, residents, staff
from care.calendar import Calendar
from care.identity import Seal
from care.ladder import calling
from care.residents import Route
from vitals.alert import Severity
from vitals.floor import database, process
from vitals.floor.database import Connection

ZONE = "Asia/Shanghai"
KEY = "a key for fields, of the simulation"
START = datetime(2026, 3, 2, 1, tzinfo=UTC)  # Monday, nine in the morning
TEAM, PEOPLE = "team-sim", ("dr-a", "dr-b", "nurse-c", "lead-d", "duty-e", "super-f")
FAILS = 0.05  # of the provider's answers
LATE = 40  # s here, for a dead process to be replaced and a frozen one's lock to be taken away
SETTLE = 90.0  # s
CLOCK = """
create schema clock;
create table clock.start (here timestamptz not null, there timestamptz not null);
insert into clock.start values (pg_catalog.clock_timestamp(), '{start}');
create function clock.now() returns timestamptz language sql stable as
  $$ select there + (pg_catalog.now() - here) * {speed} from clock.start $$;
"""


class Provider:
    """Takes what notifiers send; remembers what it said yes to."""

    def __init__(self, chance: random.Random) -> None:
        self.taken: Counter[str] = Counter()
        self._chance = chance

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            body = json.loads(await reader.readexactly(length))
            good = self._chance.random() >= FAILS
            if good:
                self.taken[body["id"]] += 1
            writer.write(b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (b"200 OK" if good else b"503 Busy"))
            await writer.drain()
        writer.close()


async def run(say: Say, *, ladders: int, seed: int, deaths: int = 10, speed: int = 60) -> dict[str, Any]:
    """The books of one run; `ok` says whether the laws held."""
    chance = random.Random(seed)
    async with rig.workspace() as folder, rig.cluster(folder) as (url, superuser):
        provider = Provider(chance)
        server = await asyncio.start_server(provider.answer, "127.0.0.1", 0)
        await _settle(url, superuser, server.sockets[0].getsockname()[1], speed)
        began = time.monotonic()
        players = [Player(url, number, speed) for number in range(2)]
        for player in players:
            await player.start()
        nemesis = asyncio.create_task(_nemesis(players, chance, ladders, deaths))
        diary = await _play(url, chance, ladders, say)
        kills, freezes = await nemesis
        say(f"{ladders} ladders laid in {time.monotonic() - began:.0f} s, {kills} kills, {freezes} freezes; waiting for what is due")
        await _quiet(url)
        for player in players:
            await player.stop()
        told = await _check(url, diary, provider, timedelta(seconds=LATE * speed))
        server.close()
    told |= {"seed": seed, "ladders": ladders, "kills": kills, "freezes": freezes, "seconds": round(time.monotonic() - began)}
    told["ok"] = (
        not (told["missed"] or told["early"] or told["twice_told"] or told["undelivered"]) and told["delivered_twice"] <= kills + freezes
    )
    return told


async def _settle(url: str, superuser: str, port: int, speed: int) -> None:
    async with await database.connect(url) as connection:
        seal = Seal(KEY)
        await staff.add_centre(connection, "centre-sim", "模拟中心")
        await staff.add_team(connection, TEAM, "模拟团队", "centre-sim")
        roles = (("family_doctor", TEAM), ("family_doctor", TEAM), ("nurse", TEAM), ("team_lead", TEAM), ("centre_duty", "centre-sim"),
                 ("supervisor", "centre-sim"))  # fmt: skip
        for person, (role, place) in zip(PEOPLE, roles, strict=True):
            await staff.add(connection, person, person, TEAM if place == TEAM else None, role, place)
            await staff.set_contacts(connection, seal, [("webhook", f"http://127.0.0.1:{port}/{person}#secret")] * 2, staff=person)
        await connection.commit()
    name = url.rpartition("/")[2].partition("?")[0]
    async with await database.connect(f"{superuser}/{name}", autocommit=True) as connection:
        await connection.execute(CLOCK.format(start=START.isoformat(), speed=speed).encode())
        await connection.execute("grant usage on schema clock to yizhan; grant select on clock.start to yizhan")
        await connection.execute(f"alter database {name} set search_path = clock, pg_catalog, public".encode())


class Player:
    """A notifier in a process of its own."""

    def __init__(self, url: str, number: int, speed: int) -> None:
        self._url, self._number, self._speed = url, number, speed
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        jump = str(86_400 * (1 if self._number % 2 else -1))
        self.process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.escalations", self._url, jump, str(self._speed))

    def send(self, signum: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signum)

    async def stop(self) -> None:
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        if self.process is not None:
            await asyncio.wait_for(self.process.wait(), 60)


async def _nemesis(players: list[Player], chance: random.Random, ladders: int, most: int) -> tuple[int, int]:
    """kill -9 and a new process, or SIGSTOP for longer than a lease's half: at any moment while ladders are laid."""
    kills = freezes = 0
    for _ in range(most):
        await asyncio.sleep(chance.uniform(0.5, 1.5) * max(ladders / 60 / most, 4))
        player = chance.choice(players)
        if chance.random() < 0.7:
            player.send(signal.SIGKILL)
            assert player.process is not None
            await player.process.wait()
            await player.start()
            kills += 1
        else:
            player.send(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(18, 25))
            player.send(signal.SIGCONT)
            freezes += 1
    return kills, freezes


async def _play(url: str, chance: random.Random, ladders: int, say: Say) -> dict[int, dict[str, Any]]:
    """Lay ladders through the real functions and acknowledge most of them some time later; what was done, by case."""
    diary: dict[int, dict[str, Any]] = {}
    pending: list[tuple[datetime, int]] = []
    async with await database.connect(url) as connection:
        for number in range(ladders):
            now = await notices.clock(connection)
            calendar = await staff.calendar(connection, TEAM, now, ZONE)
            severity = chance.choice([Severity.P1, Severity.P1, Severity.P2])
            resident = await residents.add(connection, "模拟", None, None, None)
            case = await cases.open_new(connection, resident, resident, Route(TEAM, "contract"), severity, now)
            await cases.call(connection, case, severity, now, calendar)
            diary[case] = {"severity": severity, "laid": now, "acknowledged": None}
            await connection.commit()
            pending.append((now + timedelta(minutes=chance.choice([3, 10, 20, 45, 70, 150])), case))
            pending.sort()
            while pending and pending[0][0] <= now:
                await _acknowledge(connection, diary, pending.pop(0)[1], calendar)
            await asyncio.sleep(chance.expovariate(60))
            if number % 1000 == 999:
                say(f"{number + 1} ladders laid")
        while pending:
            now = await notices.clock(connection)
            await connection.commit()
            if pending[0][0] <= now:
                calendar = await staff.calendar(connection, TEAM, now, ZONE)
                await _acknowledge(connection, diary, pending.pop(0)[1], calendar)
            else:
                await asyncio.sleep(0.05)
    return diary


async def _acknowledge(connection: Connection, diary: dict[int, dict[str, Any]], case: int, calendar: Calendar) -> None:
    row = await cases.get(connection, case)
    assert row is not None
    now = await notices.clock(connection)
    await cases.act(connection, case, row["version"], "acknowledge", "dr-a", now, calendar)
    await cases.end(connection, case, row["version"] + 1, "resolve", "dr-a", "simulated", now)
    await connection.commit()
    diary[case]["acknowledged"] = now


async def _quiet(url: str) -> None:
    """Wait until nothing is due and nothing is on its way."""
    end = time.monotonic() + SETTLE * 4
    async with await database.connect(url) as connection:
        while time.monotonic() < end:
            cursor = await connection.execute(
                "select (select count(*) from rung where state = 'waiting' and due_at < now()) as rungs,"
                " (select count(*) from notice where state in ('waiting', 'sending')) as notices"
            )
            row = await cursor.fetchone()
            await connection.commit()
            if row is not None and not row["rungs"] and not row["notices"]:
                return
            await asyncio.sleep(0.5)


async def _check(url: str, diary: dict[int, dict[str, Any]], provider: Provider, late: timedelta) -> dict[str, Any]:
    """What had to happen against what did."""
    counts = dict.fromkeys(("missed", "early", "twice_told", "undelivered"), 0)
    latest: list[float] = []
    async with await database.connect(url) as connection:
        cursor = await connection.execute("select care_case, page, level, round, due_at, ended_at, state, told from rung where page = 1")
        rungs = await cursor.fetchall()
        cursor = await connection.execute("select notice, key::text, rung, staff, state, care_case from notice where staff is not null")
        sent = await cursor.fetchall()
    told: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rungs:
        if row["state"] == "told" and row["round"] == 0:
            told.setdefault((row["care_case"], row["level"]), []).append(row)
        if row["state"] == "told":
            counts["early"] += row["ended_at"] < row["due_at"]
    escalations = sum(row["state"] == "told" for row in rungs)
    calendar = Calendar(ZoneInfo(ZONE))
    for case, what in diary.items():
        for rung in calling(what["severity"], what["laid"], calendar):
            found = told.get((case, rung.level), [])
            counts["twice_told"] += len(found) > 1
            counts["missed"] += not found and rung.due_at + late < what["acknowledged"]
            latest += [(row["ended_at"] - rung.due_at).total_seconds() for row in found]
    for row in sent:
        counts["undelivered"] += row["state"] not in ("sent", "stopped") or (row["state"] == "sent" and not provider.taken[row["key"]])
    latest.sort()
    return counts | {
        "escalations": escalations, "notices": len(sent), "delivered": sum(provider.taken.values()),
        "delivered_twice": sum(count - 1 for count in provider.taken.values()),
        "stopped_in_time": sum(row["state"] == "stopped" for row in sent),
        "late_seconds_of_the_fast_clock": {"median": round(latest[len(latest) // 2], 1), "most": round(latest[-1], 1)} if latest else {},
    }  # fmt: skip


async def _notify(url: str, speed: int, stop: asyncio.Event) -> None:
    """The notifier as `yizhan notifier` runs it, with what is measured in the database's time as long as the fast clock makes it."""
    notices.LEASE, notices.GRACE = timedelta(seconds=notices.HOLD * speed), notices.GRACE * speed
    notifier.SLEEP, notifier.STALLED = 0.25, notifier.STALLED * speed
    async with database.pool(url, 8) as pool:
        await notifier.Notifier(url, pool, Seal(KEY), ZONE, elapsed=lambda: time.monotonic() * speed).run(stop)


if __name__ == "__main__":
    real, jump = time.time, float(sys.argv[2])
    time.time = lambda: real() + jump
    sys.exit(process.run(lambda stop: _notify(sys.argv[1], int(sys.argv[3]), stop), os.environ.get("YIZHAN_LOG_LEVEL", "warning")))
