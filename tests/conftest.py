"""What every layer of tests shares: a home of its own, and the digits package, compiled once per run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOKEN = "the-token-of-the-tests"


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the user's token nor the user's package cache is read or written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AOTI_SERVE_ADMIN_TOKEN", TOKEN)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits.pt2, v1.safetensors and v2.safetensors, made as a user makes them."""
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "digits.py"), "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder
