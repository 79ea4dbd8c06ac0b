"""All SQL about contracts (签约): signed, renewed, ended, expiring; a person has one at a time."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from care import residents
from vitals.errors import Refused
from vitals.floor.database import Connection

TERM = timedelta(days=365)


async def sign(
    connection: Connection, resident: str, doctor: str, since: date, *, package: str = "basic", until: date | None = None,
    by: str = "system",
) -> int:  # fmt: skip
    """Sign with a doctor's team; the contract before it ends that day. until None: open-ended.

    Raises Refused `unknown_doctor`, `deceased`, `bad_range`.
    """
    row = await (await connection.execute("select team from staff where staff = %s and left_on is null", (doctor,))).fetchone()
    if row is None or row["team"] is None:
        raise Refused("unknown_doctor")
    person = await residents.get(connection, resident)
    if person is not None and person["deceased_on"] is not None:
        raise Refused("deceased")
    if until is not None and until <= since:
        raise Refused("bad_range")
    await connection.execute(  # one that had not begun is left as an empty one: it was signed, and never held
        "update contract set during = case when lower(during) >= %(on)s then 'empty' else daterange(lower(during), %(on)s) end,"
        " ended_why = 'signed anew' where resident = %(who)s and (upper_inf(during) or upper(during) > %(on)s)",
        {"on": since, "who": resident},
    )
    cursor = await connection.execute(
        "insert into contract (resident, team, doctor, during, package) values (%s, %s, %s, daterange(%s, %s), %s) returning contract",
        (resident, row["team"], doctor, since, until, package),
    )
    made = await cursor.fetchone()
    assert made is not None
    await residents.note(connection, resident, by, "contract signed")
    number: int = made["contract"]
    return number


async def renew(connection: Connection, resident: str, by: str) -> date:
    """The contract that runs out goes on for a term; returns until when. Raises Refused `unknown_contract`: there is none that does."""
    cursor = await connection.execute(
        "update contract set during = daterange(lower(during), upper(during) + %s) where contract = (select contract from contract"
        " where resident = %s and not upper_inf(during) and ended_why is null order by upper(during) desc limit 1)"
        " returning upper(during) as until",
        (TERM.days, resident),
    )
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_contract")
    await residents.note(connection, resident, by, "contract renewed")
    until: date = row["until"]
    return until


async def end(connection: Connection, contract: int, on: date, why: str, by: str) -> None:
    """Raises Refused `unknown_contract`, `already_ended`."""
    cursor = await connection.execute("select resident, during from contract where contract = %s for update", (contract,))
    row = await cursor.fetchone()
    if row is None:
        raise Refused("unknown_contract")
    during = row["during"]  # empty: it never held
    if during.isempty or (during.upper is not None and during.upper <= on) or (during.lower is not None and during.lower >= on):
        raise Refused("already_ended")
    await connection.execute(
        "update contract set during = daterange(lower(during), %s), ended_why = %s where contract = %s", (on, why, contract)
    )
    await residents.note(connection, row["resident"], by, "contract ended")


async def of_resident(connection: Connection, resident: str) -> list[dict[str, Any]]:
    """All contracts of a person, newest first."""
    cursor = await connection.execute(
        "select contract, team, doctor, package, lower(during) as since, upper(during) as until, ended_why from contract"
        " where resident = %s order by lower(during) desc nulls last",
        (resident,),
    )
    return await cursor.fetchall()


async def expiring(connection: Connection, on: date, within: timedelta) -> list[dict[str, Any]]:
    """Contracts that run out within a time and have no successor."""
    cursor = await connection.execute(
        "select c.contract, c.resident, c.team, c.doctor, upper(c.during) as until from contract c join resident r using (resident)"
        " where upper(c.during) between %s and %s and c.ended_why is null and r.deceased_on is null and r.moved_on is null"
        " and not exists (select 1 from contract n where n.resident = c.resident and lower(n.during) >= upper(c.during))",
        (on, on + within),
    )
    return await cursor.fetchall()
