"""All SQL about sites, gateways and devices."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any, NamedTuple

from psycopg.rows import tuple_row

from vitals.errors import Refused
from vitals.floor.database import Connection


class DeviceRow(NamedTuple):
    """A registered device. station: the gateway whose check-ins decide whose it is, None for a person's own device."""

    device_no: int
    device: str
    kind: str
    setting: str
    site: str | None
    station: str | None
    bond_protected: bool


class Registry:
    """Devices and gateways as a worker remembers them: always what the database says, asked for again when it changed.

    A row of the database counts the changes; it is read first in each transaction. What is not known is never remembered.
    """

    def __init__(self) -> None:
        self._version = -1
        self._devices: dict[str, DeviceRow] = {}
        self._gateways: dict[str, str] = {}

    async def look(self, connection: Connection) -> None:
        """Forget everything if anything changed since the last transaction."""
        row = await (await connection.execute("select version from registry_version")).fetchone()
        assert row is not None
        if row["version"] != self._version:
            self._version = row["version"]
            self._devices.clear()
            self._gateways.clear()

    async def devices(self, connection: Connection, names: set[str]) -> dict[str, DeviceRow]:
        """The registered ones; may hold others too."""
        unknown = names - self._devices.keys()
        if unknown:
            self._devices |= await by_name(connection, unknown)
        return self._devices

    async def gateways(self, connection: Connection, names: set[str]) -> dict[str, str]:
        """gateway → site of the enrolled and not revoked ones; may hold others too."""
        unknown = names - self._gateways.keys()
        if unknown:
            self._gateways |= await gateways(connection, unknown)
        return self._gateways


_COLUMNS = "device_no, device, kind, setting, site, station, bond_protected"


async def by_name(connection: Connection, names: Iterable[str]) -> dict[str, DeviceRow]:
    """The registered ones among `names`."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    cursor = connection.cursor(row_factory=tuple_row, binary=True)
    await cursor.execute(f"select {_COLUMNS} from device where device = any(%s)", (wanted,))  # noqa: S608
    return {row[1]: DeviceRow._make(row) for row in await cursor.fetchall()}


async def gateways(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """gateway → site, of the enrolled and not revoked ones among `names`."""
    cursor = await connection.execute(
        "select gateway, site from gateway where gateway = any(%s) and revoked_at is null", (sorted(set(names)),)
    )
    return {row["gateway"]: row["site"] for row in await cursor.fetchall()}


async def add_site(connection: Connection, site: str, name: str) -> None:
    await connection.execute("insert into site (site, name) values (%s, %s) on conflict (site) do nothing", (site, name))


async def enrol_gateway(connection: Connection, gateway: str, site: str, password_hash: str) -> None:
    """Enrol, or give a new credential to one that was revoked; raises Refused `already_enrolled`."""
    cursor = await connection.execute(
        "insert into gateway (gateway, site, password_hash) values (%s, %s, %s)"
        " on conflict (gateway) do update set password_hash = excluded.password_hash, enrolled_at = now(), revoked_at = null"
        " where gateway.revoked_at is not null and gateway.site = excluded.site returning gateway",
        (gateway, site, password_hash),
    )
    if await cursor.fetchone() is None:
        raise Refused("already_enrolled")


async def revoke_gateway(connection: Connection, gateway: str) -> None:
    """Take the credential away; the broker keeper hears of it and ends live sessions. Raises Refused `unknown_gateway`."""
    cursor = await connection.execute(
        "update gateway set revoked_at = now() where gateway = %s and revoked_at is null returning gateway", (gateway,)
    )
    if await cursor.fetchone() is None:
        raise Refused("unknown_gateway")


async def register(
    connection: Connection, device: str, kind: str, setting: str, site: str | None, station: str | None, bond_protected: bool = True
) -> None:
    """Register a device; raises Refused `already_registered`."""
    cursor = await connection.execute(
        "insert into device (device, kind, setting, site, station, bond_protected) values (%s, %s, %s, %s, %s, %s)"
        " on conflict (device) do nothing returning device_no",
        (device, kind, setting, site, station, bond_protected),
    )
    if await cursor.fetchone() is None:
        raise Refused("already_registered")


async def calibrated(connection: Connection, device: str, on: date) -> None:
    """A device was calibrated on a day. Raises Refused `unknown_device`."""
    cursor = await connection.execute("update device set calibrated_on = %s where device = %s returning device", (on, device))
    if await cursor.fetchone() is None:
        raise Refused("unknown_device")


async def described(connection: Connection, names: Iterable[str]) -> list[dict[str, Any]]:
    """What is known of these devices: kind, model, serial, calibrated_on."""
    cursor = await connection.execute(
        "select device, kind, model, serial, calibrated_on from device where device = any(%s) order by device", (sorted(set(names)),)
    )
    return await cursor.fetchall()


async def listing(connection: Connection) -> list[dict[str, Any]]:
    """Every device with its current binding, for people."""
    cursor = await connection.execute(
        "select d.device, d.kind, d.setting, d.site, d.station, b.resident from device d"
        " left join binding b on b.device_no = d.device_no and b.during @> now() order by d.device"
    )
    return await cursor.fetchall()
