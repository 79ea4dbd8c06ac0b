"""The devices this gateway may connect to. An empty list means none: nothing is connected on a guess."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from vitals.errors import ConfigError
from vitals.measurement import SETTINGS
from vitals.wire import valid_name

KINDS = ("blood_pressure",)
_ADDRESS = re.compile(r"([0-9A-F]{2}:){5}[0-9A-F]{2}")


@dataclass(frozen=True, slots=True)
class Device:
    """One row: the name the backend knows it by, its Bluetooth address, its profile, where it stands."""

    device: str
    address: str
    kind: str
    setting: str


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
    for number, row in enumerate(rows, 1):
        here = f"{path}: device {number}"
        if not isinstance(row, dict):
            problems.append(f"{here}: an object expected")
            continue
        if extra := set(row) - {"device", "address", "kind", "setting"}:
            problems.append(f"{here}: unknown {', '.join(sorted(extra))}")
        device, address = str(row.get("device", "")), str(row.get("address", "")).upper()
        kind, setting = str(row.get("kind", "")), str(row.get("setting", ""))
        if not valid_name(device):
            problems.append(f"{here}: device must be a plain name")
        if not _ADDRESS.fullmatch(address):
            problems.append(f"{here}: address must look like F0:00:00:00:00:01")
        if kind not in KINDS:
            problems.append(f"{here}: kind must be one of {', '.join(KINDS)}")
        if setting not in SETTINGS:
            problems.append(f"{here}: setting must be one of {', '.join(SETTINGS)}")
        if address in found:
            problems.append(f"{here}: address listed twice")
        found[address] = Device(device, address, kind, setting)
    if len({row.device for row in found.values()}) != len(found):
        problems.append(f"{path}: a device name is listed twice")
    if problems:
        raise ConfigError(problems)
    return found
