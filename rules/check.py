"""What must hold in a pack beyond its form: names that exist, units that fit, cuts that rise, clear below fire."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import pairwise
from string import Formatter
from typing import Any

from rules import history, tables
from rules.condition import COMPARATORS, WORDS
from rules.features import FEATURES
from rules.form import FACTS, FLAG_COLUMNS, PLANS, Document, Path, Rule, duration, terms_of
from rules.tables import Table
from vitals.alert import FAMILIES, Severity
from vitals.measurement import SETTINGS
from vitals.metric import METRICS


def problems(document: Document) -> Iterator[tuple[Path, str]]:
    """Every problem: (path in the document, what is wrong)."""
    for name, param in document.params.items():
        if param.value is not None and not param.clamp[0] <= param.value <= param.clamp[1]:
            yield ("params", name), f"{param.value:g} lies outside its clamp"
    for code in document.round:
        if code not in METRICS:
            yield ("round", code), "no such metric"
    ids = [rule.id for rule in document.rules]
    for number, rule in enumerate(document.rules):
        if rule.id in ids[:number]:
            yield ("rules", number), f"id {rule.id} is used twice"
        for problem in _check_rule(rule, document):
            yield ("rules", number), f"{rule.id}: {problem}"
    for name, table in document.classifications.items():
        for path, problem in _check_table(table, document):
            yield ("classifications", name, *path), f"{name}: {problem}"
    for number, test in enumerate(document.tests):
        for rule_id in test.get("expect", {}):
            if rule_id not in ids:
                yield ("tests", number), f"test {test.get('id')}: no rule {rule_id}"
        for name in test.get("agreed", {}):
            if name not in document.params:
                yield ("tests", number), f"test {test.get('id')}: no parameter {name}"


def _check_rule(rule: Rule, document: Document) -> list[str]:
    problems: list[str] = []
    if rule.family not in FAMILIES:
        problems.append(f"no family {rule.family}")
    if rule.inhibited_by is not None and rule.inhibited_by not in FAMILIES:
        problems.append(f"no family {rule.inhibited_by}")
    if rule.source not in document.sources:
        problems.append(f"no source {rule.source}")
    if rule.consecutive is not None and (rule.confirm is not None or rule.clear is not None):
        problems.append("consecutive visits need neither confirm nor clear")
    if (rule.confirm is None) != (rule.tell.repeat is None):
        problems.append("tell.repeat belongs to a rule with confirm, and only there")
    if (rule.clear is not None and rule.clear.sessions < 1) or (rule.consecutive is not None and rule.consecutive.count < 1):
        problems.append("sessions and count: 1 or more")
    if rule.absence is not None:
        if rule.absence.every not in PLANS:
            problems.append(f"absence: {rule.absence.every} is no plan ({', '.join(PLANS)})")
        if not 0 < rule.absence.misses < rule.absence.urgent_misses:
            problems.append("absence: 0 < misses < urgent_misses expected")
        if rule.consecutive is not None or rule.confirm is not None or rule.clear is not None or rule.urgent is not None:
            problems.append("absence needs neither confirm, clear, urgent nor consecutive")
    if rule.daily is not None:
        if len(rule.settings) != 1:
            problems.append("daily: exactly one setting, for settings are never mixed")
        if rule.daily.of not in METRICS:
            problems.append(f"daily: no metric {rule.daily.of}")
        if rule.confirm is not None or rule.severity < Severity.P3:
            problems.append("daily: no repeat, and nothing more severe than P3: a statistic never stands for danger")
    if rule.consecutive is None and rule.clear is None and rule.absence is None:
        problems.append("a clear condition is needed, or consecutive visits")
    if rule.severity_urgent > rule.severity:
        problems.append(f"urgent is {rule.severity_urgent}, milder than {rule.severity}")
    if rule.clear is not None:
        problems += _clear_above_fire(rule, document)
    words = {*METRICS, *document.params, *rule.columns}
    for text in (rule.explain.zh, rule.explain.en):
        try:
            problems += [
                f"explain: no value {{{name}}}" for _, name, _, _ in Formatter().parse(text) if name is not None and name not in words
            ]
        except ValueError as error:
            problems.append(f"explain: {error}")
    problems += [f"no setting {name}" for name in rule.settings if name not in SETTINGS]
    known = {*METRICS, *FACTS, *FLAG_COLUMNS, *rule.columns}
    for name, made in rule.columns.items():
        problems += [f"column {name}: {problem}" for problem in _check_feature(made, set(METRICS), document)]
    durations = [rule.keep_firing, rule.late_after, rule.look_back]
    durations += [rule.confirm.within, rule.confirm.apart] if rule.confirm else []
    durations += [rule.consecutive.apart, rule.consecutive.session] if rule.consecutive else []
    for text in durations:
        try:
            duration(text)
        except ValueError as error:
            problems.append(str(error))
    if rule.stirs is not None and (not rule.columns or rule.wakes is not None or rule.daily is not None):
        problems.append("stirs is for rules that look back, and wakes is another way to say it")
    for condition in (rule.when, rule.applies, rule.urgent, rule.stirs, rule.clear.when if rule.clear else None):
        if condition:
            problems += _check_condition(condition, document, known if rule.columns else None)
    return problems


def _check_table(table: Table, document: Document) -> Iterator[tuple[Path, str]]:
    if table.source not in document.sources:
        yield ("source",), f"no source {table.source}"
    known = set(METRICS) | set(history.MORE_VALUES) | history.FACTS
    known |= {f"{name}.{member}" for name, members in history.LISTS.items() for member in members}
    for name, made in table.columns.items():
        for problem in _check_feature(made, known):
            yield ("columns", name), f"column {name}: {problem}"
    known |= set(table.columns)
    for problem in _check_condition(table.scope, document, known) if table.scope else ():
        yield ("scope",), f"scope: {problem}"
    for name, output in table.outputs.items():
        for problem in _check_output(output, table, document, known):
            yield ("outputs", name), f"output {name}: {problem}"
        known |= {name, f"{name}.highest"} if "group" in output else {name}
    for number, examples in enumerate(table.examples):
        wrong: list[Any] = [column for column in [*examples.of, *examples.given] if column not in known]
        wrong += [output for output in examples.gives if output not in table.outputs]
        wrong += [row for row in examples.rows if len(row) != len(examples.of) + len(examples.gives)]
        for one in wrong:
            yield ("examples", number), f"examples: {one} does not fit"


def _check_feature(made: dict[str, Any], known: set[str], document: Document | None = None) -> list[str]:
    """document: of a rule, whose column may also be what a table gives."""
    if len(made) != 1:
        return ["one feature expected"]
    ((name, arguments),) = made.items()
    if name == "table" and document is not None:
        table = document.classifications.get(arguments.get("of", ""))
        return [] if table is not None and arguments.get("give") in table.outputs else [f"table: no output {arguments}"]
    if name not in FEATURES:
        return [f"no feature {name}"]
    try:
        inspect.signature(FEATURES[name]).bind(None, **arguments)
    except TypeError as error:
        return [f"{name}: {error}"]
    of = arguments.get("of", [])
    wanted = [of] if isinstance(of, str) else of if isinstance(of, list) else []
    wanted += list(arguments.get("at_or_above", {}))
    return [f"{name}: no value {one}" for one in wanted if one not in known]


def _check_output(output: dict[str, Any], table: Table, document: Document, known: set[str]) -> list[str]:
    forms = [form for form in output if form in tables.FORMS]
    if len(forms) != 1 or set(output) - set(forms) - {"missing"}:
        return [f"exactly one of {', '.join(tables.FORMS)} expected"]
    what = output[forms[0]]
    try:
        match forms[0]:
            case "bands":
                return _check_bands(what, known)
            case "highest":
                order = what["order"]
                unknown = [label for one in what["of"] for label in one["cuts"][0::2] if label not in order]
                falls = [
                    f"{after} stands before {before} in the order"
                    for one in what["of"]
                    for before, after in pairwise(one["cuts"][0::2])
                    if not unknown and order.index(after) <= order.index(before)
                ]
                bands = [p for one in what["of"] for p in _check_bands(one, known)]
                return [f"{label} is not in the order" for label in unknown] + falls + bands
            case "first":
                open_ended = [row for row in what[:-1] if "when" not in row]
                problems = ["only the last row may have no condition"] if open_ended else []
                problems += [f"a row needs `is`: {row}" for row in what if set(row) - {"when"} != {"is"}]
                return problems + [p for row in what if "when" in row for p in _check_condition(row["when"], document, known)]
            case "holds":
                return _check_condition(what, document, known)
            case "value":
                return [] if what in known else [f"no column {what}"]
            case "names":
                return [p for part in what for p in _check_condition(tables.condition_of(part), document, known)]
            case "group":
                return [p for part in what.values() for p in _check_output(part, table, document, known)]
            case "either":
                return [f"no column {column}" for column in what if column not in known]
            case "sum" | "absent":
                return [] if "group" in table.outputs.get(what, {}) else [f"no group {what}"]
            case "final" | "percent" | "members":
                return [] if what in table.outputs else [f"no output {what}"]
        name, _, of = what["of"].partition(".")
        return [] if of in document.classifications[name].outputs else [f"no output {what['of']}"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [f"{forms[0]}: not in its form ({type(error).__name__}: {error})"]


def _check_bands(what: dict[str, Any], known: set[str]) -> list[str]:
    cuts = what["cuts"]
    numbers = cuts[1::2]
    problems = [] if what["of"] in known else [f"no column {what['of']}"]
    if len(cuts) % 2 == 0 or any(isinstance(cut, bool) or not isinstance(cut, int | float) for cut in numbers):
        return [*problems, "cuts: a label, a number, a label … expected"]
    if any(after <= before for before, after in pairwise(numbers)):
        problems.append(f"cuts do not rise: {numbers}")
    return problems


def _check_condition(given: Any, document: Document, columns: set[str] | None = None) -> list[str]:
    """columns: what a table knows; rules know metrics and the facts that the worker has."""
    known = columns if columns is not None else {*METRICS, *FACTS, *FLAG_COLUMNS}
    if not isinstance(given, dict) or len(given) != 1:
        return [f"{given!r}: a mapping with one key expected"]
    (key, value), *_ = given.items()
    match key:
        case "any" | "all":
            if not isinstance(value, list) or not value:
                return [f"{key}: a list expected"]
            return [problem for part in value for problem in _check_condition(part, document, columns)]
        case "not" | "certain":
            return _check_condition(value, document, columns)
        case "measured":
            return [] if value in known else [f"no column {value}"]
        case "class":
            try:
                rows, label = terms_of(document, {}).class_rows(value)
            except (KeyError, ValueError, TypeError, AttributeError):
                return [f"class {value}: no such output with rows"]
            problems = [] if any(row.get("is") == label for row in rows) else [f"class {value}: no such label"]
            problems += [] if any("when" in row for row in rows) else [f"class {value}: no row has a condition"]
            return problems + [p for row in rows if "when" in row for p in _check_condition(row["when"], document, columns)]
    if isinstance(value, dict) and "any_of" in value:
        return [f"{key}: no {member}" for member in value["any_of"] if f"{key}.{member}" not in known]
    if key not in known:
        return [f"{key}: neither a metric nor a fact" if columns is None else f"no column {key}"]
    if isinstance(value, bool):
        return [] if key not in METRICS else [f"{key}: a comparison expected"]
    if not isinstance(value, dict) or not value:
        return [f"{key}: a comparison expected"]
    problems = [f"{key}: no comparator {name}" for name in value if name not in (*COMPARATORS, *WORDS)]
    for comparator, number in value.items():
        if comparator in WORDS:
            continue
        if isinstance(number, str):
            name = number.removeprefix("$")
            if not number.startswith("$") or name not in document.params:
                problems.append(f"{key}: no parameter {number}")
            elif key in METRICS and document.params[name].unit != METRICS[key].unit:
                problems.append(f"{key}: parameter {name} has another unit")
        elif isinstance(number, bool) or not isinstance(number, int | float):
            problems.append(f"{key}: {number!r} is no number")
    return problems


def _clear_above_fire(rule: Rule, document: Document) -> list[str]:
    """A rule that clears at values at which it fires would flap. Looks at the plain comparisons on both sides."""
    assert rule.clear is not None
    fires, clears = dict(_plain(rule.when, document)), dict(_plain(rule.clear.when, document))
    return [
        f"clears {column} at {clears[column, 'below']:g}, above the {fires[column, 'above']:g} at which it fires"
        for column in METRICS
        if (column, "above") in fires and (column, "below") in clears and clears[column, "below"] > fires[column, "above"]
    ] + [
        f"clears {column} at {clears[column, 'above']:g}, below the {fires[column, 'below']:g} at which it fires"
        for column in METRICS
        if (column, "below") in fires and (column, "above") in clears and clears[column, "above"] < fires[column, "below"]
    ]


def _plain(given: Any, document: Document) -> Iterator[tuple[tuple[str, str], float]]:
    """((column, above or below), number) of comparisons that stand alone or under one any or all."""
    for key, value in given.items() if isinstance(given, dict) else ():
        if key in ("any", "all") and isinstance(value, list):
            for part in value:
                if isinstance(part, dict) and not {"any", "all", "not"} & set(part):
                    yield from _plain(part, document)
        elif key in METRICS and isinstance(value, dict):
            for comparator, number in value.items():
                side = "above" if comparator in ("ge", "gt") else "below"
                name = number[1:] if isinstance(number, str) else ""
                known = document.params[name].value if name in document.params else number
                if isinstance(known, int | float):
                    yield (key, side), float(known)
