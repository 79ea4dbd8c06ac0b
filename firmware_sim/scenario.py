"""Scenarios: what devices do, as readable YAML, and the measurements that a good gateway makes of it, as an oracle.

says: one sentence
devices: rows for the town; `gateway` in each is how a gateway must know it (kind, model, passkey …)
steps: control commands, {wait: seconds}, {until: device} (its memory was taken)
expect: measurements: device, values (all of them), and where it matters codes, flags, quality, seconds_ago; or a count
refused: reason → how many frames must be kept apart
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from firmware_sim.town import Town
from vitals.errors import ConfigError
from vitals.measurement import Measurement

FOLDER = Path(__file__).parent / "scenarios"
PATIENCE = 20.0
CLOCK_TOLERANCE = 90.0  # s: meters tell whole minutes of offset, and tests take a while


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file, read."""

    name: str
    says: str
    devices: tuple[dict[str, Any], ...]
    steps: tuple[dict[str, Any], ...]
    expect: tuple[dict[str, Any], ...]
    refused: dict[str, int]

    def gateway_rows(self) -> list[dict[str, Any]]:
        """The rows of a gateway's list of devices for this scenario."""
        return [{"device": row["device"], "address": row["address"], "setting": "home", **row["gateway"]} for row in self.devices]

    def count(self) -> int:
        """How many measurements are expected in all."""
        return sum(int(row.get("count", 1)) for row in self.expect)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> Scenario:
    """A shipped scenario by name, or a file; raises ConfigError."""
    path = FOLDER / f"{name}.yaml" if not name.endswith((".yaml", ".yml")) else Path(name)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Scenario(
            path.stem, document["says"], tuple(document["devices"]), tuple(document["steps"]), tuple(document["expect"]),
            dict(document.get("refused", {})),
        )  # fmt: skip
    except OSError:
        raise ConfigError([f"no scenario {name}; there are: {', '.join(names())}"]) from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError([f"{path}: {type(error).__name__}: {error}"]) from None


async def play(scenario: Scenario, town: Town) -> None:
    """Carry out the steps on a town that was opened with the scenario's devices."""
    for step in scenario.steps:
        if "wait" in step:
            await asyncio.sleep(float(step["wait"]))
        elif "until" in step:
            await _taken(town, step["until"])
        else:
            await town.obey(step)


async def _taken(town: Town, name: str) -> None:
    for _ in range(int(PATIENCE / 0.05)):
        if not getattr(town.devices[name], "memory", None):
            return
        await asyncio.sleep(0.05)


def judge(scenario: Scenario, found: Iterable[Measurement], refused: Counter[str], now: datetime) -> list[str]:
    """What differs from the oracle, one sentence each; empty when the gateway did everything right. `now`: when the steps ended."""
    left = list(found)
    problems = []
    for row in scenario.expect:
        if "count" in row:
            mine = [one for one in left if one.device == row["device"]]
            if len(mine) != row["count"]:
                problems.append(f"{row['device']}: {len(mine)} measurements, {row['count']} expected")
            if len({(one.series, one.record, one.raw) for one in mine}) != len(mine):
                problems.append(f"{row['device']}: a record came twice")
            left = [one for one in left if one.device != row["device"]]
            continue
        match = next((one for one in left if not _differences(row, one, now)), None)
        if match is None:
            close = [f"{one.device} {one.values} {one.codes} {one.flags} {one.time_quality}" for one in left]
            problems.append(f"expected {row}, left are {close}")
        else:
            left.remove(match)
    problems += [f"not expected: {one.device} {one.values} {one.codes}" for one in left]
    if dict(refused) != scenario.refused:
        problems.append(f"refused {dict(refused)}, expected {scenario.refused}")
    return problems


def _differences(row: dict[str, Any], one: Measurement, now: datetime) -> list[str]:
    wrong = []
    if row["device"] != one.device:
        wrong.append("device")
    for code, value in row["values"].items():
        told = one.values.get(code)
        if not isinstance(told, int | float) or not math.isclose(told, value, rel_tol=1e-8):
            wrong.append(code)
    if not row["values"] and one.values:
        wrong.append("values")
    if "codes" in row and {k: str(v).lower() for k, v in row["codes"].items()} != {k: v.lower() for k, v in one.codes.items()}:
        wrong.append("codes")
    if "flags" in row and set(row["flags"]) - set(one.flags):
        wrong.append("flags")
    if "quality" in row and row["quality"] != one.time_quality:
        wrong.append("quality")
    if "seconds_ago" in row and abs((now - timedelta(seconds=row["seconds_ago"]) - one.measured_at).total_seconds()) > CLOCK_TOLERANCE:
        wrong.append("seconds_ago")
    return wrong
