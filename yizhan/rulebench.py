"""`yizhan rules …`: the test bench of rule packs. Exit 0 when all is well, 1 when something failed, 2 for bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rules import cases as case_files
from rules import pack, trial
from rules.pack import Pack
from vitals.errors import ConfigError


def packs(files: Sequence[Path]) -> dict[str, Pack]:
    """Name → pack, of these files or else of all that ship with the project. Raises ConfigError, all problems of all files at once."""
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


def lint(files: Sequence[Path], *, guards: bool) -> int:
    """Load packs and run what they carry; with `guards`, also name the numbers that no test would miss."""
    try:
        loaded = packs(files)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    bad = 0
    for name, one in loaded.items():
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


def cases(file: Path, *, as_json: bool) -> int:
    """Evaluate a file of cases with the shipped packs; prints what differs, or everything as JSON."""
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
