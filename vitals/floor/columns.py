"""numpy columns ↔ PostgreSQL, in the binary format: arrays as query parameters, and rows for COPY.

psycopg dumps a list element by element in Python; a numpy array of integers, floats or times goes in one piece
(`_dump_list` led the worker's profile). Times are int64 µs since 1970, PostgreSQL counts from 2000.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from psycopg import postgres
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SINCE_2000 = 946_684_800_000_000
_MICROSECOND = timedelta(microseconds=1)
_ELEMENTS = {"i8": (20, ">i8"), "f8": (701, ">f8"), "M8": (1184, ">i8")}  # numpy kind and size → oid, element on the wire


def micros(moment: datetime) -> int:
    """Aware time → µs since the epoch."""
    return (moment - EPOCH) // _MICROSECOND


def times(values: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
    """µs since the epoch → an array that is sent as timestamptz[]."""
    return np.asarray(values, np.int64).view("M8[us]")


class _ArrayDumper(Dumper):
    """A one-dimensional numpy array as a PostgreSQL array."""

    format = Format.BINARY

    def dump(self, obj: NDArray[Any]) -> bytes:
        oid, element = _ELEMENTS[obj.dtype.str[1:3]]
        rows = np.empty(len(obj), [("size", ">i4"), ("value", element)])
        rows["size"] = 8
        rows["value"] = obj.view(np.int64) - _SINCE_2000 if oid == 1184 else obj
        if not len(obj):
            return struct.pack(">iiI", 0, 0, oid)
        return struct.pack(">iiIii", 1, 0, oid, len(obj), 1) + rows.tobytes()


class _Bigints(_ArrayDumper):
    oid = postgres.types["int8"].array_oid


class _Floats(_ArrayDumper):
    oid = postgres.types["float8"].array_oid


class _Times(_ArrayDumper):
    oid = postgres.types["timestamptz"].array_oid


class _AnyArray(Dumper):
    """Chooses by the array's dtype."""

    format = Format.BINARY
    _BY_KIND: ClassVar[dict[str, type[Dumper]]] = {"i8": _Bigints, "f8": _Floats, "M8": _Times}

    def get_key(self, obj: NDArray[Any], format: Any) -> Any:  # noqa: A002  psycopg's name
        return (np.ndarray, obj.dtype.str[1:3])

    def upgrade(self, obj: NDArray[Any], format: Any) -> Dumper:  # noqa: A002
        return self._BY_KIND[obj.dtype.str[1:3]](np.ndarray)

    def dump(self, obj: NDArray[Any]) -> bytes:
        return self.upgrade(obj, None).dump(obj)  # type: ignore[return-value]


def register(adapters: AdaptersMap) -> None:
    """Let connections with these adapters send numpy arrays of int64, float64 and datetime64[us]."""
    adapters.register_dumper(np.ndarray, _AnyArray)


# rows of a binary COPY

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_END = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
_SIZE = struct.Struct(">i")


def field(data: bytes) -> bytes:
    """A value's bytes with their length before them."""
    return _SIZE.pack(len(data)) + data


def text(value: str | None) -> bytes:
    return NULL if value is None else field(value.encode())


def when(moment: datetime | None) -> bytes:
    return NULL if moment is None else b"\0\0\0\x08" + ((moment - EPOCH) // _MICROSECOND - _SINCE_2000).to_bytes(8, "big", signed=True)


def texts(values: Sequence[str]) -> bytes:
    """text[]; NULL for none."""
    if not values:
        return NULL
    return field(struct.pack(">iiIii", 1, 0, 25, len(values), 1) + b"".join(field(value.encode()) for value in values))


def smallints(values: Sequence[int]) -> bytes:
    """smallint[]"""
    if not values:
        return field(struct.pack(">iiI", 0, 0, 21))
    return field(struct.pack(">iiIii", 1, 0, 21, len(values), 1) + b"".join(struct.pack(">ih", 2, value) for value in values))


_FLOATS = [struct.Struct(">iiIii" + "id" * n) for n in range(32)]


def floats(values: Sequence[float]) -> bytes:
    """float8[]"""
    if not values:
        return field(struct.pack(">iiI", 0, 0, 701))
    shape = _FLOATS[len(values)] if len(values) < len(_FLOATS) else struct.Struct(">iiIii" + "id" * len(values))
    return field(shape.pack(1, 0, 701, len(values), 1, *(part for value in values for part in (8, value))))


def array(values: Sequence[float], element: str, oid: int) -> bytes:
    """An array of 4-byte elements, such as int[] (">i4", 23) or real[] (">f4", 700)."""
    rows = np.empty(len(values), [("size", ">i4"), ("value", element)])
    rows["size"] = 4
    rows["value"] = values
    return field(struct.pack(">iiIii", 1, 0, oid, len(values), 1) + rows.tobytes())


def jsonb(data: bytes | None) -> bytes:
    return NULL if data is None else field(b"\x01" + data)
