"""The table of devices in the documentation is the table of models."""

from __future__ import annotations

from pathlib import Path

from vitals import device_model

DOCUMENT = Path(__file__).parents[2] / "docs" / "devices.md"


def test_every_model_stands_in_the_documentation_with_its_evidence() -> None:
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")}
    for model in set(device_model.models().values()):
        assert model.name in rows, f"{model.name} is missing in docs/devices.md"
        assert f"| {model.evidence} |" in rows[model.name], f"{model.name}: docs/devices.md tells other evidence"
