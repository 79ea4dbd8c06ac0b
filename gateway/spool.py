"""The spool: from here a measurement survives a power cut.

SQLite in WAL mode with `synchronous=FULL`: when `append` returns, the record is on disk. A record leaves only
through `settle`, which a receipt of the backend calls. Any I/O error is for the process to die of: reopening runs
SQLite's recovery, while guessing could lose what was promised.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vitals.wire import Refusal

LANE_PRIORITY, LANE_NORMAL = 0, 1
_SCHEMA = """
create table if not exists outgoing (
    seq integer primary key autoincrement,   -- never reused, not even after deletion
    boot text not null,
    lane integer not null,
    body blob not null,
    spooled_at real not null
);
create index if not exists outgoing_lane on outgoing (lane, seq);
create table if not exists refused (boot text, seq integer, reason text, body blob, primary key (boot, seq));
create table if not exists refused_frame (at real, device text, reason text, frame blob);
"""


class Record(NamedTuple):
    """One message waiting for its receipt: `body` is an encoded measurement."""

    boot: str
    seq: int
    lane: int
    body: bytes


class Spool:
    """The file. `boot` is new at every opening, so a receipt can never meet another life's numbers."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.boot = secrets.token_hex(8)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")
        self._database.execute("pragma secure_delete = on")
        verdict = self._database.execute("pragma quick_check").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"spool is damaged: {verdict}")
        self._database.executescript(_SCHEMA)

    def append(self, body: bytes, lane: int) -> int:
        """Make a measurement durable; returns its seq once it is on disk."""
        row = self._database.execute(
            "insert into outgoing (boot, lane, body, spooled_at) values (?, ?, ?, ?)", (self.boot, lane, body, time.time())
        )
        assert row.lastrowid is not None
        return row.lastrowid

    def waiting(self, limit: int) -> list[Record]:
        """The first `limit` records without a receipt: priority lane first, oldest first."""
        rows = self._database.execute("select boot, seq, lane, body from outgoing order by lane, seq limit ?", (limit,))
        return [Record(*row) for row in rows]

    def settle(self, boot: str, stored: Iterable[tuple[int, int]], refused: Iterable[Refusal] = ()) -> int:
        """Delete what the backend has; keeps a note of what it refused (it holds the bytes). Returns how many left."""
        self._database.execute("begin immediate")
        gone = 0
        for refusal in refused:
            self._database.execute(
                "insert or ignore into refused select boot, seq, ?, body from outgoing where boot = ? and seq = ?",
                (refusal.reason, boot, refusal.seq),
            )
            gone += self._database.execute("delete from outgoing where boot = ? and seq = ?", (boot, refusal.seq)).rowcount
        for first, last in stored:
            gone += self._database.execute("delete from outgoing where boot = ? and seq between ? and ?", (boot, first, last)).rowcount
        self._database.execute("commit")
        return gone

    def refuse_frame(self, device: str, reason: str, frame: bytes) -> None:
        """Keep a frame that could not be decoded, with its reason: quarantine at the edge."""
        self._database.execute("insert into refused_frame values (?, ?, ?, ?)", (time.time(), device, reason, frame))

    def depth(self) -> int:
        """How many records have no receipt."""
        return int(self._database.execute("select count(*) from outgoing").fetchone()[0])

    def close(self) -> None:
        self._database.close()
