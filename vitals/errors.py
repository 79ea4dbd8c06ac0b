"""What may go wrong, sorted by what the caller may do about it.

YizhanError
├── BadInput      never retry: the input itself is wrong; `reason` is a stable code
│   └── DecodeError   bytes that are not what they claim to be
├── Refused       the caller's doing: not allowed, or not in this state
├── Unavailable   retry later; nothing was lost
└── ConfigError   exit; carries every problem at once
"""

from __future__ import annotations

from collections.abc import Sequence


class YizhanError(Exception):
    """Root of every error raised on purpose in this project."""


class BadInput(YizhanError):
    """The input is wrong and will stay wrong.

    `reason` is a stable snake_case code that people and programs match on; `detail` explains it without
    echoing values that could identify a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DecodeError(BadInput):
    """Bytes that cannot be decoded; the only exception a decoder may raise, for any input."""


class Refused(YizhanError):
    """The caller may not do this, or not now; `reason` is a stable code."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unavailable(YizhanError):
    """Something needed is away; retry, nothing was lost."""


class ConfigError(YizhanError):
    """The process must not start; `problems` lists everything that is wrong, not only the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
