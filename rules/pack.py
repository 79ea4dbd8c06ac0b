"""A rule pack: one guideline as data. Loaded from YAML, refused whole when anything in it is not understood.

A closed vocabulary, no expressions, no code. Conditions are nested mappings:

    {any: […]} · {all: […]} · {not: …} · {column: {ge | gt | le | lt: number or $param}} · {fact: true | false}
    {class: {classification: outcome}}

Facts about a person (age, pregnancy …) may be unknown; a condition then is neither true nor false.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from typing import Any

import msgspec
import yaml

from vitals.alert import FAMILIES, Severity
from vitals.errors import ConfigError
from vitals.measurement import SETTINGS
from vitals.metric import METRICS

# Facts about a person that a condition may name; what is not recorded is unknown, never "no".
FACTS = ("age_years", "pregnant", "lactating", "hypertension")
COMPARATORS = ("ge", "gt", "le", "lt")
_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Condition = dict[str, Any]


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
    value: float
    unit: str
    clamp: tuple[float, float]


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


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """confirm rules raise at the first hit and confirm by a repeat; consecutive rules raise at the n-th visit."""

    id: str
    family: str
    zh: str
    en: str
    when: Condition
    severity: Severity
    action: Action
    explain: Words
    source: str
    applies: Condition = {}
    settings: list[str] = msgspec.field(default_factory=lambda: list(SETTINGS))
    urgent: Condition | None = None
    confirm: Confirm | None = None
    clear: Clear | None = None
    consecutive: Consecutive | None = None
    keep_firing: str = "0s"
    late_after: str = "24h"
    severity_urgent: Severity = Severity.P1
    inhibited_by: str | None = None


class Classification(msgspec.Struct, forbid_unknown_fields=True):
    """rows: each an `if` on facts and one outcome with its condition; the outcome is false where it does not hold."""

    zh: str
    rows: list[dict[str, Condition]]


class Effective(msgspec.Struct, forbid_unknown_fields=True, rename={"since": "from", "until": "to"}):
    since: str
    until: str | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    pack: str
    version: str
    guideline: Guideline
    effective: Effective
    sources: dict[str, Source]
    rules: list[Rule]
    tests: list[dict[str, Any]]
    signoff: list[dict[str, str]] = []
    params: dict[str, Param] = {}
    symptoms: dict[str, Words] = {}
    round: dict[str, float] = {}
    classifications: dict[str, Classification] = {}


@dataclass(frozen=True)
class Pack:
    """A loaded pack. digest: SHA-256 of its text, recorded with every alert. numbers: parameters after clamping."""

    document: _Document
    digest: str
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.document.pack}@{self.document.version}"

    @property
    def rules(self) -> list[Rule]:
        return self.document.rules


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


def load(text: str, numbers: dict[str, float] | None = None) -> Pack:
    """Load and check; raises ConfigError with every problem found. numbers: a centre's parameters, clamped."""
    try:
        raw = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader subclass
        document = msgspec.convert(raw, _Document)
    except yaml.YAMLError as error:
        raise ConfigError([f"not YAML: {error}"]) from None
    except msgspec.ValidationError as error:
        raise ConfigError([str(error)]) from None
    problems = _check(document)
    chosen = {name: param.value for name, param in document.params.items()}
    for name, value in (numbers or {}).items():
        if name not in document.params:
            problems.append(f"no parameter {name}")
        else:
            low, high = document.params[name].clamp
            chosen[name] = min(max(value, low), high)
    if problems:
        raise ConfigError(problems)
    return Pack(document, hashlib.sha256(text.encode()).hexdigest(), chosen)


def load_named(name: str) -> Pack:
    """Load a pack that ships with the project."""
    return load(files("rules").joinpath("packs", f"{name}.yaml").read_text(encoding="utf-8"))


def shipped() -> list[str]:
    """Names of the packs that ship with the project."""
    return sorted(path.name.removesuffix(".yaml") for path in files("rules").joinpath("packs").iterdir() if path.name.endswith(".yaml"))


def _check(document: _Document) -> list[str]:
    problems: list[str] = []
    for name, param in document.params.items():
        if not param.clamp[0] <= param.value <= param.clamp[1]:
            problems.append(f"params.{name}: {param.value} lies outside its clamp")
    problems += [f"round.{code}: no such metric" for code in document.round if code not in METRICS]
    ids = [rule.id for rule in document.rules]
    problems += [f"rule {name}: id used twice" for name in {i for i in ids if ids.count(i) > 1}]
    for rule in document.rules:
        problems += [f"rule {rule.id}: {problem}" for problem in _check_rule(rule, document)]
    for name, classification in document.classifications.items():
        for number, row in enumerate(classification.rows, 1):
            if "if" not in row or len(row) != 2:
                problems.append(f"classification {name} row {number}: an `if` and one outcome expected")
            for condition in row.values():
                problems += [f"classification {name} row {number}: {p}" for p in _check_condition(condition, document)]
    for test in document.tests:
        for rule_id in test.get("expect", {}):
            if rule_id not in ids:
                problems.append(f"test {test.get('id')}: no rule {rule_id}")
    return problems


def _check_rule(rule: Rule, document: _Document) -> list[str]:
    problems: list[str] = []
    if rule.family not in FAMILIES:
        problems.append(f"no family {rule.family}")
    if rule.inhibited_by is not None and rule.inhibited_by not in FAMILIES:
        problems.append(f"no family {rule.inhibited_by}")
    if rule.source not in document.sources:
        problems.append(f"no source {rule.source}")
    if (rule.confirm is None) == (rule.consecutive is None):
        problems.append("exactly one of confirm and consecutive expected")
    if rule.confirm is not None and rule.clear is None:
        problems.append("a confirming rule needs a clear condition")
    problems += [f"no setting {name}" for name in rule.settings if name not in SETTINGS]
    durations = [rule.keep_firing, rule.late_after]
    durations += [rule.confirm.within, rule.confirm.apart] if rule.confirm else []
    durations += [rule.consecutive.apart] if rule.consecutive else []
    for text in durations:
        try:
            duration(text)
        except ValueError as error:
            problems.append(str(error))
    for condition in (rule.when, rule.applies, rule.urgent, rule.clear.when if rule.clear else None):
        if condition:
            problems += _check_condition(condition, document)
    return problems


def _check_condition(condition: Any, document: _Document) -> list[str]:
    if not isinstance(condition, dict) or len(condition) != 1:
        return [f"{condition!r}: a mapping with one key expected"]
    (key, value), *_ = condition.items()
    match key:
        case "any" | "all":
            if not isinstance(value, list) or not value:
                return [f"{key}: a list expected"]
            return [problem for part in value for problem in _check_condition(part, document)]
        case "not":
            return _check_condition(value, document)
        case "class":
            known = document.classifications
            for name, outcome in value.items():
                if name not in known or not any(outcome in row for row in known[name].rows):
                    return [f"class {name}: no outcome {outcome}"]
            return []
    if key not in METRICS and key not in FACTS:
        return [f"{key}: neither a metric nor a fact"]
    if isinstance(value, bool):
        return [] if key in FACTS else [f"{key}: a comparison expected"]
    if not isinstance(value, dict) or not value:
        return [f"{key}: a comparison expected"]
    problems = [f"{key}: no comparator {name}" for name in value if name not in COMPARATORS]
    for number in value.values():
        if isinstance(number, str):
            name = number.removeprefix("$")
            if not number.startswith("$") or name not in document.params:
                problems.append(f"{key}: no parameter {number}")
            elif key in METRICS and document.params[name].unit != METRICS[key].unit:
                problems.append(f"{key}: parameter {name} has another unit")
        elif isinstance(number, bool) or not isinstance(number, int | float):
            problems.append(f"{key}: {number!r} is no number")
    return problems


def danger_numbers(pack: Pack) -> list[tuple[str, str, float]]:
    """(metric, comparator, number) of every threshold of confirming rules, with all clamps: what gateways must hurry."""
    found: list[tuple[str, str, float]] = []

    def walk(condition: Any) -> None:
        for key, value in condition.items():
            if key in ("any", "all"):
                for part in value:
                    walk(part)
            elif key == "not":
                walk(value)
            elif key in METRICS:
                for comparator, number in value.items():
                    values = pack.document.params[number[1:]].clamp if isinstance(number, str) else (number,)
                    found.extend((key, comparator, v) for v in values)

    for rule in pack.rules:
        if rule.confirm is not None:
            walk(rule.when)
    return found
