"""A rule pack: one guideline as data. Loaded from YAML, refused whole when anything in it is not understood.

A closed vocabulary, no expressions, no code. Conditions are nested mappings:

    {any: […]} · {all: […]} · {not: …} · {certain: …} (unknown counts as no)
    {column: {ge | gt | le | lt: number or $param}} · {fact: true | false}
    {measured: column} · {word: {is: … | in: […]}} · {symptoms: {any_of: […]}} · {class: {table: {output: label}}}

What a table is, `rules.tables` says; docs/packs.md explains all of it to who writes one.

Facts about a person (age, pregnancy …) may be unknown; a condition then is neither true nor false.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import msgspec

from rules import check, form
from rules.condition import Condition, Terms
from rules.form import FACTS, Document, Rule, duration
from vitals.errors import ConfigError
from vitals.metric import METRICS

__all__ = ["FACTS", "Condition", "Pack", "Rule", "danger_numbers", "duration", "load", "load_named", "shipped", "text_of"]


@dataclass(frozen=True)
class Pack:
    """A loaded pack. digest: SHA-256 of its text, recorded with every alert. numbers: parameters after clamping."""

    document: Document
    digest: str
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.document.pack}@{self.document.version}"

    @property
    def rules(self) -> list[Rule]:
        return self.document.rules

    @property
    def terms(self) -> Terms:
        return form.terms_of(self.document, self.numbers)


def load(text: str, numbers: dict[str, float] | None = None) -> Pack:
    """Load and check; raises ConfigError with every problem found and its line. numbers: a centre's parameters, clamped."""
    raw, nodes = form.read(text)
    found = list(form.faults(raw))
    if not found:
        document = msgspec.convert(raw, Document)
        found = list(check.problems(document))
    problems = []
    for path, problem in found:
        line = form.line_of(nodes, path)
        where = ".".join(map(str, path))
        problems.append((f"line {line}: " if line else "") + (f"{where}: " if where else "") + problem)
    if problems:
        raise ConfigError(problems)
    chosen = {name: math.nan if param.value is None else param.value for name, param in document.params.items()}
    for name, value in (numbers or {}).items():
        if name not in document.params:
            problems.append(f"no parameter {name}")
        else:
            low, high = document.params[name].clamp
            chosen[name] = min(max(value, low), high)
    if problems:
        raise ConfigError(problems)
    return Pack(document, hashlib.sha256(text.encode()).hexdigest(), chosen)


def text_of(name: str) -> str:
    """The YAML of a pack that ships with the project."""
    return files("rules").joinpath("packs", f"{name}.yaml").read_text(encoding="utf-8")


@functools.cache
def load_named(name: str) -> Pack:
    """Load a pack that ships with the project; once in a process, for reading all of them takes most of a second."""
    return load(text_of(name))


def shipped() -> list[str]:
    """Names of the packs that ship with the project."""
    return sorted(path.name.removesuffix(".yaml") for path in files("rules").joinpath("packs").iterdir() if path.name.endswith(".yaml"))


def danger_numbers(pack: Pack) -> list[tuple[str, str, float]]:
    """(metric, comparator, number) of every threshold that one measurement can meet, with all clamps: what gateways must hurry."""
    found: list[tuple[str, str, float]] = []

    def walk(condition: Any) -> None:
        for key, value in condition.items():
            if key in ("any", "all"):
                for part in value:
                    walk(part)
            elif key in ("not", "certain"):
                walk(value)
            elif key in METRICS:
                for comparator, number in value.items():
                    values = pack.document.params[number[1:]].clamp if isinstance(number, str) else (number,)
                    found.extend((key, comparator, v) for v in values)

    for rule in pack.rules:
        if rule.consecutive is None and not rule.columns:
            walk(rule.when)
    return found
