"""The part of the command line that measures and breaks things: `yizhan bench`, `yizhan chaos`, `yizhan quarantine`."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitals.errors import ConfigError
from vitals.floor import process

Add = Callable[[str, str], argparse.ArgumentParser]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def add_commands(add: Add) -> None:
    """Add the three commands to the parser."""
    _add_quarantine(add("quarantine", "what could not be read: list it, look at one, have it read again"))
    books = add("reconcile", "compare each gateway's books with ours, day by day; exit 1 and say where they differ")
    books.add_argument("--data", type=Path, help="data directory of a `yizhan up`; else YIZHAN_DATABASE_URL")
    books.add_argument("--minutes", type=float, default=60.0, help="how long the last messages of a day may be on their way")
    books.add_argument("--json", action="store_true")
    figures = add("indicators", "a quarter's figures with their revisions; --publish writes down what changed")
    figures.add_argument("--data", type=Path, help="data directory of a `yizhan up`; else YIZHAN_DATABASE_URL")
    figures.add_argument("--quarter", help="any day of it, as 2026-07-01; default: the last one that is over")
    figures.add_argument("--publish", action="store_true")
    figures.add_argument("--json", action="store_true")
    _add_bench(add("bench", "benchmarks"))
    chaos = add("chaos", "kill, freeze and cut everything while gateways publish; then compare the books")
    chaos.add_argument("--lane", choices=("embedded", "kafka"), default="embedded")
    chaos.add_argument("--seed", type=int, default=1)
    chaos.add_argument("--kills", type=int, default=20)
    chaos.add_argument("--rate", type=float, default=300.0, help="measurements a second of all gateways together")
    chaos.add_argument("--outage", type=float, default=0.0, help="seconds without a database, under a flood, instead of kills")
    chaos.add_argument("--kills-only", action="store_true", help="no freezing, no line faults, no wiped broker")
    chaos.add_argument(
        "--escalations", type=int, default=0, help="so many ladders under a fast clock while notifiers die, instead of readings"
    )
    chaos.add_argument("--remember", type=Path, help="append the run to this file of all runs, and print their totals")
    chaos.add_argument("--json", action="store_true")


def _add_quarantine(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(dest="kind", required=True)
    for name, words in (
        ("list", "counts by reason and the latest, without their bytes"), ("show", "one with its bytes; that you looked is written down"),
        ("replay", "have the worker read it again; twice is once"),
    ):  # fmt: skip
        one = kinds.add_parser(name, help=words)
        one.add_argument("--data", type=Path, help="data directory of a `yizhan up`; else YIZHAN_DATABASE_URL")
        one.add_argument("--json", action="store_true")
        if name == "list":
            one.add_argument("--limit", type=int, default=50)
        if name != "show":
            one.add_argument("--reason")
        if name != "list":
            one.add_argument("numbers", nargs="*" if name == "replay" else 1, type=int, help="numbers as `list` shows them")
        if name == "replay":
            one.add_argument("--all", action="store_true", help="everything that waits")


def _add_bench(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(dest="kind", required=True)

    def add(name: str, words: str, samples: int) -> argparse.ArgumentParser:
        one = kinds.add_parser(name, help=words)
        one.add_argument("--samples", type=int, default=samples, help="runs of everything, interleaved")
        one.add_argument("--json", action="store_true")
        return one

    add("gateway", "the gateway process alone, against virtual devices: histories, many devices, memory, processor", 3)
    latency = add("latency", "indication → doctor's event stream", 30)
    latency.add_argument("--radio", choices=("auto", "bluez", "in-process"), default="auto")
    latency.add_argument("--broker", choices=("auto", "mosquitto", "amqtt"), default="auto")
    latency.add_argument("--load", type=int, default=0, help="readings a second that a fleet sends beside it; 0: the cuff's way alone")
    add("mqtt", "receiving from the broker: our reader, paho, and the broker's own limit", 5)
    end_to_end = add("e2e", "published → rules run, committed, receipt at the gateway; peers and limits beside", 5)
    end_to_end.add_argument("--lane", choices=("single", "batched", "dense", "all"), default="all")
    end_to_end.add_argument("--no-peers", action="store_true")
    end_to_end.add_argument("--no-kafka", action="store_true")
    store = add("store", "the worker's transaction without a broker, COPY and INSERT beside it; bytes for each reading", 5)
    replay = add("replay", "stored data sent again: everything is a duplicate", 5)
    for one in (store, replay):
        one.add_argument("--lane", choices=("batched", "dense"), default="batched")
    add("rules", "conditions and state of all packs in memory, 160,000 residents; plain Python and a bare comparison beside", 5)
    query = add("query", "a resident's 30 days and last values, over many stored readings, while ingest runs", 5)
    query.add_argument("--readings", type=int, default=10_000_000)
    console = add("console", "the queue's first answer with many open cases, and a new case in many browsers", 20)
    console.add_argument("--cases", type=int, default=10_000)
    console.add_argument("--browsers", type=int, default=500)


def bench(chosen: argparse.Namespace) -> int:
    process.log_to_stderr("error")
    told = asyncio.run(_benchmark(chosen))
    print(json.dumps(told, ensure_ascii=False) if chosen.json else "\n".join(lines(told)))
    return 0


async def _benchmark(chosen: argparse.Namespace) -> dict[str, Any]:
    match chosen.kind:
        case "gateway":
            from bench import gateway

            return await gateway.run(_say, chosen.samples)
        case "latency":
            from bench import latency

            if chosen.load:
                return await latency.under_load(_say, chosen.samples, chosen.load)
            return await latency.run(_say, chosen.samples, chosen.radio, chosen.broker)
        case "mqtt":
            from bench import receive

            return await receive.run(_say, chosen.samples)
        case "e2e":
            from bench import e2e

            lanes = ["single", "batched", "dense"] if chosen.lane == "all" else [chosen.lane]
            return await e2e.run(_say, chosen.samples, lanes, not chosen.no_peers, not chosen.no_kafka)
        case "rules":
            from bench import rules

            return await rules.run(_say, chosen.samples)
        case "console":
            from bench import console

            return await console.run(_say, chosen.samples, chosen.cases, chosen.browsers)
        case "query":
            from bench import query

            return await query.run(_say, chosen.samples, chosen.readings)
        case _:
            from bench import store

            return await store.run(_say, chosen.samples, "dense" if chosen.lane == "dense" else "batched", replay=chosen.kind == "replay")


def lines(told: Any, indent: int = 0) -> list[str]:
    """Figures as people read them: a line for each, what belongs together indented."""
    told_lines: list[str] = []
    for name, value in told.items():
        if isinstance(value, dict) and set(value) == {"median", "worst", "runs"}:
            told_lines.append(f"{'  ' * indent}{name}: {value['median']:,} (worst {value['worst']:,}, {len(value['runs'])} runs)")
        elif isinstance(value, dict):
            told_lines += [f"{'  ' * indent}{name}:", *lines(value, indent + 1)]
        else:
            told_lines.append(f"{'  ' * indent}{name}: {value}")
    return told_lines


def chaos(chosen: argparse.Namespace) -> int:
    from bench import chaos as runner

    process.log_to_stderr("error")
    if chosen.escalations:
        from bench import escalations

        told = asyncio.run(escalations.run(_say, ladders=chosen.escalations, seed=chosen.seed, deaths=chosen.kills))
        print(json.dumps(told) if chosen.json else "\n".join(lines(told)))
        return 0 if told["ok"] else 1
    told = asyncio.run(runner.run(_say, chosen.lane, chosen.seed, chosen.kills, chosen.rate, not chosen.kills_only, chosen.outage))
    if chosen.remember is not None:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        told["totals"] = runner.remember(chosen.remember, told, git.stdout.strip())
    print(json.dumps(told, ensure_ascii=False) if chosen.json else "\n".join(lines(told)))
    return 0 if told["ok"] else 1


def reconcile(chosen: argparse.Namespace) -> int:
    from yizhan import books as commands

    told = asyncio.run(commands.books(commands.address(chosen.data), chosen.minutes))
    if chosen.json:
        print(json.dumps(told, ensure_ascii=False, default=str))
    else:
        for one in told["differ"]:
            print(f"{one['gateway']} {one['day']} {one['boot']}: {one['stored']} of {one['reported']}, {one['why']} {one['missing']}")
        for one in told["holes"]:
            print(f"{one['gateway']} {one['boot']}: holes that nothing explains {one['missing']}")
        print(f"{told['agreed']} days agree, {len(told['differ'])} differ, {len(told['holes'])} sequences have holes")
    return 1 if told["differ"] or told["holes"] else 0


def figures(chosen: argparse.Namespace) -> int:
    """Print a quarter's figures by place, and the devices whose last digits are not chance's."""
    from yizhan import books as commands

    told = asyncio.run(commands.figures(commands.address(chosen.data), chosen.quarter, chosen.publish))
    if chosen.json:
        print(json.dumps(told, ensure_ascii=False, default=str))
        return 0
    for one in told["figures"]:
        share = f"{100 * one['numerator'] / one['denominator']:5.1f} %" if one["denominator"] else "      —"
        median = f"  median {one['median']:.1f}" if one["median"] is not None else ""
        print(f"{one['code']:15} {one['level']:8} {one['place']:24} {share} {one['numerator']:6}/{one['denominator']}{median}")
    for device, one in told["heaping"].items():
        if one["suspicious"]:
            counts = f"{one['n']} values, {100 * one['zeros']:.0f} % end in 0, {one['below']} just below 140, {one['above']} just above"
            print(f"{device}: last digits are not chance's: {counts}")
    print(f"quarter from {told['quarter']}; {told['published']} figures published now")
    return 0


def quarantine(chosen: argparse.Namespace) -> int:
    from yizhan import books as commands

    conninfo = commands.address(chosen.data)
    if chosen.kind == "list":
        told = asyncio.run(commands.listing(conninfo, chosen.reason, chosen.limit))
        if chosen.json:
            print(json.dumps(told, ensure_ascii=False, default=str))
            return 0
        print("".join(f"{count:8} {reason}\n" for reason, count in told["waiting"].items()) or "nothing waits\n", end="")
        for row in told["items"]:
            outcome = f", replayed: {row['outcome']}" if row["outcome"] else ""
            head = f"#{row['quarantine']} {row['last_at']:%Y-%m-%d %H:%M:%S} {row['reason']}"
            print(f"{head} {row['topic']} {row['bytes']} B x{row['times']}{outcome}")
        return 0
    if chosen.kind == "show":
        one = asyncio.run(commands.show(conninfo, chosen.numbers[0]))
        text = (
            json.dumps(one, ensure_ascii=False, default=str)
            if chosen.json
            else "\n".join(f"{name:12} {value}" for name, value in one.items())
        )
        print(text)
        return 0
    if not (chosen.numbers or chosen.reason or chosen.all):
        raise ConfigError(["quarantine replay: which? give numbers, --reason or --all"])
    outcomes = asyncio.run(commands.replay(conninfo, chosen.numbers, chosen.reason))
    lines = "\n".join(f"#{number} {outcome}" for number, outcome in outcomes.items())
    print(json.dumps(outcomes) if chosen.json else lines or "nothing to replay")
    return 0 if all(outcome == "stored" for outcome in outcomes.values()) else 1
