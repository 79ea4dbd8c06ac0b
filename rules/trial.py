"""Run the tests a pack carries: readings and waits through the compiled engine, states compared. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from rules import condition, engine
from rules.engine import EVENT, STATE, Kind, Phase, Timing
from rules.pack import FACTS, Pack, Rule, duration
from vitals.metric import METRICS

_WORDS = {Phase.NORMAL: "none", Phase.PENDING: "pending", Phase.FIRING: "firing", Phase.UNCONFIRMED: "unconfirmed"}
_START = 1_700_000_000_000_000  # µs; any moment will do


def run(pack: Pack) -> list[str]:
    """One line for every test that fails."""
    failures = []
    for test in pack.document.tests:
        given = test["given"] if isinstance(test["given"], list) else [test["given"]]
        for rule in pack.rules:
            expected = test["expect"].get(rule.id)
            if expected is not None:
                found = state_after(pack, rule, given, test.get("wait"))
                if found != expected:
                    failures.append(f"{test['id']}: {rule.id} is {found}, expected {expected}")
    return failures


def state_after(pack: Pack, rule: Rule, given: list[Mapping[str, Any]], wait: str | None) -> str:
    """The alert state of one rule after readings at their times `t`, and after waiting beyond the last."""
    columns = {name: np.array([_number(row.get(name)) for row in given]) for name in (*METRICS, *FACTS)}
    events = np.zeros(len(given), EVENT)
    hit = condition.compile_condition(rule.when, pack)(columns)
    if rule.applies:
        applies = condition.compile_condition(rule.applies, pack)(columns)
        hit = np.where(applies == 1 if rule.consecutive else applies >= 0, hit, 0)
    in_scope = [row.get("setting", rule.settings[0]) in rule.settings for row in given]
    events["hit"] = np.where(in_scope, hit, 0)
    events["clear"] = condition.compile_condition(rule.clear.when, pack)(columns) if rule.clear else 0
    events["urgent"] = condition.compile_condition(rule.urgent, pack)(columns) == 1 if rule.urgent else False
    events["valid"] = True
    events["at"] = events["now"] = [_START + _micros(duration(row.get("t", "0s"))) for row in given]
    if wait is not None:
        tick = np.zeros(1, EVENT)
        tick["kind"] = Kind.TICK
        tick["at"] = tick["now"] = events["now"].max() + _micros(duration(wait))
        events = np.concatenate([events, tick])
    state = np.zeros(1, STATE)
    engine.run(Timing.of(rule), state, np.zeros(len(events), np.int64), events)
    return _WORDS[Phase(state["phase"][0])]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
