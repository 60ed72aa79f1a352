"""The Python of the README, as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.pages import blocks_of

FOLDS_NOTHING = "[WARNING] Calling constant_folding in model, but "  # of torch's compiled code: NativeContainer.fold


def test_the_eight_lines_run_and_warn_of_nothing_else(tmp_path: Path) -> None:
    """In a process of its own, as a reader's are: pytest would swallow what it warns of."""
    (code,) = [block.text for block in blocks_of("README.md") if block.language == "python"]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\{'output': tensor\(\[\[-?[\d.]+, +-?[\d.]+\]\]\)\}\n", done.stdout)
    assert [line for line in done.stderr.splitlines() if not line.startswith(FOLDS_NOTHING)] == []
