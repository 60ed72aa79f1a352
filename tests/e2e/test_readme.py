"""The commands of README, in the repository itself; those of other pages are in test_pages.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.served import LAST_LINE, ROOT, Launched, free_port
from tests.pages import commands_of

SERVE, TEST = "scripts/serve", "scripts/test"


class Demo(NamedTuple):
    launched: Launched
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """`scripts/serve`, with no versions stored; on a fresh clone it makes the demo first."""
    port, versions, kept = (
        free_port(),
        ROOT / "var" / "digits" / "versions",
        tmp_path_factory.mktemp("kept") / "versions",
    )
    if versions.exists():
        shutil.move(versions, kept)
    launched = Launched([str(ROOT / SERVE), "--port", str(port)], ROOT, {})
    try:
        launched.wait_for(LAST_LINE, timeout=800)  # a fresh clone trains and compiles first
        yield Demo(launched, port)
    finally:
        launched.stop()
        shutil.rmtree(versions, ignore_errors=True)
        if kept.exists():
            shutil.move(kept, versions)


def test_its_commands_are_those_of_this_file_and_this_very_run() -> None:
    assert commands_of("README.md") == [SERVE, TEST]


def test_scripts_serve_makes_what_the_pages_take_for_made(demo: Demo) -> None:
    for file in ("digits.example.json", "v2.safetensors", "v3.safetensors", "bad/broken.safetensors"):
        assert (ROOT / "var" / "digits" / file).exists(), file


def test_demo_traffic_is_answered(demo: Demo) -> None:
    command = [str(ROOT / "scripts" / "demo_traffic"), "--seconds", "2"]
    environment = os.environ | {"AOTI_SERVE_URL": demo.url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith(" answers, 0 errors"), done.stdout


def test_scripts_serve_leaves_no_process_and_no_port(demo: Demo) -> None:
    assert f"curl -s {demo.url}/v2/models/digits/infer" in demo.launched.output
    assert f"export AOTI_SERVE_URL={demo.url}" in demo.launched.output
    assert {"raylet", "gcs_server"} <= {process.name() for process in demo.launched.family()}
    assert demo.port in demo.launched.listening()
    demo.launched.assert_leaves_nothing(demo.launched.process.terminate)


def test_help_of_scripts_serve_installs_nothing(tmp_path: Path) -> None:
    """In a folder where nothing is installed, and with no program to install with."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    command, bare = [str(tmp_path / SERVE), "--port", "8080", "--help"], {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "AOTI_SERVE_URL" in done.stdout
    assert not (tmp_path / ".venv").exists()
