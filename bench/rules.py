"""The rules alone: columns of readings → conditions, state, moves, in memory, with 160,000 residents in state.

    uniform     every reading of another resident
    hot         the readings of 200 residents only

Ours is what the worker runs (all shipped packs, but for rules that look back into the database); beside it the reference, which is
plain Python with an object for each state, and the same comparison as one bare numpy expression, as a limit. All must raise the same.
Theirs that would have to be installed (durable_rules, Bytewax, Polars, DuckDB) are not measured.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.rig import Say, machine, summary
from rules import engine, evaluate, pack, reference
from rules.engine import STATE, Kind
from rules.evaluate import Compiled, Source
from rules.form import FACTS, FLAG_COLUMNS
from vitals.floor.columns import micros
from vitals.metric import METRICS

RESIDENTS = 160_000
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
SHAPES = {"batches_of_10000": 10_000, "batches_of_256": 256}
TRUTH = {1: True, 0: None, -1: False}


def readings(
    count: int, residents: int, seed: int, apart: int = 1000
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]], Source]:  # fmt: skip
    """Subjects, columns and sources: half pressures, then glucose, oxygen and temperature; two in a thousand dangerous.

    apart: µs from one reading to the next.
    """
    random = np.random.default_rng(seed)
    subjects = random.integers(0, residents, count)
    columns = {name: np.full(count, np.nan) for name in METRICS}
    kind = random.random(count)
    danger = random.random(count) < 0.002
    for low, high, values in (
        (0.0, 0.5, {"systolic": (125, 14, 186), "diastolic": (78, 9, 112), "pulse": (72, 8, 90)}),
        (0.5, 0.7, {"glucose": (6.2, 1.2, 17.5)}),
        (0.7, 0.9, {"spo2": (97, 0.8, 86)}), (0.9, 0.98, {"temperature": (36.6, 0.3, 39.5)}), (0.98, 1.0, {"ketone": (0.4, 0.2, 3.4)}),
    ):  # fmt: skip
        mine = (kind >= low) & (kind < high)
        for code, (mean, deviation, high_value) in values.items():
            columns[code][mine] = np.round(random.normal(mean, deviation, mine.sum()), 1)
            columns[code][mine & danger] = high_value
    known = np.random.default_rng(7).random((len(FACTS), RESIDENTS))
    for number, name in enumerate(FACTS):
        values_of = np.floor(35 + 50 * known[number]) if name == "age_years" else (known[number] < 0.1).astype(float)
        columns[name] = values_of[subjects] if name not in ("pregnant", "lactating") else np.zeros(count)
    at = micros(NOW) + np.arange(count, dtype=np.int64) * apart
    columns |= {name: np.zeros(count) for name in FLAG_COLUMNS} | {"flags.fasting": (random.random(count) < 0.5).astype(float)}
    return subjects, columns, Source(at, np.ones(count, bool), np.ones(count, bool), np.zeros(count, np.uint8), np.ones(count, bool))


def rules() -> list[Compiled]:
    return [one for one in evaluate.compile_packs([pack.load_named(name) for name in pack.shipped()]) if not one.rule.columns]


def ours(
    compiled: list[Compiled], subjects: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], source: Source, batch: int
) -> tuple[float, dict[str, NDArray[np.uint8]]]:
    """Seconds, and rule → the move of each reading."""
    states = {one.rule.id: np.zeros(RESIDENTS, STATE) for one in compiled}
    moves: dict[str, list[NDArray[np.uint8]]] = {one.rule.id: [] for one in compiled}
    began = time.perf_counter()
    for start in range(0, len(subjects), batch):
        part = slice(start, start + batch)
        cut = {name: column[part] for name, column in columns.items()}
        from_ = Source(source.at[part], source.valid[part], source.synced[part], source.setting[part], source.person[part])
        for one in compiled:
            events = evaluate.outcomes(one, from_, cut, NOW)
            found, _ = engine.run(one.timing, states[one.rule.id], subjects[part], events)
            moves[one.rule.id].append(found)
    seconds = time.perf_counter() - began
    return seconds, {rule: np.concatenate(found) for rule, found in moves.items()}


def theirs(
    compiled: list[Compiled], subjects: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], source: Source
) -> tuple[float, dict[str, NDArray[np.uint8]]]:
    """The reference, one reading after the other."""
    names = [name for name in columns if not np.isnan(columns[name]).all()]
    rows = [
        {name: None if value != value else value for name, value in zip(names, row, strict=True)}
        for row in zip(*(columns[name].tolist() for name in names), strict=True)
    ]
    at, now = source.at.tolist(), micros(NOW)
    moves = {one.rule.id: np.zeros(len(rows), np.uint8) for one in compiled}
    states: dict[tuple[str, int], reference.State] = {}
    began = time.perf_counter()
    for number, (subject, row) in enumerate(zip(subjects.tolist(), rows, strict=True)):
        for one in compiled:
            rule, terms = one.rule, one.pack.terms
            hit = reference.holds(rule.when, row, terms)
            if rule.applies:
                applies = reference.holds(rule.applies, row, terms)
                hit = hit if applies is True or (applies is None and not one.timing.visits) else None
            if all(row.get(code) is None for code in one.concerns):
                hit = None
            clear = reference.holds(rule.clear.when, row, terms) if rule.clear else None
            urgent = rule.urgent is not None and reference.holds(rule.urgent, row, terms) is True
            event = reference.Event(Kind.MEASUREMENT, at[number], now, hit if "clinic" in rule.settings else None, clear, True, urgent)
            key = (rule.id, subject)
            states[key], move = reference.advance(one.timing, states.get(key, reference.State()), event)
            moves[rule.id][number] = move
    return time.perf_counter() - began, moves


def bare(columns: dict[str, NDArray[np.float64]], batch: int) -> float:
    """Seconds for the thresholds alone, without grid, facts, state or moves: nothing in numpy can be faster."""
    began = time.perf_counter()
    for start in range(0, len(columns["systolic"]), batch):
        part = slice(start, start + batch)
        c = {name: columns[name][part] for name in ("systolic", "diastolic", "glucose", "spo2", "temperature")}
        hits = (c["systolic"] >= 180) | (c["diastolic"] >= 110) | (c["glucose"] >= 16.7) | (c["glucose"] <= 3.9) | (c["spo2"] < 94)
        np.flatnonzero(hits | (c["temperature"] >= 39.1))
    return time.perf_counter() - began


async def run(say: Say, samples: int) -> dict[str, Any]:
    """Readings a second and core; raises if the two ways do not raise the same."""
    compiled = rules()
    rates: dict[str, list[float]] = {}

    def note(who: str, count: int, seconds: float) -> None:
        rates.setdefault(who, []).append(count / seconds)
        say(f"{who}: {count / seconds:,.0f} readings/s")

    for sample in range(samples):
        for spread, residents in (("uniform", RESIDENTS), ("hot", 200)):
            for shape, batch in SHAPES.items():
                count = 1_000_000 if batch > 1000 else 200_000
                subjects, columns, source = readings(count, residents, sample)
                note(f"ours_{spread}_{shape}", count, ours(compiled, subjects, columns, source, batch)[0])
                note(f"limit_{shape}", count, bare(columns, batch))
            subjects, columns, source = readings(10_000, residents, 1000 + sample)
            seconds, plain = theirs(compiled, subjects, columns, source)
            note(f"plain_python_{spread}", 10_000, seconds)
            _, vector = ours(compiled, subjects, columns, source, 777)
            differing = {rule: int((plain[rule] != vector[rule]).sum()) for rule in plain}
            if any(differing.values()):
                raise RuntimeError(f"the engine and the reference disagree: {differing}")
    return {"machine": machine(), "rules": [one.rule.id for one in compiled], "residents": RESIDENTS} | {
        who: {"readings_per_second": summary(values)} for who, values in sorted(rates.items())
    }
