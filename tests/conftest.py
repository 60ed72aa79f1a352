"""What all tests share: a home of its own, and packages that are compiled once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.package_cache import ROOT, PackageCache

TOKEN = "the-token-of-the-tests"
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # as machines are
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the user's token nor the user's package cache is read or written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AOTI_SERVE_ADMIN_TOKEN", TOKEN)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # as `up` has it: servers start beside others that are busy
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session")
def package_cache(request: pytest.FixtureRequest) -> PackageCache:
    cache = request.config.cache
    assert cache is not None
    return PackageCache(cache.mkdir("packages"))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def digits_dir(package_cache: PackageCache) -> Path:
    """A folder with digits.pt2, v1.safetensors and v2.safetensors, made as a user makes them."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "aoti_serve", "demo", "--only-make", "--folder", str(folder)]
        subprocess.run(command, check=True, capture_output=True)

    return package_cache.entry("digits", make, *(ROOT / "aoti_serve" / "demo").glob("*.py"))
