"""docker-compose.yml as far as it can be judged without an engine: commands exist, settings load, nothing is open."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vitals.settings import examine
from yizhan.check import static
from yizhan.cli import _parser

HERE = Path(__file__).parents[2]
FILE: dict[str, Any] = yaml.safe_load((HERE / "docker-compose.yml").read_text())
OURS = {name: service for name, service in FILE["services"].items() if service["image"] == "yizhan"}


def test_every_command_is_one_of_ours() -> None:
    assert set(OURS) == {"migrate", "broker", "worker", "ingest", "city-worker", "api", "notifier", "gateway"}
    for service in OURS.values():
        _parser().parse_args(service["command"])


def test_every_setting_is_known_and_safe() -> None:
    for name, service in OURS.items():
        environment = {key: str(value) for key, value in service["environment"].items()}
        settings, problems = examine(environment)
        missing_files = [p for p in problems if "No such file" in p]
        assert problems == missing_files, name
        # the certificates are not here; everything else must be as `yizhan check` wants it
        assert [p for p in static(settings) if "cannot be read" not in p] == [], name


def test_everything_it_mentions_is_declared_and_pinned() -> None:
    for name, service in FILE["services"].items():
        for secret in service.get("secrets", []):
            assert secret in FILE["secrets"], f"{name}: {secret}"
        for wanted in service.get("depends_on", {}):
            assert wanted in FILE["services"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith((".", "/")) or source in FILE["volumes"], f"{name}: {volume}"
        assert service["image"] == "yizhan" or re.search(r":v?\d", service["image"]), f"{name}: pin the image"


def test_only_tls_is_published() -> None:
    published = {name: service["ports"] for name, service in FILE["services"].items() if "ports" in service}
    assert published == {"broker": ["8883:8883"], "api": ["8443:8443"], "prometheus": ["127.0.0.1:9090:9090"]}


def test_the_image_copies_every_room() -> None:
    dockerfile = (HERE / "Dockerfile").read_text()
    for room in ("vitals", "gateway", "ingest", "rules", "care", "api", "firmware_sim", "yizhan", "bench"):
        assert f"COPY {room} {room}" in dockerfile
