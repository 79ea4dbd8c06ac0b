"""What the radio's side needs of the spool's side."""

from __future__ import annotations

from typing import Protocol

from gateway.devices import Device
from gateway.translate import Frame


class Store(Protocol):
    """What a session needs of the spool; all of it is durable when it returns."""

    def frames(self, device: Device, frames: list[Frame], progress: tuple[str, int, str] | None) -> None: ...

    def refuse(self, device: Device, frame: Frame, reason: str) -> None: ...

    def history(self, device: str, series: str) -> tuple[int, str] | None: ...

    def clock_offset(self, device: str) -> float | None: ...

    def note_clock(self, device: str, offset: float) -> None: ...
