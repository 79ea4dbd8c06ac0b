"""The vectorised path and the plain reference agree, on random input and on every boundary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules import condition, engine, evaluate, pack, reference, trial
from rules.state import EVENT, SESSION_GAP, STATE, Kind, Timing
from vitals.errors import ConfigError
from vitals.metric import METRICS

PACK = pack.load_named("cn.nbphs3.htn")
MINUTE = 60_000_000
START = 1_700_000_000_000_000

# both sides of every number of the pack, half steps of the grid, and what is unknown
PRESSURES = st.one_of(
    st.none(),
    st.sampled_from([n + d for n in (90, 100, 110, 140, 150, 170, 180) for d in (-1, -0.51, -0.5, -0.49, 0, 0.49, 0.5, 1)]),
    st.floats(0, 400),
)
ROWS = st.fixed_dictionaries(
    {
        "systolic": PRESSURES,
        "diastolic": PRESSURES,
        "age_years": st.one_of(st.none(), st.sampled_from([17, 18, 64, 65, 80])),
        "pregnant": st.sampled_from([None, 0, 1]),
        "lactating": st.sampled_from([None, 0, 1]),
        "hypertension": st.sampled_from([None, 0, 1]),
    }
)


def numbers_in(part: object) -> set[float]:
    if isinstance(part, dict):
        own = {float(v) for k, v in part.items() if k in condition.COMPARATORS and isinstance(v, int | float)}
        return own.union(*map(numbers_in, part.values()))
    return set().union(*map(numbers_in, part)) if isinstance(part, list) and part else set()


TRUTH = {True: 1, None: 0, False: -1}


def every_condition() -> list[pack.Condition]:
    found = []
    for rule in PACK.rules:
        found += [part for part in (rule.when, rule.applies, rule.urgent, rule.clear.when if rule.clear else None) if part]
    return found


@pytest.mark.parametrize("name", pack.shipped())
@given(data=st.data())
@settings(max_examples=50)
def test_the_conditions_of_every_rule_agree_with_the_reference(name: str, data: st.DataObject) -> None:
    one = pack.load_named(name)
    parts = [
        part for rule in one.rules for part in (rule.when, rule.applies, rule.urgent, rule.clear.when if rule.clear else None) if part
    ]  # fmt: skip
    numbers = sorted({number for part in parts for number in numbers_in(part)} | {0.0, 1.0})
    near = [n + d for n in numbers for d in (-1, -0.1, -0.06, -0.05, -0.04, 0, 0.04, 0.05, 0.1, 1)]
    value = st.none() | st.sampled_from(near) | st.floats(0, 400) | st.sampled_from([float("inf"), -float("inf")])
    names = sorted(set().union(*(condition.names(part, one.terms) for part in parts)) if parts else [])
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, value)), min_size=1, max_size=10))
    columns = {column: np.array([np.nan if row[column] is None else float(row[column]) for row in rows]) for column in names}
    for part in parts:
        vector = condition.compile_condition(part, one.terms)(columns)
        assert vector.tolist() == [TRUTH[reference.holds(part, row, one.terms)] for row in rows]


@pytest.mark.parametrize(
    ("value", "low", "high"), [(3.9, 1, -1), (3.94, 1, -1), (3.95, -1, -1), (16.65, -1, 1), (16.64, -1, -1), (16.7, -1, 1)]
)
def test_values_are_compared_as_the_device_shows_them(value: float, low: int, high: int) -> None:
    terms = condition.Terms(grids={"glucose": 0.1})
    column = {"glucose": np.array([value])}
    assert condition.compile_condition({"glucose": {"le": 3.9}}, terms)(column).tolist() == [low]
    assert condition.compile_condition({"glucose": {"ge": 16.7}}, terms)(column).tolist() == [high]
    assert reference.holds({"glucose": {"le": 3.9}}, {"glucose": value}, terms) is (low == 1)
    assert reference.holds({"glucose": {"ge": 16.7}}, {"glucose": value}, terms) is (high == 1)


@given(st.lists(ROWS, min_size=1, max_size=20))
def test_conditions_agree_with_the_reference(rows: list[dict[str, float | None]]) -> None:
    columns = {name: np.array([np.nan if row[name] is None else float(row[name]) for row in rows]) for name in rows[0]}
    for one in every_condition():
        vector = condition.compile_condition(one, PACK.terms)(columns)
        assert vector.tolist() == [TRUTH[reference.holds(one, row, PACK.terms)] for row in rows]


EVENTS = st.builds(
    reference.Event,
    kind=st.sampled_from([Kind.MEASUREMENT] * 6 + [Kind.TICK, Kind.TICK, Kind.URGENT, Kind.END, Kind.PLAN]),
    at=st.integers(-40, 40).map(lambda n: START + n * MINUTE // 2),
    now=st.integers(0, 2000).map(lambda n: START + n * MINUTE),
    hit=st.sampled_from([True, False, None]),
    clear=st.sampled_from([True, True, False, None]),
    valid=st.sampled_from([True, True, True, False]),
    urgent=st.sampled_from([False, False, False, True]),
    late=st.sampled_from([False, False, False, True]),
    inhibited=st.booleans(),
    every=st.sampled_from([0, 10 * MINUTE, 10 * MINUTE, 10 * MINUTE, 300 * MINUTE]),
)
TIMINGS = [
    *(Timing.of(rule) for rule in PACK.rules),
    Timing(within=5 * MINUTE, apart=MINUTE, keep_firing=3 * MINUTE, sessions=1),
    Timing(keep_firing=3 * MINUTE, sessions=1),
    Timing(misses=(2, 3)),
    Timing(apart=20 * MINUTE, visits=2, session=5 * MINUTE),
]


@pytest.mark.parametrize("few", [0, 1000], ids=["at_once", "one_by_one"])
@pytest.mark.parametrize("timing", TIMINGS, ids=["danger", "control", "goal", "short", "at_once", "silence", "sessions"])
@given(events=st.lists(st.tuples(st.integers(0, 3), EVENTS), max_size=60))
@settings(max_examples=400)
def test_the_state_machine_agrees_with_the_reference(timing: Timing, few: int, events: list[tuple[int, reference.Event]]) -> None:
    states = [reference.State() for _ in range(4)]
    moves, phases = [], []
    for subject, event in events:
        states[subject], move = reference.advance(timing, states[subject], event)
        moves.append(move)
        phases.append(states[subject].phase)
    array = np.zeros(len(events), EVENT)
    for number, (_, event) in enumerate(events):
        array[number] = (
            event.kind,
            TRUTH[event.hit],
            TRUTH[event.clear],
            event.valid,
            event.urgent,
            event.late,
            event.inhibited,
            event.at,
            event.now,
            event.every,
        )
    state = np.zeros(4, STATE)
    found_moves, found_phases = engine.run(timing, state, np.array([s for s, _ in events], np.int64), array, few)
    assert found_moves.tolist() == [int(move) for move in moves]
    assert found_phases.tolist() == [int(phase) for phase in phases]
    for number, expected in enumerate(states):
        got = {name: state[number][name].item() for name in STATE.names or ()}
        assert got == {name: getattr(expected, name) for name in STATE.names or ()}


CONDITIONS = [(name, part) for name in pack.shipped() for rule in pack.load_named(name).rules for part in (rule.when, rule.applies) if part]


@given(data=st.data())
@settings(max_examples=300)
def test_what_the_extremes_of_a_batch_cannot_reach_no_row_reaches(data: st.DataObject) -> None:
    name, part = data.draw(st.sampled_from(CONDITIONS))
    terms = pack.load_named(name).terms
    numbers = sorted(numbers_in(part) | {0.0, 1.0})
    value = st.none() | st.sampled_from([n + d for n in numbers for d in (-0.05, -0.04, 0, 0.04, 0.05)]) | st.floats(0, 300)
    columns = {column: data.draw(st.lists(value, min_size=5, max_size=5)) for column in sorted(condition.names(part, terms))}
    arrays = {column: np.array([np.nan if one is None else float(one) for one in values]) for column, values in columns.items()}
    arrays |= {f"${name}": np.full(5, number) for name, number in terms.numbers.items()} if data.draw(st.booleans()) else {}
    reached = evaluate.ranges(arrays, [column for column in columns if column in METRICS])
    if not condition.reachable(part, terms, reached, [column for column in arrays if column.startswith("$")]):
        truth = condition.compile_condition(part, terms)(arrays)
        measured = np.logical_and.reduce([~np.isnan(arrays[column]) for column in columns if column in METRICS] or [np.ones(5, bool)])
        assert not (truth == 1).any()
        assert not (truth[measured] == 0).any(), "nor is it open where everything was measured"


@given(st.lists(st.tuples(st.integers(0, 3), EVENTS), max_size=40), st.integers(1, 39))
def test_one_batch_or_two_make_no_difference(events: list[tuple[int, reference.Event]], cut: int) -> None:
    timing = TIMINGS[0]
    array = np.zeros(len(events), EVENT)
    for number, (_, e) in enumerate(events):
        array[number] = (e.kind, TRUTH[e.hit], TRUTH[e.clear], e.valid, e.urgent, e.late, e.inhibited, e.at, e.now, e.every)
    subjects = np.array([s for s, _ in events], np.int64)
    whole, parts = np.zeros(4, STATE), np.zeros(4, STATE)
    moves, _ = engine.run(timing, whole, subjects, array)
    first, _ = engine.run(timing, parts, subjects[:cut], array[:cut])
    second, _ = engine.run(timing, parts, subjects[cut:], array[cut:])
    assert whole.tolist() == parts.tolist()
    assert moves.tolist() == first.tolist() + second.tolist()


def test_every_shipped_pack_passes_the_tests_it_carries() -> None:
    for name in pack.shipped():
        assert trial.run(pack.load_named(name)) == []


def test_every_danger_number_with_all_clamps_lies_inside_the_gateways_priority_band() -> None:
    for name in pack.shipped():
        loaded = pack.load_named(name)
        numbers = pack.danger_numbers(loaded)
        assert bool(numbers) == any(not (rule.consecutive or rule.columns or rule.absence) for rule in loaded.rules)
        for metric, comparator, number in numbers:
            assert comparator in ("ge", "gt", "le", "lt")
            assert METRICS[metric].is_priority(number), f"{metric} {comparator} {number}"


def test_a_centres_numbers_move_only_towards_safety() -> None:
    text = (pack.files("rules") / "packs" / "cn.nbphs3.htn.yaml").read_text(encoding="utf-8")
    assert pack.load(text, {"danger_systolic": 160}).numbers["danger_systolic"] == 160
    assert pack.load(text, {"danger_systolic": 220}).numbers["danger_systolic"] == 180


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("pack: cn.nbphs3.htn", "pack: cn.nbphs3.htn\npack: other"), "given twice"),
        (("family: bp_danger", "family: bp_dnager"), "no family bp_dnager"),
        (("source: danger\n", "source: nowhere\n"), "no source nowhere"),
        (("{systolic: {ge: $danger_systolic}}", "{systolic: {ge: $danger_sytolic}}"), "no parameter $danger_sytolic"),
        (("{systolic: {ge: $danger_systolic}}", "{systolic: {over: 180}}"), "no comparator over"),
        (
            (
                "- {systolic: {ge: $danger_systolic}}\n        - {diastolic: {ge: $danger_diastolic}}\n        - all",
                "- {sistolic: {ge: 180}}\n        - all",
            ),
            "neither a metric nor a fact",
        ),
        (("within: 15m", "within: 15"), "Expected `str`"),
        (("severity: P2", "severity: P9"), "P9"),
        (("severity_urgent: P1", "severity_urgent: P3"), "milder than"),
        (
            ('value: 170, unit: "mm[Hg]", clamp: [140, 170]', 'value: 185, unit: "mm[Hg]", clamp: [140, 190]'),
            "above the 180 at which it fires",
        ),
        (("any_of: {symptoms: &danger_symptoms [altered", "any_of: {symptoms: &danger_symptoms [altred"), "symptoms: no altred"),
        (("{is: normal}", "{is: normal, when: {days_above_normal: {lt: zero}}}"), "no parameter zero"),
        (("last_days: 3", "last_dys: 3"), "last_days"),
        (("{final: per_visit}", "{final: per_vist}"), "no output per_vist"),
        (("[3, provisional_hypertension, true]", "[3, provisional_hypertension]"), "does not fit"),
        (("value: 180", "value: 200"), "outside its clamp"),
        (("inhibited_by: bp_danger", "inhibited_bye: bp_danger"), "unknown field"),
        (("pack: cn.nbphs3.htn", "pack: !!python/object:os.system cn"), "not YAML"),
    ],
)
def test_a_pack_with_a_fault_is_refused_whole(change: tuple[str, str], words: str) -> None:
    text = (pack.files("rules") / "packs" / "cn.nbphs3.htn.yaml").read_text(encoding="utf-8")
    assert change[0] in text
    with pytest.raises(ConfigError) as error:
        pack.load(text.replace(change[0], change[1], 1))
    assert any(words in problem for problem in error.value.problems)


def test_all_faults_of_a_pack_are_told_at_once() -> None:
    text = (pack.files("rules") / "packs" / "cn.nbphs3.htn.yaml").read_text(encoding="utf-8")
    broken = (
        text.replace("family: bp_danger", "family: nothing", 1)
        .replace("source: control", "source: nowhere")
        .replace("value: 110", "value: 300")
    )
    with pytest.raises(ConfigError) as error:
        pack.load(broken)
    assert len(error.value.problems) == 5
    lines = broken.splitlines()
    for problem, word in zip(
        error.value.problems, ("danger_diastolic", "id: htn.danger", "id: htn.control", "id: htn.goal", "source: nowhere"), strict=True
    ):
        told = int(problem.removeprefix("line ").partition(":")[0])
        assert word in lines[told - 1], problem


def test_faults_of_form_are_all_told_with_their_lines() -> None:
    text = pack.text_of("cn.nbphs3.htn")
    broken = text.replace("within: 15m", "wihtin: 15m").replace("sessions: 2", "sessions: two").replace("unit: ", "unti: ", 1)
    broken = broken.replace("pack: cn.nbphs3.htn", "pack: cn.nbphs3.htn\nowner: me", 1).replace("count: 2", "count: two")
    with pytest.raises(ConfigError) as error:
        pack.load(broken)
    assert len(error.value.problems) == 5, "one for the parameter, one for each rule, one for the document"
    assert all(problem.startswith("line ") for problem in error.value.problems)


def test_sessions_are_ten_minutes() -> None:
    assert SESSION_GAP == 10 * MINUTE
