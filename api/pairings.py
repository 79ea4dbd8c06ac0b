"""Pairing: tell a gateway to look around, to bond with a device, to forget it; and see what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.stations import Id, Strict
from api.who import Admin, Database
from ingest import pairing
from vitals import device_model
from vitals.errors import Refused
from vitals.measurement import Kind, Setting

router = APIRouter(prefix="/v1/gateways/{gateway}", tags=["pairing"])


class Pair(Strict):
    device: Id = Field(examples=["cuff-0007"], description="registered before")
    address: str = Field(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$", examples=["F0:00:00:00:00:07"])
    kind: Kind = Field(examples=["blood_pressure"])
    setting: Setting = Field(examples=["home"])
    model: str | None = Field(None, max_length=64, examples=["Beurer BM85"], description="row of the table of models")
    passkey: int | None = Field(None, ge=0, le=999999, description="six digits from its label or screen")
    user: int | None = Field(None, ge=0, le=254, description="user index whose consent it asks for")
    consent: int | None = Field(None, ge=0, le=9999)
    users: dict[str, Id] | None = Field(None, description="a shared device: user index → the device name of that user")
    bind_key: str | None = Field(None, pattern=r"^[0-9a-fA-F]{32}$", description="of an encrypted broadcast")
    seconds: float = Field(60, gt=0, le=300, description="how long to look for it")


class Discover(Strict):
    seconds: float = Field(10, gt=0, le=30)


class Asked(BaseModel):
    id: str = Field(examples=["p-81f0a2b3c4d5e6f7"])


class PairingView(BaseModel):
    """state: asked | paired | failed | unpaired | found | mismatch (another serial number than before)."""

    id: str
    command: str
    device: str | None
    state: str
    report: dict[str, Any] | None
    asked_at: datetime
    answered_at: datetime | None


@router.post("/pairings", status_code=202)
async def pair(gateway: str, body: Pair, account: Admin, connection: Database) -> Asked:
    """Let the gateway bond with a device; the answer comes under the id."""
    if body.model is not None and device_model.named(body.model) is None:
        raise Refused("unknown_model")
    command = body.model_dump(exclude_none=True)
    return Asked(id=await pairing.ask(connection, gateway, "pair", command, account.account))


@router.post("/discoveries", status_code=202)
async def discover(gateway: str, body: Discover, account: Admin, connection: Database) -> Asked:
    """Let the gateway tell which health devices it hears that it does not know yet."""
    return Asked(id=await pairing.ask(connection, gateway, "discover", body.model_dump(), account.account))


@router.delete("/pairings/{device}", status_code=202)
async def unpair(gateway: str, device: str, account: Admin, connection: Database) -> Asked:
    """Let the gateway forget a device and its bond."""
    return Asked(id=await pairing.ask(connection, gateway, "unpair", {"device": device}, account.account))


@router.get("/pairings/{command}")
async def outcome(gateway: str, command: str, _account: Admin, connection: Database) -> PairingView:
    """What became of a command."""
    row = await pairing.get(connection, gateway, command)
    if row is None:
        raise Refused("unknown_pairing")
    return PairingView(**row)
