"""The house itself: an edge gateway needs neither database nor numpy; the lock names no host; migrations never change."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[2]


def test_an_edge_gateway_imports_neither_database_nor_kafka_nor_numpy() -> None:
    script = (
        "import sys\nclass Refuse:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'psycopg', 'psycopg_pool', 'numpy', 'aiokafka', 'fastapi', 'bumble', 'httpx', 'yaml'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\nimport gateway.service, yizhan.cli\nyizhan.cli._parser()\nprint('ok')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr


def test_the_lock_holds_hashes_and_names_no_host() -> None:
    lock = (HERE / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    assert "hatchling==" in lock, "the build backend is locked too"
    for block in re.split(r"\n(?=\S)", lock):
        if "==" in block.split("\n")[0]:
            assert "--hash=sha256:" in block
