"""The README's commands, as they stand there, but for a free port."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.e2e.served import ROOT, Launched, free_port

SERVE = "scripts/serve"
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.strip().splitlines()]
# Run by other tests: this very run, and test_lifecycle.py.
ELSEWHERE = {"scripts/test", ".venv/bin/serve run configs/model.yaml", ".venv/bin/aoti-serve up configs/model.yaml"}


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
        launched.wait_for("aoti-serve status", timeout=800)  # a fresh clone trains and compiles first
        yield Demo(launched, port)
    finally:
        launched.stop()
        shutil.rmtree(versions, ignore_errors=True)
        if kept.exists():
            shutil.move(kept, versions)


def test_every_command_works_in_the_order_of_the_page(demo: Demo) -> None:
    first, *rest = [command for command in COMMANDS if command not in ELSEWHERE]
    assert first == SERVE
    assert len(rest) == 11
    for command in rest:
        run(command.replace("http://127.0.0.1:8000", demo.url), demo.url)


def test_scripts_serve_leaves_no_process_and_no_port(demo: Demo) -> None:
    assert f"curl -s {demo.url}/v2/models/digits/infer" in demo.launched.output
    assert {"raylet", "gcs_server"} <= {process.name() for process in demo.launched.family()}
    assert demo.port in demo.launched.listening()
    demo.launched.assert_leaves_nothing(demo.launched.process.terminate)


def run(command: str, url: str) -> None:
    if command == "scripts/demo_traffic":
        command += " --seconds 2"
    environment = os.environ | {"AOTI_SERVE_URL": url}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert done.stdout.strip(), command


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)]+)\)", README))
def test_every_link_leads_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
