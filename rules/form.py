"""The form of a rule pack: what its YAML may hold, and where in the text each part stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Literal

import msgspec
import yaml

from rules.condition import Condition, Terms
from rules.tables import Table
from vitals.alert import Severity
from vitals.errors import ConfigError
from vitals.measurement import SETTINGS

# Facts about a person that a condition may name; what is not recorded is unknown, never "no".
PLANS = ("pressure_every_days", "glucose_every_days", "weight_every_days")  # within how many days this person is to measure
FACTS = ("age_years", "pregnant", "lactating", "hypertension", "diabetes", "chronic_lung_disease", "heart_failure", *PLANS)
# Flags of a measurement that a condition may name: an event, so what is not flagged is "no".
FLAGS = ("fasting", "preprandial", "postprandial", "irregular_pulse")
FLAG_COLUMNS = tuple(f"flags.{name}" for name in FLAGS)
_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Source(msgspec.Struct, forbid_unknown_fields=True):
    cite: str
    loc: str
    quote: str


class Guideline(msgspec.Struct, forbid_unknown_fields=True):
    zh: str
    en: str
    edition: str
    status: str


class Param(msgspec.Struct, forbid_unknown_fields=True):
    """A number that may be agreed with a centre or a person. value null: none is unless one was, and no comparison with it holds."""

    value: float | None
    unit: str
    clamp: tuple[float, float]
    levels: tuple[Literal["centre", "resident"], ...] = ("centre", "resident")


class Words(msgspec.Struct, forbid_unknown_fields=True):
    zh: str
    en: str


class Action(msgspec.Struct, forbid_unknown_fields=True):
    code: str
    zh: str
    en: str
    follow_up_days: int


class Confirm(msgspec.Struct, forbid_unknown_fields=True):
    within: str
    apart: str


class Clear(msgspec.Struct, forbid_unknown_fields=True):
    when: Condition
    sessions: int


class Consecutive(msgspec.Struct, forbid_unknown_fields=True):
    count: int
    apart: str
    session: str = "0s"  # a visit is over, and counts, so long after its last reading


class Absence(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing measured that meets `when` for so many times the days that the fact `every` names."""

    every: str
    misses: int
    urgent_misses: int


class Daily(msgspec.Struct, forbid_unknown_fields=True):
    """The rule looks at one value a day, once a day is over."""

    of: str
    give: Literal["mean", "median", "low", "night_median"]


class Tell(msgspec.Struct, forbid_unknown_fields=True):
    """What the person who measured is told: to act when it fires, to repeat while a repeat is waited for."""

    act: Words
    repeat: Words | None = None


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """With `confirm` a rule raises at the first hit and fires at a repeat, without it at once; with `consecutive` at the n-th visit;
    with `absence` when nothing comes. `tell` is what the person is told who measured it."""

    id: str
    family: str
    zh: str
    en: str
    when: Condition
    severity: Severity
    action: Action
    explain: Words
    source: str
    tell: Tell
    applies: Condition = {}
    settings: list[str] = msgspec.field(default_factory=lambda: list(SETTINGS))
    urgent: Condition | None = None
    confirm: Confirm | None = None
    clear: Clear | None = None
    consecutive: Consecutive | None = None
    absence: Absence | None = None
    daily: Daily | None = None
    keep_firing: str = "0s"
    late_after: str = "24h"
    severity_urgent: Severity = Severity.P1
    inhibited_by: str | None = None
    columns: dict[str, dict[str, Any]] = {}  # features of what this person measured in the last `look_back`
    look_back: str = "0s"
    wakes: str | None = None  # flag without which, within look_back, the rule has nothing to look at
    stirs: Condition | None = None  # the rule looks back only from measurements that meet this, or in a state of it


class Effective(msgspec.Struct, forbid_unknown_fields=True, rename={"since": "from", "until": "to"}):
    since: str | None  # a day or a year; None where the source does not say
    until: str | None = None


class Document(msgspec.Struct, forbid_unknown_fields=True):
    pack: str
    version: str
    guideline: Guideline
    effective: Effective
    sources: dict[str, Source]
    rules: list[Rule] = []
    tests: list[dict[str, Any]] = []
    signoff: list[dict[str, str]] = []
    params: dict[str, Param] = {}
    symptoms: dict[str, Words] = {}
    round: dict[str, float] = {}
    classifications: dict[str, Table] = {}


def duration(text: str) -> timedelta:
    """ "15m" → fifteen minutes. Raises ValueError; a number without unit is not a duration."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration such as 90s, 15m, 24h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise ConfigError([f"line {node.start_mark.line + 1}: key {key!r} is given twice"])
        return super().construct_mapping(node, deep)


Path = tuple[str | int, ...]


def read(text: str) -> tuple[Any, yaml.Node | None]:
    """The document as plain data, and its tree of nodes with their lines. Raises ConfigError for what is not YAML or too deep."""
    try:
        return yaml.load(text, _Loader), yaml.compose(text, _Loader)  # noqa: S506  a SafeLoader subclass
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ConfigError([f"{where}not YAML: {getattr(error, 'problem', None) or error}"]) from None
    except RecursionError:
        raise ConfigError(["not YAML: too deep"]) from None


def line_of(node: yaml.Node | None, path: Path) -> int | None:
    """The line (from 1) at which a path begins, or as much of it as is there."""
    line = None
    for key in path:
        inner = None
        if isinstance(node, yaml.MappingNode):
            inner = next(((name, value) for name, value in node.value if getattr(name, "value", None) == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            inner = (node.value[key], node.value[key])
        if inner is None:
            break
        line, node = inner[0].start_mark.line + 1, inner[1]
    return line


_SECTIONS: dict[str, Any] = {"sources": Source, "params": Param, "symptoms": Words, "rules": Rule, "classifications": Table}


def faults(raw: Any) -> Iterator[tuple[Path, str]]:
    """Every part that does not have its form: (path, what is wrong)."""
    if not isinstance(raw, dict):
        yield (), "a mapping expected"
        return
    broken = False
    for section, form in _SECTIONS.items():
        parts = raw.get(section, {})
        items: Sequence[tuple[str | int, Any]] = list(parts.items()) if isinstance(parts, dict) else list(enumerate(parts or ()))
        for key, part in items:
            try:
                msgspec.convert(part, form)
            except msgspec.ValidationError as error:
                broken = True
                yield (section, key), str(error)
    try:
        msgspec.convert(
            {**raw, **{section: [] if section == "rules" else {} for section in _SECTIONS if broken and section in raw}}, Document
        )
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.(\w+)", str(error)) or re.search(r"unknown field `(\w+)`", str(error))
        yield ((found[1],) if found else ()), str(error)


def terms_of(document: Document, numbers: dict[str, float]) -> Terms:
    rows = {
        (name, output): form["first"]
        for name, table in document.classifications.items()
        for output, form in table.outputs.items()
        if "first" in form
    }
    return Terms(numbers, document.round, rows)
