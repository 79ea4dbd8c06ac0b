"""The spool and the uplink's bookkeeping."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.spool import LANE_NORMAL, LANE_PRIORITY, Item, Progress, Record, Spool, Worth
from gateway.uplink import RESERVE, WINDOW, Outstanding
from vitals import wire
from vitals.wire import Refusal


def test_it_is_wal_and_full(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    assert spool._database.execute("pragma journal_mode").fetchone() == ("wal",)
    assert spool._database.execute("pragma synchronous").fetchone() == (2,)


def test_only_a_receipt_empties_it_and_only_of_its_own_life(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    numbers = [spool.append([Item(f"m{n}".encode(), LANE_NORMAL)])[0] for n in range(10)]
    assert spool.settle("another-boot", [(1, 100)]) == 0
    assert spool.settle(spool.boot, [(numbers[0], numbers[3]), (numbers[7], numbers[7])]) == 5
    assert spool.settle(spool.boot, [(numbers[0], numbers[3])]) == 0
    assert [record.seq for record in spool.waiting(100)] == [*numbers[4:7], *numbers[8:]]
    assert spool.settle(spool.boot, [], [Refusal(numbers[4], "unknown_device")]) == 1
    assert spool.depth() == 4


def test_numbers_are_never_used_again_and_a_new_life_has_a_new_name(tmp_path: Path) -> None:
    first = Spool(tmp_path / "spool.db")
    last = first.append([Item(b"x", LANE_NORMAL)])[0]
    first.settle(first.boot, [(last, last)])
    first.close()
    second = Spool(tmp_path / "spool.db")
    assert second.boot != first.boot
    assert second.append([Item(b"y", LANE_NORMAL)])[0] > last


def test_danger_goes_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    for _ in range(5):
        spool.append([Item(b"backlog", LANE_NORMAL)])[0]
    danger = spool.append([Item(b"danger", LANE_PRIORITY)])[0]
    assert spool.waiting(1)[0].seq == danger


def test_a_damaged_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path)
    for n in range(200):
        spool.append([Item(bytes(200) + str(n).encode(), LANE_NORMAL)])[0]
    spool._database.execute("pragma wal_checkpoint(truncate)")
    spool.close()
    data = bytearray(path.read_bytes())
    data[8192:20000] = random.Random(1).randbytes(20000 - 8192)
    path.write_bytes(data)
    with pytest.raises(sqlite3.DatabaseError):
        Spool(path)


def test_what_was_said_to_be_durable_survives_kill_nine(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom gateway.spool import Item, Spool\ns = Spool(Path(sys.argv[1]))\n"
        "while True:\n    print(s.append([Item(b'x' * 300, 1)])[0], flush=True)\n"
    )
    promised = 0
    for round_ in range(5):
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "spool.db")], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05 + 0.03 * round_)
        os.kill(child.pid, signal.SIGKILL)
        said = child.stdout.read().split()
        child.stdout.close()
        child.wait()
        promised = int(said[-1]) if said else promised
        spool = Spool(tmp_path / "spool.db")
        assert spool.depth() >= promised
        spool.close()


def record(seq: int, lane: int = LANE_NORMAL) -> Record:
    return Record("b", seq, lane, b"")


def test_a_message_without_receipt_goes_again_at_growing_intervals() -> None:
    outstanding = Outstanding(5.0)
    one = [record(1)]
    times = []
    now = 0.0
    for _ in range(6):
        due = outstanding.next_due()
        now = now if due is None else due
        assert outstanding.select(one, now) == one
        outstanding.sent(one[0], now)
        assert outstanding.select(one, now + 4.9) == []
        times.append(now)
    assert [b - a for a, b in itertools.pairwise(times)] == [5, 10, 20, 40, 60]


def test_a_reconnection_makes_everything_due_and_a_receipt_nothing() -> None:
    outstanding = Outstanding(5.0)
    for n in (1, 2, 3):
        outstanding.sent(record(n), 0.0)
    outstanding.settled("b", 2, 2)
    outstanding.all_due()
    assert [r.seq for r in outstanding.select([record(1), record(3)], 0.1)] == [1, 3]


@given(st.integers(0, 600), st.integers(0, 100))
def test_the_window_is_bounded_and_keeps_room_for_danger(backlog: int, danger: int) -> None:
    outstanding = Outstanding(5.0)
    for one in outstanding.select([record(n) for n in range(backlog)], 0.0):
        outstanding.sent(one, 0.0)
    assert len(outstanding) == min(backlog, WINDOW)
    urgent = outstanding.select([record(1000 + n, LANE_PRIORITY) for n in range(danger)], 0.0)
    assert len(urgent) == min(danger, WINDOW + RESERVE - min(backlog, WINDOW))


def sized(kind: str, size: int = 1000) -> bytes:
    return (f'{{"device":"{kind}",' + "x" * size).encode()


def test_a_full_spool_gives_up_the_least_worth_first_and_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", limit=1 << 20)
    numbers = {worth: spool.append([Item(sized(worth.name), LANE_NORMAL, worth) for _ in range(250)]) for worth in Worth}
    assert spool.size() < 1 << 20, "a thousand records of a kilobyte just fit"
    spool.append([Item(sized("SPOT"), LANE_NORMAL, Worth.SPOT) for _ in range(300)])
    left = Counter(record.body[11:20].split(b'"')[0].decode() for record in spool.waiting(10_000) if b'"boot"' not in record.body)
    assert left["WAVEFORM"] == 0
    assert 0 < left["TREND"] < 250
    assert (left["SPOT"], left["DANGER"]) == (550, 250)
    assert spool.size() <= 1 << 20
    gaps = [json.loads(record.body) for record in spool.waiting(10_000) if record.body.startswith(b'{"boot"')]
    told = [n for gap in gaps for first, last in gap["lost"] for n in range(first, last + 1)]
    kept = {record.seq for record in spool.waiting(10_000)}
    assert sorted(told) == sorted(n for row in numbers.values() for n in row if n not in kept), "every record dropped is in a gap, no other"
    assert {gap["worth"] for gap in gaps} == {"waveform", "trend"}


def test_danger_and_gaps_are_never_given_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", limit=1 << 16)
    for _ in range(200):
        spool.append([Item(sized("danger"), LANE_PRIORITY, Worth.DANGER)])
    spool.append([Item(sized("spot"), LANE_NORMAL, Worth.SPOT)])
    bodies = [record.body for record in spool.waiting(1000)]
    assert sum(b"danger" in body for body in bodies) == 200
    assert not any(b'"spot"' in body and b'"boot"' not in body for body in bodies)
    spool.append([Item(sized("spot"), LANE_NORMAL, Worth.SPOT)])
    gaps = [record.body for record in spool.waiting(1000) if record.body.startswith(b'{"boot"')]
    assert len(gaps) == 2


def test_three_days_without_a_network_fit(tmp_path: Path) -> None:
    """One measurement a second for 72 hours, at the size of a real one, within the default limit."""
    body = json.dumps({"device": "cuff-0007", "x": "y" * 520}).encode()
    spool = Spool(tmp_path / "spool.db")
    for _ in range(72 * 60):
        spool.append([Item(body, LANE_NORMAL)] * 60)
    assert spool.depth() == 72 * 3600
    assert not any(record.body.startswith(b'{"boot"') for record in spool.waiting(10))
    danger = spool.append([Item(b'{"device":"danger"}', LANE_PRIORITY, Worth.DANGER)])[0]
    assert spool.waiting(1)[0].seq == danger


def test_a_replayed_history_is_spooled_once_and_a_mark_survives(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    items = [Item(f"m{n}".encode(), LANE_NORMAL, Worth.SPOT, ("cuff", f"1:{n}")) for n in range(5)]
    assert all(spool.append(items))
    assert spool.append([*items, items[0]._replace(body=b"new", digest=("cuff", "1:9"))])[:5] == [0] * 5
    spool.append([], Progress("meter", "1", 42, "ff"))
    spool.note_clock("cuff", -600.0)
    spool.close()
    again = Spool(tmp_path / "spool.db")
    assert again.depth() == 6
    assert (again.history("meter", "1"), again.history("meter", "2"), again.clock_offset("cuff")) == ((42, "ff"), None, -600.0)
    again.forget("cuff")
    assert again.clock_offset("cuff") is None
    assert again.append([items[0]])[0], "a device that was unpaired begins anew"


def test_a_life_is_numbered_so_that_a_copy_shows(tmp_path: Path) -> None:
    first = Spool(tmp_path / "a" / "spool.db")
    first.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    boots = [Spool(tmp_path / box / "spool.db").boot for box in ("a", "b")]
    assert [wire.generation_of(boot) for boot in boots] == [2, 2]
    assert boots[0] != boots[1]


def test_a_spool_of_the_first_version_is_opened(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "spool.db", isolation_level=None)
    old.execute(
        "create table outgoing (seq integer primary key autoincrement, boot text not null, lane integer not null, body blob not null, spooled_at real not null)"
    )
    old.execute("insert into outgoing (boot, lane, body, spooled_at) values ('b', 1, 'x', 0)")
    old.close()
    assert Spool(tmp_path / "spool.db").waiting(10) == [Record("b", 1, LANE_NORMAL, "x", "1970-01-01")]  # type: ignore[arg-type]
