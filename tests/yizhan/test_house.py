"""The house itself: neither an edge gateway nor the simulator needs a database or numpy; the lock names no host; migrations never change."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[2]


def imported_without(forbidden: set[str], modules: str) -> None:
    script = (
        "import sys\nclass Refuse:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {forbidden!r}:\n            raise ImportError(name)\n"
        f"sys.meta_path.insert(0, Refuse())\nimport {modules}, yizhan.cli\nyizhan.cli._parser()\nprint('ok')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr


SERVER = {"psycopg", "psycopg_pool", "numpy", "aiokafka", "fastapi", "httpx"}


def test_an_edge_gateway_imports_neither_database_nor_kafka_nor_numpy() -> None:
    imported_without({*SERVER, "bumble", "yaml", "cryptography"}, "gateway.service, gateway.agent")


def test_virtual_devices_need_no_server_either() -> None:
    imported_without(SERVER, "yizhan.simulate, firmware_sim.fleet, firmware_sim.pytest_plugin")


def test_the_lock_holds_hashes_and_names_no_host() -> None:
    lock = (HERE / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    assert "hatchling==" in lock, "the build backend is locked too"
    for block in re.split(r"\n(?=\S)", lock):
        if "==" in block.split("\n")[0]:
            assert "--hash=sha256:" in block
