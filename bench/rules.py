"""The rules alone: columns of readings → conditions, state, moves, in memory, with 160,000 residents in state.

    uniform     every reading of another resident
    hot         the readings of 200 residents only

First everything that ships, as the worker runs it, rules that look back included: what they look back at lies sorted by resident and
time, as the database's index has it. Beside it the reference, which is plain Python, and the comparisons as one bare numpy expression, as
a limit. Then six simple stateful rules, beside the same six as others would write them (`bench/rule_peers.py`). All must raise the same.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from bench import rule_peers, town
from bench.rig import Say, machine, summary
from rules import engine, evaluate, facts, pack, reference, windows
from rules.evaluate import Compiled, Source
from rules.form import FACTS, FLAG_COLUMNS, FLAGS
from rules.history import Reading
from rules.state import STATE, Array, Kind, Move, busy
from rules.states import moment
from vitals.floor.columns import micros
from vitals.metric import METRICS

RESIDENTS = 160_000
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
# who measures, and µs from one reading to the next: a city of which everybody measures twice a day, or 200 people each once a minute
SPREADS = (("uniform", RESIDENTS, 270_000), ("hot", 200, 300_000))
MICROSECOND = timedelta(microseconds=1)
SHAPES = {"batches_of_10000": 10_000, "batches_of_256": 256}
TRUTH = {1: True, 0: None, -1: False}


def readings(
    count: int, residents: int, seed: int, apart: int = 1000, rare: float = 0.001
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]], Source]:  # fmt: skip
    """Subjects, columns and sources: half pressures, then glucose, oxygen and temperature; two in a thousand dangerous.

    apart: µs from one reading to the next. rare: share of pressures with an irregular pulse, and of oximeters with a breath counted beside.
    """
    random = np.random.default_rng(seed)
    subjects = random.integers(0, residents, count)
    columns = {name: np.full(count, np.nan) for name in METRICS}
    kind = random.random(count)
    danger = random.random(count) < 0.002
    for low, high, values in (
        (0.0, 0.5, {"systolic": (125, 14, 186), "diastolic": (78, 9, 112), "pulse": (72, 8, 140)}),
        (0.5, 0.7, {"glucose": (6.2, 1.2, 17.5)}),
        (0.7, 0.9, {"spo2": (97, 0.8, 86)}),
        (0.9, 0.97, {"temperature": (36.6, 0.3, 39.5)}), (0.97, 0.98, {"weight": (70, 1, 74)}), (0.98, 1.0, {"ketone": (0.4, 0.2, 3.4)}),
    ):  # fmt: skip
        mine = (kind >= low) & (kind < high)
        for code, (mean, deviation, high_value) in values.items():
            columns[code][mine] = np.round(random.normal(mean, deviation, mine.sum()), 1)
            columns[code][mine & danger] = high_value
    counted = ~np.isnan(columns["spo2"]) & (random.random(count) < rare)
    columns["respiratory_rate"][counted] = np.where(random.random(counted.sum()) < 0.3, 28, 16)
    columns["spo2"][counted] = np.where(random.random(counted.sum()) < 0.3, 92, 97)
    known = np.random.default_rng(7).random((len(FACTS), RESIDENTS))
    for number, name in enumerate(FACTS):
        values_of = np.floor(35 + 50 * known[number]) if name == "age_years" else (known[number] < 0.1).astype(float)
        columns[name] = values_of[subjects] if name not in ("pregnant", "lactating") else np.zeros(count)
    at = micros(NOW) + np.arange(count, dtype=np.int64) * apart
    columns |= {name: np.zeros(count) for name in FLAG_COLUMNS} | {"flags.fasting": (random.random(count) < 0.5).astype(float)}
    columns["flags.irregular_pulse"] = (~np.isnan(columns["systolic"]) & (random.random(count) < rare)).astype(float)
    return subjects, columns, Source(at, np.ones(count, bool), np.ones(count, bool), np.zeros(count, np.uint8), np.ones(count, bool))


def rules() -> list[Compiled]:
    """Everything that ships and is judged when a measurement comes; rules about trends wait for the end of the day."""
    shipped = evaluate.compile_packs([pack.load_named(name) for name in pack.shipped()])
    return [one for one in shipped if one.rule.daily is None]


SIX = """
pack: bench.six
version: 1.0.0
guideline: {zh: 六条, en: six, edition: "1", status: draft}
effective: {from: null, to: null}
sources: {s: {cite: c, loc: l, quote: q}}
rules:
"""


def six() -> list[Compiled]:
    """The six rules of `bench.rule_peers` as a pack."""
    text = SIX
    for number, (metric, comparator, limit) in enumerate(rule_peers.RULES):
        text += f"""  - {{id: six.{number}, family: trend, zh: z, en: e, source: s, when: {{{metric}: {{{comparator}: {limit}}}}},
     consecutive: {{count: 2, apart: 0s}}, severity: P4, tell: {{act: {{zh: z, en: e}}}},
     action: {{code: none, zh: z, en: e, follow_up_days: 1}}, explain: {{zh: z, en: e}}}}
"""
    return evaluate.compile_packs([pack.load(text)])


class Past:
    """The readings themselves, sorted by resident and then by time, as the database's index has them."""

    def __init__(self, subjects: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], source: Source, codes: Iterable[str]) -> None:
        self._source, self._every = source, subjects
        self._order = np.argsort(subjects, kind="stable")
        self._place = np.empty(len(subjects), np.int64)
        self._place[self._order] = np.arange(len(subjects))
        self._begins = np.searchsorted(subjects[self._order], np.arange(RESIDENTS))
        self._marked = np.flatnonzero(columns["flags.irregular_pulse"] == 1)
        self._values = {code: columns[code].tolist() for code in codes}
        self._flags = {flag: columns[f"flags.{flag}"].tolist() for flag in FLAGS}

    def flagged(self, compiled: Compiled, subjects: NDArray[np.int64], start: int) -> NDArray[np.bool_]:
        """Whose readings up to the end of the batch, within the window of its first one, carry the rule's flag."""
        since = self._source.at[start] - compiled.look_back // MICROSECOND
        low, high = np.searchsorted(self._marked, [np.searchsorted(self._source.at, since), start + len(subjects)])
        if low == high:
            return np.zeros(len(subjects), bool)
        return np.isin(subjects, self._every[self._marked[low:high]])

    def alone(self, compiled: Compiled, start: int, size: int) -> NDArray[np.bool_]:
        """Readings without an earlier one of the same resident within the window."""
        at = np.arange(start, start + size)
        place = self._place[start : start + size]
        before = self._order[np.maximum(place - 1, 0)]
        near = self._source.at[at] - self._source.at[before] <= compiled.look_back // MICROSECOND
        found: NDArray[np.bool_] = (place == self._begins[self._every[at]]) | ~near
        return found

    def of(self, compiled: Compiled, subject: int, at: int) -> list[Reading]:
        """What a resident measured up to reading `at` within the rule's window."""
        since = self._source.at[at] - compiled.look_back // MICROSECOND
        found = []
        for number in self._order[self._begins[subject] : self._place[at] + 1].tolist():
            if self._source.at[number] < since:
                continue
            row = {code: self._values[code][number] for code in compiled.looks_at}
            values = {code: value for code, value in row.items() if value == value}
            if values:
                flags = [flag for flag in FLAGS if self._flags[flag][number]]
                found.append(windows.reading(moment(int(self._source.at[number])), values, "clinic", flags))
        return found


def looked(
    one: Compiled, past: Past, state: Array, subjects: NDArray[np.int64], cut: dict[str, NDArray[np.float64]], source: Source, start: int
) -> dict[str, NDArray[np.float64]]:
    """The columns of a rule that looks back, for one batch that begins at reading `start`."""
    made = one.rule.columns
    found = {name: cut.get(name, np.full(len(subjects), np.nan)).copy() for name in made}
    awake = busy(state, subjects)

    def fill(which: NDArray[np.bool_]) -> None:
        seen = {number: past.of(one, int(subjects[number]), start + number) for number in np.flatnonzero(which).tolist()}
        windows.fill(one, found, cut, seen)

    first = windows.asked(one, cut, source, subjects, awake)
    if one.rule.wakes is not None:
        first &= awake | past.flagged(one, subjects, start)
    if one.rule.columns.keys() & METRICS.keys():
        first &= ~past.alone(one, start, len(subjects))  # the mean of a session of one reading is that reading
    fill(first)
    fill(windows.followers(one, cut | found, source, subjects, first))
    return found


def ours(
    compiled: list[Compiled], subjects: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], source: Source, batch: int
) -> tuple[float, dict[str, NDArray[np.uint8]]]:
    """Seconds, and rule → the move of each reading."""
    states = {one.rule.id: np.zeros(RESIDENTS, STATE) for one in compiled}
    past = Past(subjects, columns, source, set().union(*(one.looks_at for one in compiled)))
    moves: dict[str, list[NDArray[np.uint8]]] = {one.rule.id: [] for one in compiled}
    present = [code for code in METRICS if not np.isnan(columns[code]).all()]
    began = time.perf_counter()
    for start in range(0, len(subjects), batch):
        part = slice(start, start + batch)
        cut = {name: column[part] for name, column in columns.items()}
        from_ = Source(source.at[part], source.valid[part], source.synced[part], source.setting[part], source.person[part])
        reached = evaluate.ranges(cut, present)
        for one in compiled:
            back = looked(one, past, states[one.rule.id], subjects[part], cut, from_, start) if one.rule.columns else {}
            whole = cut | back if back else cut
            weighed = evaluate.weigh(one, whole, reached, states[one.rule.id], subjects[part])
            if weighed is None:
                moves[one.rule.id].append(np.zeros(len(subjects[part]), np.uint8))
                continue
            events = evaluate.outcomes(one, from_, whole, NOW, weighed)
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
    past: dict[tuple[str, int], list[Reading]] = {}
    began = time.perf_counter()
    for number, (subject, plain) in enumerate(zip(subjects.tolist(), rows, strict=True)):
        for one in compiled:
            rule, terms = one.rule, one.pack.terms
            state = states.get((rule.id, subject), reference.State())
            row = plain | _features(one, past.setdefault((rule.id, subject), []), plain, at[number]) if rule.columns else plain
            hit = reference.holds(rule.when, row, terms)
            if rule.applies:
                applies = reference.holds(rule.applies, row, terms)
                hit = hit if applies is True or (applies is None and not one.timing.visits) else None
            if all(row.get(code) is None for code in one.concerns):
                hit = None
            clear = reference.holds(rule.clear.when, row, terms) if rule.clear else None
            urgent = rule.urgent is not None and reference.holds(rule.urgent, row, terms) is True
            if rule.stirs and hit is True and reference.holds(rule.stirs, row, terms) is not True:
                hit = None
            hit = hit if "clinic" in rule.settings else None
            every = int((row.get(rule.absence.every) or 0) * evaluate.DAY) if rule.absence is not None else 0
            event = reference.Event(Kind.MEASUREMENT, at[number], now, hit, clear, True, urgent, every=every)
            states[rule.id, subject], move = reference.advance(one.timing, state, event)
            moves[rule.id][number] = move
    return time.perf_counter() - began, moves


def _features(one: Compiled, past: list[Reading], row: dict[str, Any], at: int) -> dict[str, float | None]:
    """What the rule's features make of everything this resident measured within its window, asked at every reading."""
    values = {code: row[code] for code in one.looks_at if row.get(code) is not None}
    nothing = {name: row.get(name) for name in one.rule.columns}
    if not values or "clinic" not in one.rule.settings:
        return nothing
    past.append(windows.reading(moment(at), values, "clinic", [flag for flag in FLAGS if row.get(f"flags.{flag}")]))
    while past[0].at < past[-1].at - one.look_back:
        del past[0]
    plain = {fact: np.array([float("nan") if row.get(fact) is None else float(row[fact])]) for fact in FACTS}
    found = {name: np.full(1, np.nan) for name in one.rule.columns}
    windows.fill(one, found, plain, {0: past})
    return {name: None if values[0] != values[0] else float(values[0]) for name, values in found.items()}


def bare(columns: dict[str, NDArray[np.float64]], batch: int) -> float:
    """Seconds for the thresholds alone, without grid, facts, state or moves: nothing in numpy can be faster."""
    began = time.perf_counter()
    for start in range(0, len(columns["systolic"]), batch):
        part = slice(start, start + batch)
        c = {name: columns[name][part] for name in ("systolic", "diastolic", "glucose", "spo2", "temperature")}
        hits = (c["systolic"] >= 180) | (c["diastolic"] >= 110) | (c["glucose"] >= 16.7) | (c["glucose"] <= 3.9) | (c["spo2"] < 94)
        np.flatnonzero(hits | (c["temperature"] >= 39.1))
    return time.perf_counter() - began


PYTHON = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "yizhan" / "peers" / "rules" / "bin" / "python"
SLOW = {"duckdb", "bytewax", "polars", "durable_rules"}


def six_ours(
    subjects: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], source: Source, batch: int
) -> tuple[float, NDArray[np.bool_]]:  # fmt: skip
    """Seconds of the six simple rules in our engine, and where each fires (n, 6)."""
    seconds, moves = ours(six(), subjects, columns, source, batch)
    return seconds, np.stack([found == Move.REPEATED for found in moves.values()], axis=1)


def six_theirs(peer: str, subjects: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], batch: int) -> tuple[float, Any]:
    """The same by a peer, in its own Python; raises RuntimeError with what it said when it does not run."""
    metrics = {metric: columns[metric] for metric, _, _ in rule_peers.RULES}
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "in.npz", Path(folder) / "out.npz"
        arrays: dict[str, Any] = {"subject": subjects, "residents": RESIDENTS, "batch": batch, **metrics}
        np.savez(given, **arrays)
        script = Path(rule_peers.__file__)
        done = subprocess.run([PYTHON, script, peer, given, out], capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["?"])[-1])
        with np.load(out) as found:
            return float(found["seconds"]), found["fires"]


def memory() -> dict[str, Any]:
    """Bytes a resident in state: of every rule that ships, and of what a worker remembers of a person's facts."""
    shipped = evaluate.compile_packs([pack.load_named(name) for name in pack.shipped()])
    known = facts.People()
    people = [town.resident(1, number, 365).facts() for number in range(2000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    known.facts = {f"r-{number:016x}": dict(one) for number, one in enumerate(people)}
    for resident in known.facts:
        known.at(resident, NOW, ZoneInfo("Asia/Shanghai"))
    remembered = (tracemalloc.get_traced_memory()[0] - before) / len(people)
    tracemalloc.stop()
    return {"rules": len(shipped), "state_bytes_a_resident": STATE.itemsize * len(shipped), "facts_bytes_a_resident": round(remembered)}


async def run(say: Say, samples: int) -> dict[str, Any]:
    """Readings a second and core; raises if the two ways do not raise the same."""
    compiled = rules()
    rates: dict[str, list[float]] = {}

    def note(who: str, count: int, seconds: float) -> None:
        rates.setdefault(who, []).append(count / seconds)
        say(f"{who}: {count / seconds:,.0f} readings/s")

    for sample in range(samples):
        for spread, residents, apart in SPREADS:
            for shape, batch in SHAPES.items():
                count = (400_000 if batch > 1000 else 100_000) // (1 if spread == "uniform" else 4)
                subjects, columns, source = readings(count, residents, sample, apart)
                note(f"ours_{spread}_{shape}", count, ours(compiled, subjects, columns, source, batch)[0])
                note(f"limit_{shape}", count, bare(columns, batch))
            subjects, columns, source = readings(10_000, residents, 1000 + sample, apart)
            seconds, plain = theirs(compiled, subjects, columns, source)
            note(f"plain_python_{spread}", 10_000, seconds)
            _, vector = ours(compiled, subjects, columns, source, 777)
            differing = {rule: int((plain[rule] != vector[rule]).sum()) for rule in plain}
            if any(differing.values()):
                raise RuntimeError(f"the engine and the reference disagree: {differing}")
    refused: dict[str, str] = {}
    for sample in range(samples):
        for spread, residents, apart in SPREADS:
            for shape, batch in SHAPES.items():
                subjects, columns, source = readings(1_000_000 if batch > 1000 else 200_000, residents, 50 + sample, apart)
                seconds, right = six_ours(subjects, columns, source, batch)
                note(f"six_ours_{spread}_{shape}", len(subjects), seconds)
                for peer in rule_peers.PEERS if PYTHON.exists() else ():
                    if (peer in SLOW and batch < 1000) or peer in refused:
                        continue
                    few = 20_000 if peer in SLOW else len(subjects)
                    try:
                        seconds, fires = six_theirs(peer, subjects[:few], {name: c[:few] for name, c in columns.items()}, batch)
                    except (RuntimeError, subprocess.TimeoutExpired) as error:
                        refused[peer] = f"{spread}: {error}"
                        say(f"{peer} does not run: {error}")
                        continue
                    if (fires != right[:few]).any():
                        raise RuntimeError(f"{peer} fires elsewhere at {int((fires != right[:few]).sum())} of {few} readings")
                    note(f"six_{peer}_{spread}_{shape}", few, seconds)
    return {
        "machine": machine(),
        "did_not_run": refused,
        "state": memory(),
        "rules": [one.rule.id for one in compiled],
        "residents": RESIDENTS,
    } | {who: {"readings_per_second": summary(values)} for who, values in sorted(rates.items())}
