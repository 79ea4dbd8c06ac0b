"""A process that was told to stop ends, whatever its tasks make of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STUBBORN = """
import asyncio, sys
from vitals.floor import process
process.GRACE = 1.0

async def main(stop):
    async def lose(times):
        while times:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                times -= 1
    main.task = asyncio.ensure_future(lose(int(sys.argv[1])))
    await asyncio.sleep(0.05)

sys.exit(process.run(main))
"""


@pytest.mark.parametrize(("times", "code"), [(0, 0), (3, 0), (1_000_000, 1)])
def test_tasks_that_lose_their_cancellation_do_not_keep_a_process(times: int, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", STUBBORN, str(times)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["tasks"] for line in lines] == ([["main.<locals>.lose"]] if code else [])
