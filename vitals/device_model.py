"""Which device models there are and how each behaves: `models.toml`, read once, so that a new device is a row."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from vitals.errors import ConfigError

Bond = Literal["none", "just_works", "passkey"]
Time = Literal["none", "read", "write", "write_first"]
History = Literal["none", "replay", "once", "racp", "racp_reversed", "stream"]
Evidence = Literal["captured", "simulated", "specification"]

# what rows may say beyond the codecs' own words
QUIRKS = frozenset(
    {
        "pulse_status_swapped_with_user", "plain_u16_pressures", "crc_sig", "crc_ccitt_false", "ketone_by_meal_6", "clock_never_set",
        "bond_before_discovery", "xiaomi_layout_2a9c",
    }
)  # fmt: skip


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memory read in blocks: the address of each user's first record, how many records, bytes of one, bytes of a block."""

    users: tuple[int, ...]
    records: int
    size: int
    block: int


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row; `models.toml` says what each field means."""

    name: str
    maker: str
    kind: str
    bond: Bond
    time: Time
    hang_up: Literal["device", "host"]
    history: History
    evidence: Evidence
    aliases: tuple[str, ...] = ()
    advertises: str | None = None
    company: int | None = None
    consent: bool = False
    protocol: str | None = None
    memory: Memory | None = None
    quirks: frozenset[str] = frozenset()
    note: str = ""


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    model: list[Model]


def read(text: str) -> dict[str, Model]:
    """Lower-case name or alias → model; raises ConfigError with every problem of the rows."""
    try:
        rows = msgspec.convert(tomllib.loads(text), _Table).model
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError([f"models: {error}"]) from None
    problems: list[str] = []
    found: dict[str, Model] = {}
    for row in rows:
        names = (row.name, *row.aliases)
        problems += [f"models: {name} is listed twice" for name in names if found.setdefault(name.lower(), row) is not row]
        problems += [f"models: {row.name}: unknown quirk {quirk}" for quirk in sorted(row.quirks - QUIRKS)]
        try:
            re.compile(row.advertises or "")
        except re.error as error:
            problems.append(f"models: {row.name}: advertises: {error}")
    if problems:
        raise ConfigError(problems)
    return found


@functools.cache
def models() -> dict[str, Model]:
    """The shipped table."""
    return read((Path(__file__).parent / "models.toml").read_text(encoding="utf-8"))


def named(name: str) -> Model | None:
    """By name or alias; upper and lower case are the same."""
    return models().get(name.strip().lower())


def generic(kind: str) -> Model | None:
    """What is assumed of a device of this kind whose model has no row; None for a kind that no radio reads."""
    return next((model for model in models().values() if model.kind == kind and model.name.startswith("Generic")), None)


def recognise(name: str | None, companies: Iterable[int] = ()) -> Model | None:
    """The model of an advertisement, by its name, else by its manufacturer data; None for one we do not know."""
    known = set(companies)
    rows = list(dict.fromkeys(models().values()))
    for model in rows:
        if name and model.advertises and re.fullmatch(model.advertises, name):
            return model
    return next((model for model in rows if model.company is not None and model.company in known), None)
