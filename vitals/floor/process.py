"""How a process of ours runs: JSON log lines, one event that means stop, an exit code that means something.

Log messages are constants with fields; no field carries a name, an identity number, a token or a payload.
Exit codes: 0 stopped on request, 1 failed, 2 wrong input or configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from vitals.errors import ConfigError

GRACE = 5.0  # s for what is left when a process stops
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """One JSON object per line: ts (UTC, µs), level, logger, message and the fields passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_to_stderr(level: str) -> None:
    """Configure the root logger; libraries speak only from warning up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for room in ("vitals", "gateway", "ingest", "rules", "care", "api", "firmware_sim", "yizhan"):
        logging.getLogger(room).setLevel(level.upper())
    # bumble reports every pairing and missing key at warning level; that is the devices' story, not ours
    logging.getLogger("bumble").setLevel(logging.ERROR)


def run(main: Callable[[asyncio.Event], Awaitable[None]], level: str = "info") -> int:
    """Run `main(stop)` until it returns; SIGTERM and SIGINT set `stop`. Returns the exit code."""
    log_to_stderr(level)

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(signum, stop.set)
        try:
            await main(stop)
        finally:
            await _end_what_is_left()

    try:
        asyncio.run(body())
    except ConfigError as error:
        for problem in error.problems:
            print(f"configuration: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    except Exception:
        logging.getLogger("vitals.floor").exception("process failed")
        return 1
    return 0


async def _end_what_is_left() -> None:
    """Cancel every other task until none is left.

    Once is not enough: `wait_for` of Python 3.11 loses a cancellation that comes together with its result, and the loop would then
    wait for ever for a task that goes on (seen: a simulator that did not stop). Whoever resists for seconds is named and left behind.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + GRACE
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        if loop.time() > end:
            names = sorted({getattr(task.get_coro(), "__qualname__", "") for task in others})
            logging.getLogger("vitals.floor").error("tasks that would not end", extra={"tasks": names})
            logging.shutdown()
            os._exit(1)
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=0.1)
