"""Fifty times kill -9 of everything behind the gateways, in both compositions: what was promised is stored, once."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from bench import chaos
from tests.conftest import missing
from yizhan import kafka
from yizhan.broker import mosquitto_program

pytestmark = pytest.mark.services


@pytest.mark.parametrize(("lane", "kills"), [("embedded", 20), ("kafka", 15), ("kafka", 16)])
async def test_fifty_kills_cost_nothing_that_was_promised(lane: str, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not mosquitto_program():
        missing("mosquitto", "not installed")
    if lane == "kafka" and kafka.jars() is None:
        missing("kafka", "not installed (tests/install_services.sh)")
    monkeypatch.chdir(tmp_path)  # the logs of a failed run
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(1 << 30)))
    result = await chaos.run(lambda _line: None, lane, seed, kills, 200.0)
    assert result["ok"], result
    assert result["kills"] >= kills
    assert result["acknowledged"] == result["stored"] == result["attempted"]
    for part in ("worker", "ingest"):
        if part in result["recovery_s"]:
            assert result["recovery_s"][part]["median"] < 10, "the figure is in the docs; this is the floor of a noisy machine"
