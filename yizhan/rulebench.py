"""`yizhan rules …`: the test bench of rule packs. Exit 0 when all is well, 1 when something failed, 2 for bad input."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitals.errors import ConfigError

if TYPE_CHECKING:
    from rules.pack import Pack


def add_commands(command: argparse.ArgumentParser) -> None:
    """The subcommands of `yizhan rules`."""
    kinds = command.add_subparsers(dest="kind", required=True)

    def add(name: str, words: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=words, description=words)

    for name, words in (
        ("lint", "load packs, run what they carry, name every number that no test guards"),
        ("test", "run the tests and examples that packs carry"),
    ):
        add(name, words).add_argument("files", nargs="*", type=Path, help="pack files; the shipped packs if none is given")
    cases = add("cases", "evaluate a file of clinical cases, both ways")
    cases.add_argument("file", type=Path)
    diff = add("diff", "what a new version of packs would raise more and less, by severity and doctor, in a synthetic town")
    diff.add_argument("--stored", action="store_true", help="about what the database holds of so many days, instead of the synthetic town")
    diff.add_argument("old", type=Path, help="a pack file, or a folder of them")
    diff.add_argument("new", type=Path)
    replay = add("replay", "play what the database holds through packs; does it give the alerts that are on record?")
    replay.add_argument("files", nargs="*", type=Path, help="pack files; the shipped packs if none is given")
    shadow = add("shadow", "what the packs in shadow (YIZHAN_SHADOW_PACKS) would have raised, beside the alerts in force")
    burden = add("burden", "items, sensitivity and false alerts of packs in the synthetic town")
    burden.add_argument("files", nargs="*", type=Path, help="pack files; the shipped packs if none is given")
    for one, days in ((diff, 90), (burden, 365)):
        one.add_argument("--residents", type=int, default=10_000 if one is burden else 1_000)
        one.add_argument("--days", type=int, default=days)
        one.add_argument("--seed", type=int, default=1)
    for one in (replay, shadow):
        one.add_argument("--days", type=int, default=30)
    for one in (cases, diff, replay, shadow, burden):
        one.add_argument("--json", action="store_true")


def run(chosen: argparse.Namespace) -> int:
    try:
        match chosen.kind:
            case "cases":
                return _cases(chosen.file, as_json=chosen.json)
            case "lint" | "test":
                return _lint(chosen.files, guards=chosen.kind == "lint")
            case "burden":
                from bench import burden

                told = burden.figures(list(packs(chosen.files).values()), chosen.residents, chosen.days, chosen.seed)
                return _tell(told, chosen.json, 1 if any(event["missed_though_shown"] for event in told["events"].values()) else 0)
            case "diff":
                from bench import burden

                old, new = (list(packs(_files(path)).values()) for path in (chosen.old, chosen.new))
                if chosen.stored:
                    return _tell(asyncio.run(_stored_difference(old, new, chosen.days)), chosen.json)
                return _tell(burden.difference(old, new, chosen.residents, chosen.days, chosen.seed), chosen.json)
            case "shadow":
                return _tell(asyncio.run(_shadow(chosen.days)), chosen.json)
        return _tell(asyncio.run(_replay(list(packs(chosen.files).values()), chosen.days)), chosen.json)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.yaml")) if path.is_dir() else [path]


def _tell(told: dict[str, Any], as_json: bool, code: int = 0) -> int:
    from yizhan.workbench import lines

    print(json.dumps(told, ensure_ascii=False) if as_json else "\n".join(lines(told)))
    return code


async def _replay(given: list[Pack], days: int) -> dict[str, Any]:
    """Everything stored in so many days, through packs in memory, beside the alerts on record."""
    from rules import past
    from vitals.floor import database
    from vitals.settings import load

    settings = load()
    async with await database.connect(settings.database()) as connection:
        return await past.compare(connection, given, datetime.now(UTC) - timedelta(days=days), settings.zone)


async def _stored_difference(old: list[Pack], new: list[Pack], days: int) -> dict[str, Any]:
    """What the database holds of so many days through both versions, by the doctors with whom people are signed."""
    from care import residents
    from rules import past, replay
    from vitals.floor import database
    from vitals.settings import load

    settings = load()
    async with await database.connect(settings.database()) as connection:
        record = await past.record(connection, datetime.now(UTC) - timedelta(days=days))
        signed = await residents.doctors(connection)
    before, after = (past.play(one, record, settings.zone) for one in (old, new))
    doctors = [signed.get(subject, "nobody") for subject in record.subjects]
    return replay.difference(before, after, doctors, timedelta(days=days)) | {"measurements": len(record.rows)}


async def _shadow(days: int) -> dict[str, Any]:
    from rules import shadow
    from vitals.floor import database
    from vitals.settings import load

    async with await database.connect(load().database()) as connection:
        return await shadow.told(connection, datetime.now(UTC), days)


def packs(files: Sequence[Path]) -> dict[str, Pack]:
    """Name → pack, of these files or else of all that ship with the project. Raises ConfigError, all problems of all files at once."""
    from rules import pack

    texts = {str(path): path.read_text(encoding="utf-8") for path in files} or {name: pack.text_of(name) for name in pack.shipped()}
    found: dict[str, Pack] = {}
    problems: list[str] = []
    for name, text in texts.items():
        try:
            found[name] = pack.load(text)
        except ConfigError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return found


def _lint(files: Sequence[Path], *, guards: bool) -> int:
    """Load packs and run what they carry; with `guards`, also name the numbers that no test would miss."""
    from rules import trial

    bad = 0
    for name, one in packs(files).items():
        document = one.document
        failed = trial.run(one)
        loose = trial.unguarded(one) if guards else []
        examples = sum(len(block.rows) for table in document.classifications.values() for block in table.examples)
        print(
            f"{name}: {len(document.classifications)} tables, {len(document.rules)} rules, {len(document.tests)} tests,"
            f" {examples} examples, {len(failed)} failed" + (f", {len(loose)} numbers unguarded" if guards else "")
        )
        for line in [*failed, *loose]:
            print(f"  {line}")
        bad += len(failed) + len(loose)
    return 1 if bad else 0


def _cases(file: Path, *, as_json: bool) -> int:
    """Evaluate a file of cases with the shipped packs; prints what differs, or everything as JSON."""
    from rules import cases as case_files

    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        given = document["cases"] if isinstance(document, dict) else document
        found = case_files.run(given, list(packs([]).values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{file}: not a file of cases ({type(error).__name__}: {error})", file=sys.stderr)
        return 2
    passed = sum(case["pass"] for case in found["cases"])
    if as_json:
        print(json.dumps(found, ensure_ascii=False, default=str))
    else:
        for case in found["cases"]:
            if not case["pass"]:
                print(f"{case['id']} ({case['axis']}): {json.dumps(case['diff'], ensure_ascii=False, default=str)}")
        print(f"{passed} of {len(found['cases'])} cases passed, {len(found['axes'])} axes")
    return 0 if passed == len(found["cases"]) else 1
