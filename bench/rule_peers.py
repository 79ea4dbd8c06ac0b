"""Six simple stateful rules the way others would write them; run by the peers' own Python, not by the project's.

    python rule_peers.py PEER IN.npz OUT.npz

In: `subject` (n,) below `residents`, one column (n,) for each metric (NaN where not measured), `batch`. Out: `fires` (n, 6), the
readings at which each rule fires: at the second dangerous value of a resident in a row; a value that is not dangerous begins anew, and
one that was not measured says nothing. `seconds` without imports and warm-up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

RULES = (
    ("systolic", "ge", 180),
    ("diastolic", "ge", 110),
    ("glucose", "ge", 16.7),
    ("glucose", "le", 3.9),
    ("spo2", "lt", 88),
    ("temperature", "ge", 39.1),
)
TESTS: dict[str, Callable[[Any, float], Any]] = {"ge": lambda v, n: v >= n, "le": lambda v, n: v <= n, "lt": lambda v, n: v < n}


def python(data: dict[str, Any], batch: int) -> tuple[float, Any]:
    """An object for each resident and rule, one reading after the other."""

    class Rule:
        __slots__ = ("count",)

        def __init__(self) -> None:
            self.count = 0

        def see(self, hit: bool) -> bool:
            self.count = self.count + 1 if hit else 0
            return self.count == 2

    subjects = data["subject"].tolist()
    columns = {metric: data[metric].tolist() for metric, _, _ in RULES}
    fires = np.zeros((len(subjects), len(RULES)), bool)
    state: dict[tuple[int, int], Rule] = {}
    began = time.perf_counter()
    for at, subject in enumerate(subjects):
        for number, (metric, comparator, limit) in enumerate(RULES):
            value = columns[metric][at]
            if value == value:
                rule = state.get((subject, number))
                if rule is None:
                    rule = state[subject, number] = Rule()
                if rule.see(TESTS[comparator](value, limit)):
                    fires[at, number] = True
    return time.perf_counter() - began, fires


def numba(data: dict[str, Any], batch: int) -> tuple[float, Any]:
    """The limit: one compiled loop over everything."""
    import numba as nb

    @nb.njit(cache=False)  # type: ignore[untyped-decorator]
    def loop(subject: Any, values: Any, limits: Any, kinds: Any, count: Any, fires: Any) -> None:
        for at in range(len(subject)):
            for number in range(len(limits)):
                value = values[number, at]
                if np.isnan(value):
                    continue
                kind, limit = kinds[number], limits[number]
                hit = value >= limit if kind == 0 else value <= limit if kind == 1 else value < limit
                was = count[number, subject[at]]
                now = was + 1 if hit else 0
                count[number, subject[at]] = now
                fires[at, number] = now == 2

    subject = data["subject"]
    limits = np.array([limit for _, _, limit in RULES], float)
    kinds = np.array([("ge", "le", "lt").index(c) for _, c, _ in RULES])
    fires = np.zeros((len(subject), len(RULES)), bool)

    def run(upto: int) -> None:
        count = np.zeros((len(RULES), int(data["residents"])), np.int64)
        for start in range(0, upto, batch):
            part = slice(start, min(start + batch, upto))
            values = np.stack([data[metric][part] for metric, _, _ in RULES])
            loop(subject[part], values, limits, kinds, count, fires[part])

    run(min(1000, len(subject)))
    fires[:] = False
    began = time.perf_counter()
    run(len(subject))
    return time.perf_counter() - began, fires


def polars(data: dict[str, Any], batch: int) -> tuple[float, Any]:
    """Data frames: runs of hits by window functions, the state joined in before and taken out after each batch."""
    import polars as pl

    subject = data["subject"]
    fires = np.zeros((len(subject), len(RULES)), bool)
    states = [pl.DataFrame({"subject": pl.Series([], dtype=pl.Int64), "before": pl.Series([], dtype=pl.Int64)}) for _ in RULES]
    hit = {"ge": lambda n: pl.col("value") >= n, "le": lambda n: pl.col("value") <= n, "lt": lambda n: pl.col("value") < n}
    began = time.perf_counter()
    for start in range(0, len(subject), batch):
        part = slice(start, start + batch)
        for number, (metric, comparator, limit) in enumerate(RULES):
            frame = (
                pl.DataFrame({"subject": subject[part], "value": data[metric][part]})
                .with_row_index("at")
                .filter(~pl.col("value").is_nan())
                .with_columns(hit=hit[comparator](limit))
                .join(states[number], on="subject", how="left", maintain_order="left")
                .with_columns(run=(~pl.col("hit")).cast(pl.Int64).cum_sum().over("subject"))
                .with_columns(n=pl.col("hit").cast(pl.Int64).cum_sum().over("subject", "run"))
                .with_columns(n=pl.col("n") + pl.when(pl.col("run") == 0).then(pl.col("before").fill_null(0)).otherwise(0))
            )
            found = frame.filter(pl.col("hit") & (pl.col("n") == 2))["at"].to_numpy()
            fires[start + found, number] = True
            after = frame.group_by("subject").agg(before=pl.col("n").last() * pl.col("hit").last().cast(pl.Int64))
            states[number] = states[number].update(after, on="subject", how="full").filter(pl.col("before") > 0)
    return time.perf_counter() - began, fires


def duckdb(data: dict[str, Any], batch: int) -> tuple[float, Any]:
    """SQL in the process: the same windows, the state a table with an upsert after each batch."""
    import duckdb as db
    import pyarrow as pa

    link = db.connect()
    link.execute("set threads to 1")
    subject = data["subject"]
    fires = np.zeros((len(subject), len(RULES)), bool)
    for number in range(len(RULES)):
        link.execute(f"create table state_{number} (subject bigint primary key, before bigint)")
    sign = {"ge": ">=", "le": "<=", "lt": "<"}
    began = time.perf_counter()
    for start in range(0, len(subject), batch):
        part = slice(start, start + batch)
        for number, (metric, comparator, limit) in enumerate(RULES):
            values = data[metric][part]
            given = np.flatnonzero(~np.isnan(values))
            if not len(given):
                continue
            rows = pa.table({"place": given, "subject": subject[part][given], "value": values[given]})
            link.register("given", rows)
            link.execute(
                "create or replace temp table done as with h as (select g.place, g.subject, g.value "
                + sign[comparator]
                + f" {limit} as hit,"
                f" coalesce(s.before, 0) as before from given g left join state_{number} s using (subject)),"
                " r as (select *, sum((not hit)::int) over (partition by subject order by place) as run from h)"
                " select place, subject, hit, sum(hit::int) over (partition by subject, run order by place)"
                "  + case when run = 0 then before else 0 end as n from r"
            )
            found = link.execute("select place from done where hit and n = 2").fetchnumpy()["place"]
            fires[start + np.asarray(found, np.int64), number] = True
            link.execute(
                f"insert or replace into state_{number}"
                " select subject, arg_max(case when hit then n else 0 end, place) from done group by subject"
            )
    return time.perf_counter() - began, fires


def bytewax(data: dict[str, Any], batch: int) -> tuple[float, Any]:
    """A stream processor: one keyed stateful step, in batches of its own."""
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, TestingSource, run_main

    columns = {metric: data[metric].tolist() for metric, _, _ in RULES}
    items = [
        (f"{subject}:{number}", (at, number, TESTS[comparator](columns[metric][at], limit)))
        for at, subject in enumerate(data["subject"].tolist())
        for number, (metric, comparator, limit) in enumerate(RULES)
        if columns[metric][at] == columns[metric][at]
    ]
    out: list[Any] = []

    def see(count: int | None, item: tuple[int, int, bool]) -> tuple[int, tuple[int, int, bool]]:
        at, number, hit = item
        now = (count or 0) + 1 if hit else 0
        return now, (at, number, now == 2)

    flow = Dataflow("six")
    stream = op.input("in", flow, TestingSource(items, batch_size=batch))
    said = op.stateful_map("see", stream, see)
    fired = op.filter("fired", said, lambda item: item[1][2])
    op.output("out", fired, TestingSink(out))
    began = time.perf_counter()
    run_main(flow)
    seconds = time.perf_counter() - began
    fires = np.zeros((len(data["subject"]), len(RULES)), bool)
    for _, (at, number, _) in out:
        fires[at, number] = True
    return seconds, fires


def durable_rules(data: dict[str, Any], batch: int) -> tuple[float, Any]:
    """Forward chaining: an event for each value, the state of a rule a fact's count in the session of its resident."""
    from durable.lang import m, post, ruleset, when_all

    fires = np.zeros((len(data["subject"]), len(RULES)), bool)

    def hit(c: Any) -> None:
        key = f"n{c.m.number}"
        c.s[key] = (c.s[key] or 0) + 1
        if c.s[key] == 2:
            fires[int(c.m.at), int(c.m.number)] = True

    def miss(c: Any) -> None:
        c.s[f"n{c.m.number}"] = 0

    with ruleset("six"):
        when_all(m.kind == "hit")(hit)
        when_all(m.kind == "miss")(miss)

    columns = {metric: data[metric].tolist() for metric, _, _ in RULES}
    subjects = data["subject"].tolist()
    began = time.perf_counter()
    for at, subject in enumerate(subjects):
        for number, (metric, comparator, limit) in enumerate(RULES):
            value = columns[metric][at]
            if value == value:
                kind = "hit" if TESTS[comparator](value, limit) else "miss"
                post("six", {"sid": str(subject), "kind": kind, "number": number, "at": at})
    return time.perf_counter() - began, fires


PEERS = {"python": python, "numba": numba, "polars": polars, "duckdb": duckdb, "bytewax": bytewax, "durable_rules": durable_rules}

if __name__ == "__main__":
    peer, given, out = sys.argv[1:]
    with np.load(given) as file:
        data = {name: file[name] for name in file.files}
    seconds, fires = PEERS[peer](data, int(data["batch"]))
    np.savez(out, seconds=seconds, fires=fires)
