"""The spool: from here a measurement survives a power cut.

SQLite in WAL mode with `synchronous=FULL`: when `append` returns, the records are on disk, together with what the
gateway must remember of the device they came from (so that a history is asked for from where it was left). A record
leaves only through `settle`, which a receipt of the backend calls, or, when the file is full, by a fixed order of
sacrifice that leaves a gap record behind. Any I/O error is for the process to die of: reopening runs SQLite's
recovery, while guessing could lose what was promised.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from vitals import wire
from vitals.wire import Gap, Refusal, Tally

LANE_PRIORITY, LANE_NORMAL = 0, 1
DEFAULT_LIMIT = 1 << 30  # bytes of records
REMEMBERED = 2000  # digests of one device's replayed history


class Worth(IntEnum):
    """The order of sacrifice, least first. DANGER (a value in its metric's priority band, or a gap) is never dropped."""

    WAVEFORM = 0
    TREND = 1
    SPOT = 2
    DANGER = 3


_SCHEMA = """
create table if not exists outgoing (
    seq integer primary key autoincrement,   -- never reused, not even after deletion
    boot text not null,
    lane integer not null,
    worth integer not null,
    body blob not null,
    spooled_at real not null
);
create index if not exists outgoing_lane on outgoing (lane, seq);
create index if not exists outgoing_worth on outgoing (worth, seq);
create table if not exists refused (boot text, seq integer, reason text, body blob, primary key (boot, seq));
create table if not exists refused_frame (at real, device text, reason text, frame blob);
create table if not exists life (generation integer primary key, boot text not null, began_at real not null);
-- how far a device's history was read: the highest number, and what that record was
create table if not exists history (device text, series text, high integer not null, digest text not null, primary key (device, series));
create table if not exists heard (device text, digest text, primary key (device, digest));
-- what each day (UTC) of each life took in, for the backend to compare its own books with
create table if not exists tally (
    boot text, day text, first integer, last integer, messages integer, digest integer, told integer default 0, primary key (boot, day)
);
create table if not exists clock (device text primary key, offset_seconds real not null);
"""


class Record(NamedTuple):
    """One message waiting for its receipt: `body` is an encoded measurement or an encoded gap."""

    boot: str
    seq: int
    lane: int
    body: bytes
    day: str = ""


class Item(NamedTuple):
    """One measurement to be made durable. digest: set where the device replays its history, to keep it once."""

    body: bytes
    lane: int
    worth: Worth = Worth.SPOT
    digest: tuple[str, str] | None = None


class Progress(NamedTuple):
    """How far a device's numbered history was read."""

    device: str
    series: str
    high: int
    digest: str


def _today() -> str:
    return datetime.fromtimestamp(time.time(), UTC).date().isoformat()


class Spool:
    """The file. `boot` is new at every opening, so a receipt can never meet another life's numbers.

    It begins with the opening's number: two lives with the same number mean that the disk was copied or set back,
    which the backend sees. limit: bytes of records; connect: how to open the file (the tests cut its power).
    """

    def __init__(self, path: Path, limit: int = DEFAULT_LIMIT, connect: Callable[[str], Any] | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._limit = limit
        self._database = connect(str(path)) if connect else sqlite3.connect(path, isolation_level=None)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")
        self._database.execute("pragma secure_delete = on")
        verdict = self._database.execute("pragma quick_check").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"spool is damaged: {verdict}")
        self._within(self._open)
        self._size = int(self._database.execute("select coalesce(sum(length(body)), 0) from outgoing").fetchone()[0])

    def _open(self) -> None:
        columns = [row[1] for row in self._database.execute("pragma table_info(outgoing)")]
        if columns and "worth" not in columns:  # a file of version 0.1
            self._database.execute("alter table outgoing add column worth integer not null default 2")
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                self._database.execute(statement)
        generation = int(self._database.execute("select coalesce(max(generation), 0) + 1 from life").fetchone()[0])
        self.boot = wire.boot_name(generation, secrets.token_hex(8))
        self._database.execute("insert into life values (?, ?, ?)", (generation, self.boot, time.time()))
        self._database.execute("delete from life where generation < ?", (generation - 100,))

    def _within(self, work: Callable[[], Any]) -> Any:
        """`work` in one transaction; nothing of it stays if it raises."""
        self._database.execute("begin immediate")
        try:
            result = work()
            self._database.execute("commit")
        except BaseException:
            with contextlib.suppress(Exception):  # the first failure is the one to die of
                self._database.execute("rollback")
            raise
        return result

    def append(self, items: Sequence[Item], progress: Progress | None = None) -> list[int]:
        """Make measurements durable together; returns their numbers once they are on disk (0 for one heard before)."""
        before = self._size
        try:
            numbers: list[int] = self._within(lambda: self._append(items, progress))
        except BaseException:
            self._size = before
            raise
        return numbers

    def _append(self, items: Sequence[Item], progress: Progress | None) -> list[int]:
        numbers = []
        for item in items:
            if item.digest is not None and not self._note(item.digest):
                numbers.append(0)
                continue
            numbers.append(self._insert(item.body, item.lane, item.worth))
        if progress is not None:
            self._database.execute("insert or replace into history values (?, ?, ?, ?)", progress)
        if self._size > self._limit:
            self._sacrifice()
        return numbers

    def _insert(self, body: bytes, lane: int, worth: Worth) -> int:
        row = self._database.execute(
            "insert into outgoing (boot, lane, worth, body, spooled_at) values (?, ?, ?, ?, ?) returning seq",
            (self.boot, lane, int(worth), body, time.time()),
        ).fetchone()
        self._size += len(body)
        seq = int(row[0])
        self._database.execute(
            "insert into tally (boot, day, first, last, messages, digest) values (?, ?, ?, ?, 1, ?) on conflict (boot, day) do update"
            " set last = excluded.last, messages = messages + 1, digest = (digest + excluded.digest) % (1 << 48)",
            (self.boot, _today(), seq, seq, wire.digest_of(seq, body)),
        )
        return seq

    def tell_days(self) -> int:
        """Put what is known of days that are over among the messages, once; returns how many."""
        return int(self._within(self._tell_days))

    def _tell_days(self) -> int:
        over = "select boot, day, first, last, messages, digest from tally where told = 0 and (day < ? or boot <> ?)"
        rows = self._database.execute(over, (_today(), self.boot)).fetchall()
        for boot, day, first, last, messages, digest in rows:
            self._insert(wire.encode_tally(Tally(day, boot, first, last, messages, digest)), LANE_NORMAL, Worth.DANGER)
            self._database.execute("update tally set told = 1 where boot = ? and day = ?", (boot, day))
        self._database.execute("delete from tally where told = 1 and day < date(?, '-60 days')", (_today(),))
        return len(rows)

    def _note(self, digest: tuple[str, str]) -> bool:
        """False if this record of a replayed history was spooled before."""
        if self._database.execute("select 1 from heard where device = ? and digest = ?", digest).fetchone() is not None:
            return False
        self._database.execute("insert into heard values (?, ?)", digest)
        device = digest[0]
        oldest = "select rowid from heard where device = ? order by rowid desc limit 1 offset ?"
        limit = self._database.execute(oldest, (device, REMEMBERED)).fetchone()
        if limit is not None:
            self._database.execute("delete from heard where device = ? and rowid <= ?", (device, limit[0]))
        return True

    def _sacrifice(self) -> None:
        """Drop the least worth, oldest first, to a little below the limit; tell each run of them in a gap record."""
        target = self._limit - self._limit // 50
        for worth in (Worth.WAVEFORM, Worth.TREND, Worth.SPOT):
            if self._size <= target:
                return
            rows = self._database.execute("select boot, seq, length(body) from outgoing where worth = ? order by seq", (int(worth),))
            chosen: list[tuple[str, int, int]] = []
            excess = self._size - target
            for row in rows:
                chosen.append(row)
                excess -= row[2]
                if excess <= 0:
                    break
            if not chosen:
                continue
            for boot in dict.fromkeys(row[0] for row in chosen):
                lost = [row[1] for row in chosen if row[0] == boot]
                gap = Gap(boot, tuple(wire.ranges(lost)), "spool_full", worth.name.lower())
                self._insert(wire.encode_gap(gap), LANE_PRIORITY, Worth.DANGER)
            last = chosen[-1][1]
            self._database.execute("delete from outgoing where worth = ? and seq <= ?", (int(worth), last))
            self._size -= sum(row[2] for row in chosen)

    def waiting(self, limit: int) -> list[Record]:
        """The first `limit` records without a receipt: priority lane first, oldest first."""
        query = "select boot, seq, lane, body, date(spooled_at, 'unixepoch') from outgoing order by lane, seq limit ?"
        return [Record(*row) for row in self._database.execute(query, (limit,))]

    def settle(self, boot: str, stored: Iterable[tuple[int, int]], refused: Iterable[Refusal] = ()) -> int:
        """Delete what the backend has; keeps a note of what it refused (it holds the bytes). Returns how many left."""
        return int(self._within(lambda: self._settle(boot, stored, refused)))

    def _settle(self, boot: str, stored: Iterable[tuple[int, int]], refused: Iterable[Refusal]) -> int:
        gone = 0
        for refusal in refused:
            self._database.execute(
                "insert or ignore into refused select boot, seq, ?, body from outgoing where boot = ? and seq = ?",
                (refusal.reason, boot, refusal.seq),
            )
            gone += self._delete(boot, refusal.seq, refusal.seq)
        for first, last in stored:
            gone += self._delete(boot, first, last)
        return gone

    def _delete(self, boot: str, first: int, last: int) -> int:
        rows = self._database.execute(
            "delete from outgoing where boot = ? and seq between ? and ? returning length(body)", (boot, first, last)
        )
        sizes = [row[0] for row in rows]
        self._size -= sum(sizes)
        return len(sizes)

    def refuse_frame(self, device: str, reason: str, frame: bytes) -> None:
        """Keep a frame that could not be decoded, with its reason: quarantine at the edge, bounded."""
        self._database.execute("insert into refused_frame values (?, ?, ?, ?)", (time.time(), device, reason, frame))
        self._database.execute("delete from refused_frame where rowid <= (select max(rowid) from refused_frame) - 10000")

    def history(self, device: str, series: str) -> tuple[int, str] | None:
        """(highest number read, digest of that record), or None if this history was never read."""
        row = self._database.execute("select high, digest from history where device = ? and series = ?", (device, series)).fetchone()
        return None if row is None else (int(row[0]), str(row[1]))

    def clock_offset(self, device: str) -> float | None:
        """Seconds that this device's clock was ahead of local time when we met it last."""
        row = self._database.execute("select offset_seconds from clock where device = ?", (device,)).fetchone()
        return None if row is None else float(row[0])

    def note_clock(self, device: str, offset: float) -> None:
        self._database.execute("insert or replace into clock values (?, ?)", (device, offset))

    def forget(self, device: str) -> None:
        """Unpaired: what was remembered of it; what it measured stays until its receipt."""
        for table in ("history", "heard", "clock"):
            self._database.execute(f"delete from {table} where device = ?", (device,))  # noqa: S608  three fixed names

    def depth(self) -> int:
        """How many records have no receipt."""
        return int(self._database.execute("select count(*) from outgoing").fetchone()[0])

    def size(self) -> int:
        """Bytes of records without a receipt."""
        return self._size

    def close(self) -> None:
        self._database.close()
