"""What people are told, and the sending of it: rows written with the rung that is due, sent by jobs, one try at a time.

A try is claimed (`fence` raised, a lease taken, committed), made, and written down by whoever still holds the fence. Who was killed or
frozen in between loses the lease, and another tries: the same notice may then go out twice, with the same key, and never more than once
for each such death. An acknowledgement that was committed before the claim stops the sending.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import apprise
import httpx

from care import staff
from care.identity import Seal
from vitals.errors import BadInput
from vitals.floor.database import Connection, Pool

log = logging.getLogger("care.notices")

CALL = 15.0  # s that one try may take
HOLD = 45.0  # s a try is somebody's, by this machine's clock that nobody sets
LEASE = timedelta(seconds=HOLD)  # the same by the database's
GRACE = timedelta(seconds=5)  # until a notice whose job is nowhere to be seen gets another
TRIES = 3  # with one contact, before the next one is tried
BACKOFF = (timedelta(seconds=10), timedelta(seconds=60))
TITLE = "驿站 yizhan"

Send = Callable[["Try"], Awaitable[bool]]
Now = Callable[[Connection], Awaitable[datetime]]


class Try(NamedTuple):
    """One try to reach somebody: address, words, and the key that is the same for every try of this notice."""

    notice: int
    key: str
    kind: str
    address: str
    body: str
    fence: int


def words(rung: dict[str, Any]) -> str:
    """What leaves this system: that something waits, how urgent, where. No name and no value: that is behind the login."""
    subject = f"病例 {rung['care_case']}" if rung["care_case"] is not None else f"任务 {rung['task']}"
    after = " (再次提醒)" if rung["round"] else ""
    return f"{rung['severity']} {subject} 待处理,请登录驿站查看{after} / waiting for you: {rung['severity']}"


async def put(connection: Connection, rung: dict[str, Any], people: Sequence[str], now: datetime) -> list[int]:
    """Write the notices of a rung; the resident hears of a P1 at once, whoever is on duty. Returns them."""
    made: list[int] = []
    insert = (
        "insert into notice (rung, care_case, task, staff, resident, severity, body, try_at, created_at)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing returning notice"
    )

    async def write(*values: Any) -> None:
        made.extend(row["notice"] for row in await (await connection.execute(insert, values)).fetchall())

    common = (rung["rung"], rung["care_case"], rung["task"])
    for person in people:
        await write(*common, person, None, rung["severity"], words(rung), now, now)
    if rung["care_case"] is not None and rung["severity"] == "P1" and rung["resident"] is not None and rung["level"] == rung["round"] == 0:
        cursor = await connection.execute(
            "select a.explanation -> 'tell' ->> 'zh' as zh from case_alert l join alert a using (alert) where l.care_case = %s"
            " and a.state = 'firing' order by a.severity, a.alert limit 1",
            (rung["care_case"],),
        )
        row = await cursor.fetchone()
        told = (row or {}).get("zh") or "您的测量结果需要立即处理,如有不适请拨打120"
        await write(*common, None, rung["resident"], "P1", told, now, now)
    return made


async def left_over(connection: Connection, now: datetime, limit: int = 500) -> list[int]:
    """Notices whose time has come and for which no job waits: their holder is gone."""
    cursor = await connection.execute(
        "select notice from notice n where ((state = 'waiting' and try_at <= %s) or (state = 'sending' and lease_until < %s))"
        " and not exists (select 1 from procrastinate_jobs j where j.queueing_lock = 'notice-' || n.notice and j.status = 'todo')"
        " order by severity, try_at limit %s",
        (now - GRACE, now, limit),
    )
    return [row["notice"] for row in await cursor.fetchall()]


async def claim(connection: Connection, seal: Seal, notice: int, now: datetime) -> Try | None:
    """Take the next try of a notice; None when somebody has it, it is done, or nobody needs it any more. Commit before sending."""
    cursor = await connection.execute(
        "select n.*, exists (select 1 from rung r where (r.care_case = n.care_case or r.task = n.task)"
        "   and (r.page > m.page or (r.page = m.page and r.state = 'stopped'))) as answered,"
        " n.resident is null or consents(n.resident, 'notify') as wanted"
        " from notice n join rung m using (rung)"
        " where n.notice = %s and ((n.state = 'waiting' and n.try_at <= %s) or (n.state = 'sending' and n.lease_until < %s))"
        " for update of n skip locked",
        (notice, now, now),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    if not row["wanted"] or (row["answered"] and row["staff"] is not None):
        await connection.execute("update notice set state = 'stopped' where notice = %s", (notice,))
        return None
    reach = await staff.contact(connection, row["staff"] or row["resident"], row["place"])
    if reach is None:  # no (further) way to reach them: the page in the console is all there is
        state = "sent" if row["place"] == 0 and row["staff"] is not None else "failed"
        await connection.execute("update notice set state = %s, sent_at = %s where notice = %s", (state, now, notice))
        return None
    try:
        address = seal.open(row["staff"] or row["resident"], "contact", reach["sealed"])
    except BadInput:
        log.error("a contact cannot be opened with this key", extra={"notice": notice})
        address = ""
    await connection.execute(
        "update notice set state = 'sending', fence = fence + 1, lease_until = %s, tries = tries + 1 where notice = %s",
        (now + LEASE, notice),
    )
    return Try(notice, str(row["key"]), reach["kind"], address, row["body"], row["fence"] + 1)


async def settle(connection: Connection, done: Try, reached: bool, now: datetime) -> datetime | None:
    """Write what became of a try, if it is still ours; returns when the next one is due."""
    cursor = await connection.execute(
        "select tries, place from notice where notice = %s and fence = %s and state = 'sending' for update", (done.notice, done.fence)
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    if reached:
        await connection.execute(
            "update notice set state = 'sent', sent_at = %s, lease_until = null, error = '' where notice = %s", (now, done.notice)
        )
        return None
    onwards = row["tries"] >= TRIES  # with this contact no more: the next one, from the beginning
    try_at = now if onwards else now + BACKOFF[min(row["tries"], len(BACKOFF)) - 1]
    await connection.execute(
        "update notice set state = 'waiting', lease_until = null, try_at = %s, place = %s, tries = %s, error = %s where notice = %s",
        (try_at, row["place"] + onwards, 0 if onwards else row["tries"], f"{done.kind}: not taken", done.notice),
    )
    return try_at


async def attempt(pool: Pool, seal: Seal, notice: int, send: Send, now: Now) -> datetime | None:
    """One try, whole: claim, send, write down. Returns when the next one is due."""
    async with pool.connection() as connection:
        begun = time.monotonic()
        one = await claim(connection, seal, notice, await now(connection))
    if one is None:
        return None
    if time.monotonic() - begun > HOLD - CALL:  # frozen since: another may have it by now
        return None
    try:
        reached = await asyncio.wait_for(send(one), CALL)
    except Exception:
        log.warning("a provider failed", extra={"notice": notice, "kind": one.kind}, exc_info=True)
        reached = False
    async with pool.connection() as connection:
        return await settle(connection, one, reached, await now(connection))


@functools.cache
def _tls() -> ssl.SSLContext:
    """The authorities of this machine: reading them takes longer than a call."""
    return httpx.create_ssl_context()


async def send(one: Try) -> bool:
    """Through Apprise, or to a webhook of ours: signed as Standard Webhooks has it, over https (or to this machine)."""
    if one.kind != "webhook":
        service = apprise.Apprise()
        return bool(service.add(one.address)) and bool(await service.async_notify(body=one.body, title=TITLE))
    address, _, secret = one.address.partition("#")
    where = urlsplit(address)
    if where.scheme != "https" and where.hostname not in ("127.0.0.1", "localhost"):
        return False
    at = str(int(time.time()))
    content = json.dumps({"id": one.key, "text": one.body}, ensure_ascii=False).encode()
    signature = base64.b64encode(hmac.digest(secret.encode(), f"{one.key}.{at}.".encode() + content, "sha256")).decode()
    headers = {"content-type": "application/json", "webhook-id": one.key, "webhook-timestamp": at, "webhook-signature": f"v1,{signature}"}
    async with httpx.AsyncClient(timeout=CALL, follow_redirects=False, verify=_tls()) as client:
        return (await client.post(address, content=content, headers=headers)).is_success


async def clock(connection: Connection) -> datetime:
    """The database's time, the only one that counts."""
    row = await (await connection.execute("select now() as now")).fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


async def of_staff(connection: Connection, person: str, limit: int = 100) -> list[dict[str, Any]]:
    """What somebody was told, newest first."""
    cursor = await connection.execute(
        "select notice, care_case, task, severity, body, state, created_at, sent_at, read_at from notice where staff = %s"
        " order by notice desc limit %s",
        (person, limit),
    )
    return await cursor.fetchall()


async def read(connection: Connection, person: str, now: datetime, *, case: int | None = None, task: int | None = None) -> None:
    """Somebody looked at what they were told about: a receipt."""
    await connection.execute(
        "update notice set read_at = %s where staff = %s and read_at is null and (care_case = %s or task = %s)", (now, person, case, task)
    )
