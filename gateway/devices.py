"""The devices this gateway may connect to. An empty list means none: nothing is connected on a guess.

The file is a person's to write and the pairing command's to extend; it holds secrets (consent codes, bind keys), so
it is written for its owner only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitals import device_model
from vitals.device_model import Model
from vitals.errors import ConfigError
from vitals.measurement import SETTINGS
from vitals.wire import valid_name

KINDS = ("blood_pressure", "glucose", "cgm", "heart_rate", "pulse_oximetry", "temperature", "weight", "activity")
_ADDRESS = re.compile(r"([0-9A-F]{2}:){5}[0-9A-F]{2}")
_FIELDS = ("device", "address", "kind", "setting", "model", "users", "user", "consent", "passkey", "bind_key", "bond")


@dataclass(frozen=True, slots=True)
class Device:
    """One row: the name the backend knows it by, its Bluetooth address, what it measures, where it stands, its model.

    users: index on a shared device → the name that this user's measurements are published under. user, consent:
    what a scale wants to hear before it sends. passkey: six digits. key: bind key of an encrypted broadcast.
    """

    device: str
    address: str
    kind: str
    setting: str
    model: Model
    users: dict[int, str] = field(default_factory=dict)
    user: int | None = None
    consent: int | None = None
    passkey: int | None = None
    key: bytes | None = None
    bond: str = ""  # how good the bond was when a command made it; empty for a row that a person wrote

    def names(self) -> set[str]:
        return {self.device, *self.users.values()}


def device(row: dict[str, Any], here: str = "device") -> Device:
    """One row as a device; raises ConfigError with all that is wrong with it."""
    problems = [f"{here}: unknown {name}" for name in sorted(set(row) - set(_FIELDS))]
    name, address = str(row.get("device", "")), str(row.get("address", "")).upper()
    kind, setting = str(row.get("kind", "")), str(row.get("setting", ""))
    if not valid_name(name):
        problems.append(f"{here}: device must be a plain name")
    if not _ADDRESS.fullmatch(address):
        problems.append(f"{here}: address must look like F0:00:00:00:00:01")
    if kind not in KINDS:
        problems.append(f"{here}: kind must be one of {', '.join(KINDS)}")
    if setting not in SETTINGS:
        problems.append(f"{here}: setting must be one of {', '.join(SETTINGS)}")
    model = device_model.named(str(row["model"])) if row.get("model") else device_model.generic(kind)
    if row.get("model") and model is None:
        problems.append(f"{here}: no such model: {row['model']}")
    users = row.get("users", {})
    if not isinstance(users, dict) or not all(str(n).isdecimal() and int(n) < 255 and valid_name(str(v)) for n, v in users.items()):
        problems.append(f"{here}: users must map an index of 0 to 254 to a plain name")
        users = {}
    for what, limit in (("user", 254), ("consent", 9999), ("passkey", 999999)):
        if row.get(what) is not None and (not isinstance(row[what], int) or not 0 <= row[what] <= limit):
            problems.append(f"{here}: {what} must be a number up to {limit}")
    bond = str(row.get("bond", ""))
    if bond not in ("", "none", "unauthenticated", "authenticated"):
        problems.append(f"{here}: bond must be none, unauthenticated or authenticated")
    key = str(row.get("bind_key", ""))
    if key and not re.fullmatch(r"[0-9a-fA-F]{32}", key):
        problems.append(f"{here}: bind_key must be 32 hex digits")
    if problems or model is None:
        raise ConfigError(problems or [f"{here}: kind must be one of {', '.join(KINDS)}"])
    listed = {int(number): str(value) for number, value in users.items()}
    return Device(
        name,
        address,
        kind,
        setting,
        model,
        listed,
        row.get("user"),
        row.get("consent"),
        row.get("passkey"),
        bytes.fromhex(key) or None,
        bond,
    )


def read(path: Path) -> dict[str, Device]:
    """Address → device; raises ConfigError with every problem of the file at once."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except ValueError:
        raise ConfigError([f"{path}: not JSON"]) from None
    if not isinstance(rows, list):
        raise ConfigError([f"{path}: a list of devices expected"])
    problems: list[str] = []
    found: dict[str, Device] = {}
    names: set[str] = set()
    for number, row in enumerate(rows, 1):
        here = f"{path}: device {number}"
        if not isinstance(row, dict):
            problems.append(f"{here}: an object expected")
            continue
        try:
            one = device(row, here)
        except ConfigError as error:
            problems += error.problems
            continue
        if one.address in found:
            problems.append(f"{here}: address listed twice")
        if one.names() & names:
            problems.append(f"{here}: a device name is listed twice")
        found[one.address] = one
        names |= one.names()
    if problems:
        raise ConfigError(problems)
    return found


def row(one: Device) -> dict[str, Any]:
    """A device as a row of the file."""
    words: dict[str, Any] = {
        "device": one.device, "address": one.address, "kind": one.kind, "setting": one.setting, "model": one.model.name,
        "users": {str(number): name for number, name in one.users.items()} or None, "user": one.user, "consent": one.consent,
        "passkey": one.passkey, "bind_key": one.key.hex() if one.key else None, "bond": one.bond or None,
    }  # fmt: skip
    return {name: value for name, value in words.items() if value is not None}


def write(path: Path, devices: Iterable[Device]) -> None:
    """Replace the file, all or nothing."""
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump([row(one) for one in devices], file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
