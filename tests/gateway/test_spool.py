"""The spool and the uplink's bookkeeping."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.spool import LANE_NORMAL, LANE_PRIORITY, Item, Record, Spool
from gateway.uplink import RESERVE, WINDOW, Outstanding
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
