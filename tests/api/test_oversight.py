"""Logins, second factors, sessions; every look at a person leaves one entry, and the log tells when somebody touched it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pyotp
import pytest

from api import accounts, audit
from api.audit import Book, Entry
from care.identity import Seal
from tests.api.test_http import A, D, H, Http, R, http  # noqa: F401  a fixture
from tests.ingest.helpers import FIELD_KEY, Clinic, measurement, message
from vitals.errors import BadInput, Refused
from vitals.floor import database
from yizhan import town

pytestmark = pytest.mark.services
NOW = datetime(2026, 11, 26, 8, tzinfo=UTC)
SEAL = Seal(FIELD_KEY)


async def test_a_password_and_a_code_make_a_session_and_a_code_is_taken_once(conninfo: str) -> None:
    async with await database.connect(conninfo) as connection:
        with pytest.raises(BadInput, match="weak_password"):
            await accounts.create_login(connection, "audit", None, "auditor", "short")
        account = await accounts.create_login(connection, "audit", None, "auditor", "a long enough one")
        with pytest.raises(Refused, match="login_taken"):
            await accounts.create_login(connection, "audit", None, "auditor", "another long one")
        assert await accounts.log_in(connection, SEAL, "auditor", "wrong", "", NOW) is None
        assert await accounts.log_in(connection, SEAL, "nobody", "a long enough one", "", NOW) is None
        now = datetime.now(UTC)
        token = await accounts.log_in(connection, SEAL, "auditor", "a long enough one", "", now)
        assert token is not None
        assert (await accounts.by_token(connection, token) or accounts.Account("", "", None)).account == account
        secret = pyotp.random_base32()
        with pytest.raises(Refused, match="bad_code"):
            await accounts.second_factor(connection, SEAL, account, secret, "000000", NOW)
        await accounts.second_factor(connection, SEAL, account, secret, pyotp.TOTP(secret).at(NOW), NOW)
        later = NOW + timedelta(seconds=60)
        code = pyotp.TOTP(secret).at(later)
        assert await accounts.log_in(connection, SEAL, "auditor", "a long enough one", "", later) is None, "without a code"
        assert await accounts.log_in(connection, SEAL, "auditor", "a long enough one", code, later) is not None
        assert await accounts.log_in(connection, SEAL, "auditor", "a long enough one", code, later) is None, "the same code again"
        await accounts.log_out(connection, token, now)
        assert await accounts.by_token(connection, token) is None


async def test_five_wrong_tries_lock_for_a_quarter_of_an_hour(conninfo: str) -> None:
    async with await database.connect(conninfo) as connection:
        await accounts.create_login(connection, "audit", None, "auditor", "a long enough one")
        for _ in range(accounts.TRIES):
            assert await accounts.log_in(connection, SEAL, "auditor", "wrong", "", NOW) is None
        assert await accounts.log_in(connection, SEAL, "auditor", "a long enough one", "", NOW + timedelta(minutes=14)) is None
        assert await accounts.log_in(connection, SEAL, "auditor", "a long enough one", "", NOW + timedelta(minutes=16)) is not None


@pytest.mark.parametrize(("column", "age"), [("seen_at", accounts.IDLE), ("began_at", accounts.LONGEST)])
async def test_a_session_ends_when_nobody_uses_it_and_when_it_is_too_old(conninfo: str, column: str, age: timedelta) -> None:
    async with await database.connect(conninfo) as connection:
        await accounts.create_login(connection, "audit", None, "auditor", "a long enough one")
        token = await accounts.log_in(connection, SEAL, "auditor", "a long enough one", "", datetime.now(UTC))
        assert token is not None
        assert await accounts.by_token(connection, token) is not None
        await connection.execute(f"update session set {column} = now() - %s - interval '1 second'", (age,))
        assert await accounts.by_token(connection, token) is None


async def test_every_look_at_a_person_leaves_one_entry_and_ones_own_none(http: Http) -> None:  # noqa: F811
    await http.clinic.send(message(measurement(186, 112)))
    mine = await http.clinic.resident()
    number = await http.clinic.value("select care_case from care_case")

    async def entries() -> list[tuple[str, list[str], str]]:
        rows = await http.clinic.rows("select role, residents, about from audit order by at")
        return [(row["role"], row["residents"], row["about"]) for row in rows]

    assert (await http.ask(R, "GET", f"/v1/residents/{mine}")).status_code == 200
    assert await entries() == []
    assert (await http.ask(D, "GET", f"/v1/residents/{mine}/series?metric=systolic")).status_code == 200
    assert (await http.ask(D, "GET", f"/v1/cases/{number}")).status_code == 200
    assert (await http.ask(D, "GET", "/v1/queue")).status_code == 200
    assert (await http.ask(H, "GET", f"/v1/residents/{mine}")).status_code == 404
    assert await entries() == [("doctor", [mine], ""), ("doctor", [mine], f"case {number}"), ("doctor", [mine], "")]
    told = (await http.ask(R, "GET", f"/v1/residents/{mine}/accesses")).json()
    assert [(one["role"], one["about"]) for one in told] == [("doctor", ""), ("doctor", f"case {number}"), ("doctor", "")]
    assert (await http.ask(R, "GET", f"/v1/residents/{await http.clinic.resident(town.PEOPLE[1][3])}/accesses")).status_code == 404
    await http.clinic.run("alter table audit add constraint closed check (n < 0) not valid")
    answer = await http.ask(D, "GET", f"/v1/cases/{number}")
    assert answer.status_code == 503, "what cannot be written down is not shown"
    assert "186" not in answer.text


async def test_glass_is_broken_for_an_hour_for_a_reason_and_reviewed_by_another(http: Http) -> None:  # noqa: F811
    stranger = (await http.clinic.rows("insert into resident (resident, name) values ('r-stranger', '路人') returning resident"))[0][
        "resident"
    ]
    path = f"/v1/residents/{stranger}"
    assert (await http.ask(D, "GET", path)).status_code == 404
    assert (await http.ask(D, "POST", f"{path}/break-glass", {"why": "curious"})).status_code == 422
    why = "晕倒在驿站,身份由身份证得知"
    assert (await http.ask(D, "POST", f"{path}/break-glass", {"why": why})).status_code == 201
    assert (await http.ask(D, "GET", path)).status_code == 200
    assert (await http.ask("nurse", "GET", path)).status_code == 404
    (broken,) = (await http.ask("audit", "GET", "/v1/break-glass")).json()
    assert broken["why"] == why
    assert (await http.ask("audit", "POST", f"/v1/break-glass/{broken['break_glass']}/review", {"verdict": "justified"})).status_code == 204
    assert (await http.ask("audit", "GET", "/v1/break-glass")).json() == []
    await http.clinic.run("update break_glass set until = now()")
    assert (await http.ask(D, "GET", path)).status_code == 404
    assert [row["why"] for row in await http.clinic.rows("select why from audit where residents @> array['r-stranger'] order by at")] == [
        why,
        "",
    ]


async def test_the_systems_administrator_makes_accounts_of_stations_only(http: Http) -> None:  # noqa: F811
    assert (await http.ask(A, "POST", "/v1/accounts", {"role": "station", "refers_to": town.GATEWAY})).status_code == 201
    assert (await http.ask(A, "POST", "/v1/accounts", {"role": "doctor", "refers_to": town.DOCTOR})).status_code == 403
    body = {"role": "doctor", "refers_to": town.DOCTOR, "login": "dr-zhang", "password": "a long enough one"}
    assert (await http.ask("security", "POST", "/v1/accounts", body)).json()["token"] is None
    assert (await http.ask("security", "POST", "/v1/accounts", body)).json()["reason"] == "login_taken"


def touch(statement: str) -> Callable[[psycopg.Connection], None]:
    return lambda connection: connection.execute(statement.encode()) and None


CHAIN = "'2026-11-26.aa'"
TAMPERINGS = {
    "edit": touch(f"update audit set account = 'somebody else' where chain = {CHAIN} and n = 777"),
    "delete": touch(f"delete from audit where chain = {CHAIN} and n = 777"),
    "insert": touch(
        f"insert into audit select chain, 100001, at, account, role, what, residents, about, why, outcome, digest from audit"
        f" where chain = {CHAIN} and n = 777"
    ),
    "swap": touch(
        "with a as (select * from audit where n = 777 limit 1), b as (select * from audit where n = 778 limit 1)"
        " update audit t set account = case t.n when 777 then b.account else a.account end, at = case t.n when 777 then b.at else a.at end,"
        " digest = case t.n when 777 then b.digest else a.digest end from a, b where t.n in (777, 778) and t.chain = a.chain"
    ),
    "tail cut": touch(f"delete from audit where chain = {CHAIN} and n > 99000"),
    "chain gone": touch(f"delete from audit where chain = {CHAIN}"),
    "anchor edit": touch("update audit_anchor set at = at - interval '1 minute' where anchor = (select min(anchor) from audit_anchor)"),
}


async def test_verification_finds_what_was_done_to_a_hundred_thousand_entries(clinic: Clinic, cluster: str) -> None:
    key = Book(FIELD_KEY).key
    rows, head = [], audit.EMPTY
    for n in range(1, 100_001):
        at = NOW + timedelta(milliseconds=n)
        entry = Entry(f"doctor-{n % 7}", "doctor", "GET /v1/cases/1", [f"r-{n % 1000}"], "case 1", "", "shown")
        head = audit.digest(key, head, "2026-11-26.aa", n, at, entry._asdict())
        rows.append(("2026-11-26.aa", n, at, *entry, head))
    async with await database.connect(clinic.conninfo) as connection:
        async with connection.cursor().copy(
            "copy audit (chain, n, at, account, role, what, residents, about, why, outcome, digest) from stdin"
        ) as copy:
            for row in rows:
                await copy.write_row(row)
        book = Book(FIELD_KEY)
        for n in range(3):  # a second process of the same day
            await book.write(connection, [Entry("doctor-1", "doctor", "GET /v1/queue", [], "", "", "shown")], NOW + timedelta(minutes=n))
        await audit.anchor(connection, key, NOW)
        await connection.commit()
        assert await audit.verify(connection, key) == []
        assert await audit.verify(connection, Book("another key of another place").key) != []
        with pytest.raises(psycopg.errors.RaiseException):
            await connection.execute("update audit set account = 'x' where n = 5")
        await connection.rollback()
    name = clinic.conninfo.rpartition("/")[2]
    for what, tamper in TAMPERINGS.items():
        with psycopg.connect(f"{cluster}/{name}") as superuser:
            superuser.execute("set session_replication_role = replica")  # past the triggers, as somebody with the disk would
            tamper(superuser)
            superuser.commit()
            async with await database.connect(clinic.conninfo) as connection:
                assert await audit.verify(connection, key), what
            superuser.execute("truncate audit")
            superuser.execute("truncate audit_anchor")
            with superuser.cursor().copy(
                "copy audit (chain, n, at, account, role, what, residents, about, why, outcome, digest) from stdin"
            ) as restored:
                for row in rows:
                    restored.write_row(row)
            superuser.commit()
        async with await database.connect(clinic.conninfo) as connection:
            await audit.anchor(connection, key, NOW)
            await connection.commit()
            assert await audit.verify(connection, key) == []


async def test_the_command_says_whether_the_log_was_touched(clinic: Clinic, cluster: str) -> None:
    book = Book(FIELD_KEY)
    async with await database.connect(clinic.conninfo) as connection:
        entries = [Entry("doctor-1", "doctor", f"GET /v1/cases/{n}", ["r-1"], "", "", "shown") for n in range(5)]
        await book.write(connection, entries, datetime.now(UTC))
    environment = {**os.environ, "YIZHAN_DATABASE_URL": clinic.conninfo, "YIZHAN_FIELD_KEY": FIELD_KEY}

    def audit_command() -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "yizhan", "audit"], capture_output=True, text=True, check=False, env=environment)
        return done.returncode, done.stdout.strip()

    assert audit_command() == (0, "untouched")
    with psycopg.connect(f"{cluster}/{clinic.conninfo.rpartition('/')[2]}") as superuser:
        superuser.execute("set session_replication_role = replica")
        superuser.execute("delete from audit where n = 3")
    status, told = audit_command()
    assert status == 1
    assert "entry 3 is missing" in told


async def test_entries_written_side_by_side_make_one_chain(conninfo: str) -> None:
    book = Book(FIELD_KEY)
    async with database.pool(conninfo, 8) as pool:

        async def write(number: int) -> None:
            async with pool.connection() as connection:
                await book.write(connection, [Entry(f"doctor-{number}", "doctor", "GET /", [], "", "", "shown")], datetime.now(UTC))

        await asyncio.gather(*(write(number) for number in range(100)))
        async with pool.connection() as connection:
            assert await audit.verify(connection, book.key) == []
            row = await (await connection.execute("select count(*) as n, count(distinct chain) as chains from audit")).fetchone()
    assert row == {"n": 100, "chains": 1}
