"""The power goes out, the disk fails: no accepted record is lost, no file is corrupt. `YIZHAN_POWER_CUTS=10000` for the long run."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
from pathlib import Path

import apsw
import pytest

from gateway.spool import LANE_NORMAL, LANE_PRIORITY, Item, Progress, Spool, Worth
from tests.gateway.crash_vfs import Disk, PowerCutError

CUTS = int(os.environ.get("YIZHAN_POWER_CUTS", "500"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut leaves an exception inside a callback of SQLite's; it is expected and printed nowhere."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


def life(spool: Spool, chance: random.Random, accepted: dict[int, bytes], settled: set[int], read: list[int]) -> None:
    """An ordinary life: single records, batches with a history mark, receipts. Notes only what was promised."""
    number = read[0]
    for _ in range(chance.randrange(5, 40)):
        choice = chance.random()
        if choice < 0.6:
            body = b'{"device":' + chance.randbytes(chance.randrange(50, 1500)).hex().encode()
            lane = chance.choice((LANE_PRIORITY, LANE_NORMAL))
            accepted[spool.append([Item(body, lane)])[0]] = body
        elif choice < 0.8:
            bodies = [f"h{number + n}".encode() for n in range(chance.randrange(1, 30))]
            number += len(bodies)
            numbers = spool.append([Item(body, LANE_NORMAL, Worth.SPOT) for body in bodies], Progress("meter", "1", number, "x"))
            read[0] = number
            accepted.update(zip(numbers, bodies, strict=True))
        elif accepted:
            first = chance.choice(sorted(accepted))
            last = first + chance.randrange(20)
            settled.update(n for n in accepted if first <= n <= last)  # the receipt came: they may be gone from here on
            spool.settle(spool.boot, [(first, last)])


def survivors(folder: Path) -> tuple[Spool, dict[int, bytes]]:
    spool = Spool(folder / "spool.db")  # raises if the file is corrupt
    return spool, {record.seq: record.body for record in spool.waiting(1_000_000)}


def test_power_cuts_lose_nothing_and_corrupt_nothing(tmp_path: Path) -> None:
    cut_in_life = 0
    for seed in range(CUTS):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        (folder / "before").mkdir(parents=True)
        disk = Disk(f"cut-{seed}", chance, cut_at=chance.randrange(1, 220))
        accepted: dict[int, bytes] = {}
        settled: set[int] = set()
        read = [0]
        with contextlib.suppress(PowerCutError, apsw.Error, AssertionError):
            spool = Spool(folder / "before" / "spool.db", connect=disk.connect)
            life(spool, chance, accepted, settled, read)
        cut_in_life += bool(accepted)
        after, found = survivors(disk.after_cut(folder / "after"))
        missing = {seq for seq in accepted if seq not in settled and found.get(seq) != accepted[seq]}
        assert not missing, f"seed {seed}: {len(missing)} accepted records lost"
        mark = after.history("meter", "1")
        assert (mark[0] if mark else 0) >= read[0], f"seed {seed}: records would be there, but not the mark of how far was read"
        history = {int(body[1:]) for body in found.values() if body.startswith(b"h")}
        gone = {int(accepted[seq][1:]) for seq in settled if accepted[seq].startswith(b"h")}
        assert set(range(mark[0] if mark else 0)) <= history | gone | {int(b[1:]) for b in accepted.values() if b.startswith(b"h")}
        after.close()
        disk.unregister()
    assert cut_in_life > CUTS // 2, "most cuts must fall into a life that had promised something"
    gc.collect()


def test_the_failure_of_any_system_call_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    number, reached = 0, True
    while reached:
        number += 1
        chance = random.Random(7)
        folder = tmp_path / str(number)
        folder.mkdir()
        disk = Disk(f"fail-{number}", chance, fail_at=number)
        accepted: dict[int, bytes] = {}
        settled: set[int] = set()
        failed = False
        try:
            spool = Spool(folder / "spool.db", connect=disk.connect)
            life(spool, chance, accepted, settled, [0])
        except (apsw.Error, AssertionError):
            failed = True  # the process would die here and open the file again
        reached = disk.calls >= number
        del disk
        if failed:
            spool = None  # type: ignore[assignment]
            gc.collect()
        after, found = survivors(folder)
        missing = {seq for seq in accepted if seq not in settled and found.get(seq) != accepted[seq]}
        assert not missing, f"call {number}: {len(missing)} accepted records lost"
        after.close()
    assert number > 50, "a life has more system calls than that"


def test_the_disk_is_hard_enough_without_syncs_it_loses_records(tmp_path: Path) -> None:
    """The test of the test: the same cuts on a spool that does not wait for the disk."""

    class Careless:
        def __init__(self, real: apsw.Connection) -> None:
            self._real = real

        def execute(self, statement: str, values: tuple[object, ...] = ()) -> object:
            return self._real.execute(statement.replace("synchronous = full", "synchronous = off"), values)

    lost = 0
    for seed in range(60):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        (folder / "before").mkdir(parents=True)
        disk = Disk(f"careless-{seed}", chance, cut_at=chance.randrange(60, 220))
        accepted: dict[int, bytes] = {}
        settled: set[int] = set()
        with contextlib.suppress(PowerCutError, apsw.Error, AssertionError):
            life(
                Spool(folder / "before" / "spool.db", connect=lambda path, d=disk: Careless(d.connect(path))),
                chance,
                accepted,
                settled,
                [0],
            )
        try:
            _, found = survivors(disk.after_cut(folder / "after"))
        except Exception:
            lost += 1
            continue
        lost += any(seq not in settled and seq not in found for seq in accepted)
    assert lost > 20
