"""Rule packs in force and their parameters: what ships, what was put in force here, and what a centre or a resident has of its own."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.stations import Accepted, Strict
from api.who import Admin, CommunityOrAdmin, Database, may_see
from ingest import intake
from rules import in_force, pack
from vitals.errors import BadInput, ConfigError

router = APIRouter(prefix="/v1", tags=["rules"])

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9._]+$", examples=["cn.nbphs3.htn"])]


class ParameterView(BaseModel):
    name: str
    value: float | None = Field(description="as the pack has it; null: none is agreed by itself")
    unit: str
    low: float = Field(description="nobody may set it lower")
    high: float = Field(description="nobody may set it higher")
    levels: list[str]


class PackView(BaseModel):
    pack: str
    version: str
    digest: str = Field(description="SHA-256 of its text; stands on every alert that it raises")
    guideline: dict[str, str]
    shipped: bool = Field(description="false: put in force here")
    signed_off: bool
    rules: list[str]
    parameters: list[ParameterView]


class Changed(BaseModel):
    pack: str
    version: str
    digest: str
    activated_at: datetime
    activated_by: str
    retired_at: datetime | None
    retired_by: str | None


class Packs(BaseModel):
    in_force: list[PackView]
    history: list[Changed]


class NewPack(Strict):
    text: str = Field(min_length=1, max_length=1_000_000, description="the YAML of a pack, signed off")


class Parameter(Strict):
    """value null takes it back."""

    pack: Name
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9_]+$", examples=["danger_systolic"])]
    value: float | None = Field(allow_inf_nan=False, examples=[160])


class CentreParameter(Parameter):
    centre: str = Field("*", min_length=1, max_length=64, description="* for all centres")


def _view(one: pack.Pack, shipped: set[str]) -> PackView:
    document = one.document
    guideline = {"zh": document.guideline.zh, "en": document.guideline.en, "edition": document.guideline.edition}
    parameters = [
        ParameterView(name=n, value=p.value, unit=p.unit, low=p.clamp[0], high=p.clamp[1], levels=list(p.levels))
        for n, p in document.params.items()
    ]
    return PackView(
        pack=document.pack, version=document.version, digest=one.digest, guideline=guideline, shipped=one.digest in shipped,
        signed_off=bool(document.signoff), rules=[rule.id for rule in document.rules], parameters=parameters,
    )  # fmt: skip


@router.get("/packs")
async def packs(account: CommunityOrAdmin, connection: Database) -> Packs:
    """The packs that judge what is measured now, and every version that was ever put in force here."""
    del account
    shipped = [pack.load_named(name) for name in pack.shipped()]
    now = in_force.together(shipped, await in_force.added(connection))
    history = [Changed(**row) for row in await in_force.listed(connection)]
    return Packs(in_force=[_view(one, {each.digest for each in shipped}) for one in now], history=history)


@router.post("/packs", status_code=202)
async def activate(body: NewPack, account: Admin, connection: Database) -> Accepted:
    """Put a pack in force from the next transaction on. 422 with every problem and its line for one that is not understood."""
    try:
        one = pack.load(body.text)
    except ConfigError as error:
        raise BadInput("bad_pack", "; ".join(error.problems[:20])) from None
    if not one.document.signoff:
        raise BadInput("not_signed_off", one.name)
    return Accepted(id=await intake.submit(connection, "pack", {"text": body.text}, account.account))


@router.delete("/packs/{pack_name}", status_code=202)
async def retire(pack_name: str, account: Admin, connection: Database) -> Accepted:
    """Take a version out of force again; what ships under that name holds then."""
    return Accepted(id=await intake.submit(connection, "pack", {"retire": pack_name}, account.account))


async def _set(connection: Any, body: Parameter, level: Literal["centre", "resident"], scope: str, account: str) -> Accepted:
    given = {"pack": body.pack, "name": body.name, "value": body.value, "level": level, "scope": scope}
    return Accepted(id=await intake.submit(connection, "parameter", given, account, scope if level == "resident" else None))


@router.put("/parameters", status_code=202)
async def of_centre(body: CentreParameter, account: Admin, connection: Database) -> Accepted:
    """A number of a pack for a centre, inside the pack's clamp: towards safety only."""
    return await _set(connection, body, "centre", body.centre, account.account)


@router.put("/residents/{resident}/parameters", status_code=202)
async def of_resident(resident: str, body: Parameter, account: CommunityOrAdmin, connection: Database) -> Accepted:
    """A number of a pack for one resident, inside the pack's clamp."""
    await may_see(connection, account, resident)
    return await _set(connection, body, "resident", resident, account.account)
