"""A file system whose power can be cut: SQLite writes through it, and what was not synced survives by chance, torn at sectors.

Writes go to real files at once, as they do into a page cache. Beside them an image is kept of what a disk would hold
after the cut: everything synced, and of what was written since the last sync a random part. `Disk.after_cut` lays that
image into a fresh folder. `fail_at` makes the n-th write, sync or truncation fail instead.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


class PowerCutError(Exception):
    """The lights went out in the middle of a system call."""


class Disk(apsw.VFS):
    """One disk with one name; connect a spool with `disk.connect`."""

    def __init__(self, name: str, chance: random.Random, cut_at: int | None = None, fail_at: int | None = None) -> None:
        self.name, self._chance, self._cut_at, self._fail_at = name, chance, cut_at, fail_at
        self.calls = 0
        self.durable: dict[str, bytearray] = {}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {}
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: N802
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.durable.pop(filename, None)
        self.pending.pop(filename, None)
        super().xDelete(filename, syncdir)

    def connect(self, path: str) -> apsw.Connection:
        """Open a database file through this disk; small checkpoints, so that cuts fall into them too."""
        connection = apsw.Connection(path, vfs=self.name)
        connection.execute("pragma wal_autocheckpoint = 20").fetchall()
        return connection

    def note(self, path: str, offset: int, data: bytes | None) -> None:
        """One system call: a write, or a truncation (None)."""
        self._count()
        self.pending.setdefault(path, []).append((offset, data))

    def sync(self, path: str) -> None:
        self._count()
        image = self.durable.setdefault(path, bytearray())
        for offset, data in self.pending.pop(path, []):
            _apply(image, offset, data)

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self._cut_at:
            raise PowerCutError
        if self.calls == self._fail_at:
            raise apsw.IOError("disk full, cable loose, card worn out")

    def after_cut(self, folder: Path) -> Path:
        """What a disk holds after the power went: files below `folder`; returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in {*self.durable, *self.pending}:
            image = bytearray(self.durable.get(path, b""))
            for offset, data in self.pending.get(path, []):
                if data is None:
                    if self._chance.random() < 0.5:
                        _apply(image, offset, None)
                    continue
                for at in range(0, len(data), SECTOR):
                    if self._chance.random() < 0.5:
                        _apply(image, offset + at, data[at : at + SECTOR])
            (folder / Path(path).name).write_bytes(image)
        return folder


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        image.extend(bytes(max(0, offset - len(image))))
        return
    image.extend(bytes(max(0, offset + len(data) - len(image))))
    image[offset : offset + len(data)] = data


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: Any) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.note(self._path, offset, bytes(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync(self._path)  # the real sync would only take time: the image is what counts

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.note(self._path, newsize, None)
        super().xTruncate(newsize)
