"""What one transaction brings about the people in it, in the order in which the rules hear it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.batch import Batch
from rules.state import Kind


@dataclass(frozen=True)
class Stream:
    """The events of one transaction, in order: endings, reported symptoms, plans, measurements, due timers, days that are over.

    kinds, subject (n,): what each event is and whose (place in `subjects`). first: where measurements begin. days: where days begin.
    """

    subjects: list[str]
    kinds: NDArray[np.uint8]
    subject: NDArray[np.int64]
    first: int
    rows: int
    days: int

    @classmethod
    def of(cls, batch: Batch, urgent: Sequence[str]) -> Stream:
        """urgent: who reported a danger symptom."""
        planned = [e.subject for e in batch.events if e.kind == "facts" and e.subject is not None]
        asked = [e.subject for e in batch.events if e.kind == "symptoms" and e.subject is not None]
        parts = (
            (Kind.END, [subject for subject, _ in batch.ended]), (Kind.URGENT, list(urgent)), (Kind.PLAN, planned),
            (Kind.MEASUREMENT, [row.subject for row in batch.measurements]), (Kind.TICK, batch.ticked), (Kind.PLAN, batch.over),
        )  # fmt: skip
        names = sorted({name for _, part in parts for name in part} | set(asked))
        place = {name: number for number, name in enumerate(names)}
        kinds = np.concatenate([np.full(len(part), kind, np.uint8) for kind, part in parts])
        first = sum(len(part) for _, part in parts[:3])
        rows = len(batch.measurements)
        subject = np.array([place[name] for _, part in parts for name in part], np.int64)
        return cls(names, kinds, subject, first, rows, first + rows + len(batch.ticked))

    @property
    def measured(self) -> slice:
        return slice(self.first, self.first + self.rows)

    def names(self, at: NDArray[np.int64] | list[int] | slice) -> list[str]:
        return [self.subjects[number] for number in self.subject[at]]


def resident_of(subject: str) -> str | None:
    return None if subject.startswith("device:") else subject
