"""Packs over a history: the synthetic town, what a new version would change, and what the database already concluded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import burden, town
from bench import rules as bench_rules
from rules import pack, past, replay
from tests.ingest.helpers import Clinic, measurement, message
from tests.rules.test_alerts import expire
from vitals.floor import database
from yizhan import town as settled

PACKS = [pack.load_named(name) for name in pack.shipped()]


def test_no_danger_that_a_device_saw_goes_unseen_in_the_town() -> None:
    told = burden.figures(PACKS, 300, 60, seed=3)
    assert told["measurements"] > 5_000
    assert sum(kind["shown"] or 0 for kind in told["events"].values()) > 3, "a town where nothing happens proves nothing"
    assert {name: kind["missed_though_shown"] for name, kind in told["events"].items() if kind["missed_though_shown"]} == {}
    assert told["doctor_items"] < 15
    assert told["nurse_items"] < 40


def test_a_pack_that_sees_no_danger_misses_the_crises() -> None:
    deaf = pack.load(pack.text_of("cn.nbphs3.htn").replace("{systolic: {ge: $danger_systolic}}", "{systolic: {ge: 300}}").replace(
        "{diastolic: {ge: $danger_diastolic}}", "{diastolic: {ge: 300}}"))  # fmt: skip
    raised, happened, shown, _ = burden.play([deaf], 300, 200, seed=1)
    crises = [event for event in happened if event.what == "crisis" and event in shown]
    assert crises
    assert not [one for one in raised if one.family == "bp_danger"]


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_how_the_stream_is_cut_makes_no_difference(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [town.resident(5, number, 30) for number in range(40)]

    def play() -> list[replay.Raised]:
        one = replay.Replay(PACKS, [resident.facts() for resident in people])
        return [*one.feed(town.rows_of(5, people, 30)), *one.wait(town.START + timedelta(days=40))]

    whole = sorted(play())
    monkeypatch.setattr(replay, "CHUNK", chunk)
    assert sorted(play()) == whole
    assert whole


def test_the_difference_of_two_versions_is_what_was_changed() -> None:
    assert burden.difference(PACKS, PACKS, 200, 40)["gained"] == {}
    text = pack.text_of("cn.nbphs3.htn")
    stricter = pack.load(text.replace("danger_systolic: {value: 180", "danger_systolic: {value: 171"))
    told = burden.difference([pack.load(text)], [stricter], 200, 40)
    assert told["gained"]["P2"] > 0
    assert list(told["by_doctor"]) == ["doctor-0"]


@pytest.mark.services
async def test_what_is_stored_gives_the_alerts_on_record(clinic: Clinic) -> None:
    def old(hours: float, **values: Any) -> bytes:
        return message(measurement(values["systolic"], 85, ago=timedelta(hours=hours), time_quality="estimated"))

    await clinic.send(old(60, systolic=186), old(59.9, systolic=188), old(30, systolic=150), old(29, systolic=150))
    await clinic.send(old(3, systolic=190))
    await expire(clinic)
    await clinic.idle()
    async with await database.connect(clinic.conninfo) as connection:
        since = (await clinic.rows("select now() - interval '5 days' as since"))[0]["since"]
        told = await past.compare(connection, PACKS, since, "Asia/Shanghai")
    assert told["measurements"] == 5
    assert told["rules"]["htn.danger"] == {"items_replayed": 2, "alerts_on_record": 2}


def test_the_commands_answer(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "yizhan", "rules", *arguments], capture_output=True, text=True, check=False)

    assert run("lint").returncode == 0
    burdened = run("burden", "--residents", "50", "--days", "10", "--json")
    assert burdened.returncode == 0
    assert json.loads(burdened.stdout)["residents"] == 50
    broken = tmp_path / "broken.yaml"
    broken.write_text("pack: x\n")
    told = run("lint", str(broken))
    assert told.returncode == 2
    assert "missing required field" in told.stderr
    cases = tmp_path / "cases.json"
    cases.write_text('{"cases": 5}')
    assert run("cases", str(cases)).returncode == 2
    right = {"id": "a", "axis": "bhb_category", "context": {}, "expected": {"category": "normal"},
             "readings": [{"t": "2026-03-02T08:00:00+08:00", "type": "ketone_bhb", "value": 0.5, "unit": "mmol/L"}]}  # fmt: skip
    cases.write_text(json.dumps({"cases": [right]}))
    found = run("cases", str(cases), "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout) == {
        "cases": [{"id": "a", "axis": "bhb_category", "pass": True, "diff": {}}], "axes": {"bhb_category": {"cases": 1, "passed": 1}},
    }  # fmt: skip
    cases.write_text(json.dumps({"cases": [right | {"expected": {"category": "ketonaemia"}}]}))
    assert run("cases", str(cases)).returncode == 1


def test_a_hundred_thousand_random_readings_raise_the_same_both_ways_and_in_batches_of_any_size() -> None:
    compiled = bench_rules.rules()
    moved: set[str] = set()
    # a town over two months, and twenty people who measure every three minutes, many of them ill
    for count, residents, apart, rare in ((80_000, 300, 60_000_000, 0.001), (20_000, 20, 10_000_000, 0.1)):
        subjects, columns, source = bench_rules.readings(count, residents, 11, apart, rare)
        _, plain = bench_rules.theirs(compiled, subjects, columns, source)
        for batch in (7, 256, 10_000):
            _, vector = bench_rules.ours(compiled, subjects, columns, source, batch)
            assert {rule: int((plain[rule] != vector[rule]).sum()) for rule in plain} == dict.fromkeys(plain, 0), batch
        moved |= {rule for rule, moves in plain.items() if moves.any()}
    # two bad visits without a good one between do not come at random, and no day passes without a measurement here
    assert {one.rule.id for one in compiled} - moved <= {
        "htn.control",
        "htn.goal",
        "dm.control",
        "silence.pressure",
        "silence.glucose",
        "silence.weight",
    }


@pytest.mark.services
async def test_a_new_version_is_tried_on_what_the_database_holds_doctor_by_doctor(clinic: Clinic, tmp_path: Path) -> None:
    from tests.rules.test_in_force import stricter

    times = [timedelta(days=days) for days in (20, 15, 10, 5)]
    await clinic.send(*(message(measurement(177, 85, ago=ago, time_quality="estimated")) for ago in times))
    await clinic.send(*(message(measurement(177, 85, ago=ago, time_quality="estimated", device="cuff-home-2")) for ago in times[:1]))
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(pack.text_of("cn.nbphs3.htn"), encoding="utf-8")
    new.write_text(stricter(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "yizhan", "rules", "diff", str(old), str(new), "--stored", "--days", "30", "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "YIZHAN_DATABASE_URL": clinic.conninfo},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["residents"], told["measurements"], told["lost"]) == (2, 5, {})
    per_item = 100 / 2 / (30 / 7)
    assert told["gained"] == {"P2": pytest.approx(2 * per_item, abs=0.01)}, "one episode each; later values join it"
    assert list(told["by_doctor"]) == [settled.DOCTOR]


def stream(random: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Four weeks of one person, dangerous more often than not, in order of time; sessions of up to three readings."""
    found: list[dict[str, Any]] = []
    ago = 28 * 24 * 60.0  # minutes
    while len(found) < count:
        ago -= float(random.choice([1.5, 4, 70, 400]))
        kind = random.choice(["blood_pressure", "blood_pressure", "glucose", "weight", "pulse_oximetry", "temperature"])
        values: dict[str, float] = {
            "blood_pressure": {"systolic": float(random.integers(128, 190)), "diastolic": float(random.integers(75, 112)), "pulse": 72.0},
            "glucose": {"glucose": float(random.choice([3.2, 2.8, 6.0, 7.4, 18.0]))}, "weight": {"weight": float(random.integers(700, 740)) / 10},
            "pulse_oximetry": {"spo2": float(random.choice([86, 93, 97]))}, "temperature": {"temperature": float(random.choice([36.5, 39.4]))},
        }[str(kind)]  # fmt: skip
        flags = [flag for flag, share in (("irregular_pulse", 0.3), ("fasting", 0.5), ("body_movement", 0.1)) if random.random() < share]
        setting = str(random.choice(["home", "clinic"]))
        found.append({"kind": str(kind), "values": values, "flags": flags, "setting": setting, "ago": timedelta(minutes=max(0.0, ago))})
    return found


@pytest.mark.services
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_state_read_anew_in_every_transaction_and_after_a_restart_is_as_if_it_had_never_been_put_away(
    clinic: Clinic, seed: int
) -> None:
    given = stream(np.random.default_rng(seed), 120)
    base = datetime.now(UTC)
    logs = []
    for person, (_, _, _, cuff) in enumerate(settled.PEOPLE):
        resident = await clinic.resident(cuff)
        known = {"birth_date": "1950-01-01", "sex": "male", "hypertension": True, "diabetes": True, "heart_failure": True}
        await clinic.submit("facts", {"facts": known | {"chronic_lung_disease": False}}, resident)
        sent = [
            message(measurement(
                device=cuff, kind=one["kind"], values=one["values"], flags=one["flags"], setting=one["setting"], time_quality="estimated",
                measured_at=(base - one["ago"]).isoformat(), raw="",
            ))
            for one in given
        ]  # fmt: skip
        size = (1, 7, len(sent))[person]  # hydrated and put away after each; after seven; all in one
        for start in range(0, len(sent), size):
            await clinic.send(*sent[start : start + size])
            if person == 1 and start == 56:
                await clinic.worker.close()
                clinic.worker = (await Clinic(clinic.conninfo).open()).worker  # a process that knows nothing
        rows = await clinic.rows(
            "select a.family, l.state, l.severity, l.why, m.measured_at, l.explanation -> 'values' as values from alert_log l"
            " join alert a using (alert) left join measurement m using (measurement) where a.subject = %s"
            " order by m.measured_at, a.family, l.alert, l.n", resident,
        )  # fmt: skip
        logs.append([tuple(map(str, row.values())) for row in rows])
    assert len(logs[0]) > 40
    assert logs[1] == logs[0]
    assert logs[2] == logs[0]
