"""All SQL about pairing commands: asked by the API, carried out by a gateway, answered in the stream.

An answer counts only from the gateway that was asked. How good the bond is decides whether the device is trusted:
only a bond made with a passkey protects its measurements (`bond_protected`); another serial number than before is a
mismatch and is trusted no more.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from ingest import outbox
from vitals.errors import Refused
from vitals.floor.database import Connection
from vitals.wire import PairingReport

log = logging.getLogger("ingest.pairing")


async def ask(connection: Connection, gateway: str, command: str, body: dict[str, Any], account: str) -> str:
    """Note the command and put it into the outbox; returns its id. Raises Refused `unknown_gateway`, `unknown_device`."""
    cursor = await connection.execute("select 1 from gateway where gateway = %s and revoked_at is null", (gateway,))
    if await cursor.fetchone() is None:
        raise Refused("unknown_gateway")
    device = body.get("device")
    if device is not None:
        cursor = await connection.execute("select 1 from device where device = %s", (device,))
        if await cursor.fetchone() is None:
            raise Refused("unknown_device")
    name = f"p-{secrets.token_hex(8)}"
    await connection.execute(
        "insert into pairing (id, gateway, command, device, account) values (%s, %s, %s, %s, %s)", (name, gateway, command, device, account)
    )
    await outbox.put(connection, "command", {"command": command, "id": name, **body}, gateway=gateway)
    return name


async def answer(connection: Connection, gateway: str, report: PairingReport) -> bool:
    """Apply a gateway's report; False when this gateway was never asked that."""
    if report.state == "bond_lost":
        return await _lost(connection, gateway, report)
    cursor = await connection.execute(
        "select pairing, device, command from pairing where id = %s and gateway = %s for update", (report.id, gateway)
    )
    row = await cursor.fetchone()
    if row is None or (row["device"] is not None and report.device not in ("", row["device"])):
        return False
    state: str = report.state
    if report.state == "paired" and row["device"] is not None:
        state = await _paired(connection, row["device"], report)
    elif report.state == "unpaired" and row["device"] is not None:
        await connection.execute("update device set bond = 'none', bond_protected = false where device = %s", (row["device"],))
    await connection.execute(
        "update pairing set state = %s, report = %s, answered_at = now() where pairing = %s",
        (state, Jsonb(msgspec.to_builtins(report)), row["pairing"]),
    )
    return True


async def _paired(connection: Connection, device: str, report: PairingReport) -> str:
    cursor = await connection.execute("select serial from device where device = %s for update", (device,))
    row = await cursor.fetchone()
    before, serial = (row["serial"] if row is not None else None), report.facts.get("serial")
    mismatch = before is not None and serial is not None and serial != before
    if mismatch:
        log.warning("another serial number than before", extra={"device": device})
    protected = report.bond == "authenticated" and not mismatch
    await connection.execute(
        "update device set bond = %s, bond_protected = %s, model = %s, serial = coalesce(serial, %s), facts = %s, paired_at = now()"
        " where device = %s",
        (report.bond or "none", protected, report.model or None, serial, Jsonb(report.facts), device),
    )
    return "mismatch" if mismatch else "paired"


async def _lost(connection: Connection, gateway: str, report: PairingReport) -> bool:
    """Nobody asked for this: it is noted once for a device that this gateway reads, for people to pair it again."""
    cursor = await connection.execute(
        "insert into pairing (id, gateway, command, device, state, account, answered_at)"
        " select %s, %s, 'pair', d.device, 'bond_lost', 'gateway', now() from device d where d.device = %s and (d.station = %s or exists"
        " (select 1 from pairing p where p.device = d.device and p.gateway = %s and p.state = 'paired'))"
        " on conflict (id) do nothing returning pairing",
        (report.id, gateway, report.device, gateway, gateway),
    )
    return await cursor.fetchone() is not None


async def lost(connection: Connection) -> list[dict[str, Any]]:
    """Devices whose bond was lost and that were not paired since: device, gateway, since when."""
    cursor = await connection.execute(
        "select distinct on (device) device, gateway, asked_at from pairing p where state = 'bond_lost' and not exists"
        " (select 1 from pairing l where l.device = p.device and l.state in ('paired', 'unpaired') and l.asked_at > p.asked_at)"
        " order by device, asked_at desc"
    )
    return await cursor.fetchall()


async def get(connection: Connection, gateway: str, name: str) -> dict[str, Any] | None:
    """One command with its answer."""
    cursor = await connection.execute(
        "select id, command, device, state, report, asked_at, answered_at from pairing where gateway = %s and id = %s", (gateway, name)
    )
    return await cursor.fetchone()
