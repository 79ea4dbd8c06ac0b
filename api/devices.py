"""Enrolment: gateways and devices come in with a single-use code, and go out by revocation."""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, Field

from api import accounts
from api.problem import problem
from api.stations import Accepted, Id, Strict
from api.who import Admin, Database, ResidentOrAdmin, Security
from care import residents
from ingest import devices, intake
from vitals import broker_password, wire
from vitals.errors import BadInput, Refused
from vitals.measurement import Kind

router = APIRouter(prefix="/v1", tags=["devices"])


class GatewayEnrolment(Strict):
    gateway: Id = Field(examples=["gateway-2"])
    site: Id = Field(examples=["station-1"])


class Code(BaseModel):
    code: str = Field(description="single use, ten minutes, five tries", examples=["K7QF-8H2MWZ4T"])
    expires_at: datetime


class UseCode(Strict):
    code: Annotated[str, Field(min_length=6, max_length=32)]


class Credential(BaseModel):
    """A gateway's credential, shown once."""

    gateway: str
    site: str
    user: str
    password: str
    topics: dict[str, list[str]]


class NewDevice(Strict):
    device: Id
    kind: Kind
    setting: Literal["clinic", "kiosk", "home", "wearable", "cuffless", "manual"]
    site: Id | None = None
    station: Id | None = Field(None, description="the gateway whose check-ins decide whose measurement it is; none for a person's own")
    bond_protected: bool = True


class Claim(UseCode):
    resident: Id | None = Field(None, description="for whom; a resident claims for themself")


class Wearer(Strict):
    resident: Id | None = Field(None, description="who wore it; null for nobody")
    since: AwareDatetime
    until: AwareDatetime | None = Field(None, description="until when; open if absent")
    why: Annotated[str, Field(min_length=1, max_length=500, examples=["two bands were mixed up at the handover"])]


class Calibrated(Strict):
    on: date = Field(description="the day on its certificate")


class DeviceView(BaseModel):
    device: str
    kind: str
    setting: str
    site: str | None
    station: str | None
    resident: str | None


class NewAccount(Strict):
    role: Literal["admin", "security", "audit", "doctor", "nurse", "supervisor", "hospital", "sentinel", "station", "resident"]
    refers_to: Id | None = Field(None, description="staff, gateway or resident; none for an administrator")
    login: Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]{1,64}$")] | None = Field(
        None, description="a name to log in with; without one the account has a token", examples=["zhang@hospital"]
    )
    password: Annotated[str, Field(max_length=200)] | None = None
    external: bool = Field(False, description="the name is one that the identity provider gives; no password here")


class NewToken(BaseModel):
    account: str
    token: str | None = Field(description="shown once; none for an account with a name and a password")


@router.post("/enrolments", status_code=201)
async def invite_gateway(body: GatewayEnrolment, account: Admin, connection: Database) -> Code:
    """A code with which one gateway may fetch its credential."""
    if not (wire.valid_name(body.gateway) and wire.valid_name(body.site)):
        raise Refused("bad_name")
    names = {"gateway": body.gateway, "site": body.site}
    code, expires = await accounts.make_code(connection, "gateway", names, account.account, datetime.now(UTC))
    return Code(code=code, expires_at=expires)


@router.post("/enrolments/redeem", status_code=201, response_model=Credential)
async def redeem(body: UseCode, connection: Database) -> Credential | Response:
    """Exchange the code for the gateway's credential. No account is needed; the code is the proof."""
    names = await accounts.use_code(connection, body.code, "gateway", datetime.now(UTC))
    if names is None:
        return problem(403, "bad_code")  # returned, not raised: the counted try is committed
    password = secrets.token_urlsafe(24)
    await devices.add_site(connection, names["site"], names["site"])
    await devices.enrol_gateway(connection, names["gateway"], names["site"], broker_password.hashed(password))
    return Credential(
        gateway=names["gateway"], site=names["site"], user=names["gateway"], password=password,
        topics={
            way: [wire.topic(names["site"], names["gateway"], way, what) for what in kinds]
            for way, kinds in (("up", wire.UP), ("down", wire.DOWN))
        },
    )  # fmt: skip


@router.post("/gateways/{gateway}/revoke", status_code=204)
async def revoke_gateway(gateway: str, _account: Admin, connection: Database) -> None:
    """Take the credential away; live sessions end within a minute."""
    await devices.revoke_gateway(connection, gateway)


@router.post("/devices", status_code=201)
async def register(body: NewDevice, account: Admin, connection: Database) -> Code:
    """Register a device; the code lets one resident claim it (a station's device needs none)."""
    await devices.register(connection, body.device, body.kind, body.setting, body.site, body.station, body.bond_protected)
    code, expires = await accounts.make_code(connection, "device", {"device": body.device}, account.account, datetime.now(UTC))
    return Code(code=code, expires_at=expires)


@router.get("/devices")
async def listing(_account: Admin, connection: Database) -> list[DeviceView]:
    """Every device and who is bound to it."""
    return [DeviceView(**row) for row in await devices.listing(connection)]


@router.post("/devices/claim", status_code=202, response_model=Accepted)
async def claim(body: Claim, account: ResidentOrAdmin, connection: Database) -> Accepted | Response:
    """Bind a device to a resident from now on, with the code that came with it."""
    resident = account.refers_to if account.role == "resident" else body.resident
    if resident is None or (account.role == "resident" and body.resident not in (None, resident)):
        raise Refused("forbidden")
    if await residents.get(connection, resident) is None:
        raise Refused("unknown_resident")
    names = await accounts.use_code(connection, body.code, "device", datetime.now(UTC))
    if names is None:
        return problem(403, "bad_code")
    row = {"device": names["device"], "resident": resident}
    return Accepted(id=await intake.submit(connection, "bind", row, account.account, resident))


@router.delete("/devices/{device}/binding", status_code=202)
async def unbind(device: str, account: ResidentOrAdmin, connection: Database) -> Accepted:
    """End the binding now; what was measured before stays where it belongs."""
    rows: list[dict[str, Any]] = [row for row in await devices.listing(connection) if row["device"] == device]
    if not rows or (account.role == "resident" and rows[0]["resident"] != account.refers_to):
        raise Refused("unknown_device")
    return Accepted(id=await intake.submit(connection, "unbind", {"device": device}, account.account, rows[0]["resident"]))


@router.post("/devices/{device}/wearers", status_code=202)
async def rebind(device: str, body: Wearer, account: Admin, connection: Database) -> Accepted:
    """Correct who wore a device from one moment to another: what it measured then moves, and what was concluded is looked at again."""
    if body.until is not None and body.until <= body.since:
        raise BadInput("bad_range")
    if body.resident is not None and await residents.get(connection, body.resident) is None:
        raise Refused("unknown_resident")
    row = {
        "device": device, "resident": body.resident, "since": body.since.isoformat(), "why": body.why,
        "until": body.until.isoformat() if body.until is not None else None,
    }  # fmt: skip
    return Accepted(id=await intake.submit(connection, "rebind", row, account.account, body.resident))


@router.put("/devices/{device}/calibration", status_code=204)
async def calibrated(device: str, body: Calibrated, _account: Admin, connection: Database) -> None:
    """When a device was last calibrated; it stands on the board and on the evidence that goes to a hospital."""
    if body.on > datetime.now(UTC).date():
        raise BadInput("bad_range", "not in the future")
    await devices.calibrated(connection, device, body.on)


@router.post("/accounts", status_code=201)
async def create_account(body: NewAccount, account: Security, connection: Database) -> NewToken:
    """A new account; its token is shown once. The system's administrator makes stations' only."""
    if account.role == "admin" and body.role != "station":
        raise Refused("forbidden")
    known = body.password is not None or body.external  # by a password of ours, or by the identity provider
    if (body.role in ("admin", "security", "audit")) != (body.refers_to is None) or (body.login is not None) != known:
        raise Refused("bad_reference")
    if body.login is not None:
        password = None if body.external else body.password
        return NewToken(account=await accounts.create_login(connection, body.role, body.refers_to, body.login, password), token=None)
    made, token = await accounts.create(connection, body.role, body.refers_to)
    return NewToken(account=made, token=token)


@router.post("/accounts/{account}/revoke", status_code=204)
async def revoke_account(account: str, _by: Security, connection: Database) -> None:
    """End an account; its open streams end within a minute."""
    await accounts.revoke(connection, account)
