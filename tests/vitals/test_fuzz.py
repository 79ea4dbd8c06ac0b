"""120 seconds of coverage-guided fuzzing over all decoders, from the committed corpus. `YIZHAN_FUZZ_SECONDS` changes the time."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import missing

CORPUS = Path(__file__).parent / "corpus"
SECONDS = int(os.environ.get("YIZHAN_FUZZ_SECONDS", "120"))


def test_no_bytes_raise_anything_but_a_decode_error(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        missing("fuzz", "atheris has no build for this Python")
    arguments = [str(tmp_path), str(CORPUS), f"-max_total_time={SECONDS}", "-max_len=96", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.vitals.fuzz_decoders", *arguments], capture_output=True, text=True, check=False, timeout=SECONDS + 60
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ran = re.search(r"Done (\d+) runs", done.stderr)
    assert ran is not None
    assert int(ran[1]) > 10_000
    print(f"{ran[1]} inputs, nothing but DecodeError")
