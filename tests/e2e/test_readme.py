"""The commands of README and tutorial, and the story of rollouts, as they stand there, but for a free port."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.served import LAST_LINE, ROOT, Launched, free_port

SERVE = "scripts/serve"
PAGES = ("README.md", "docs/tutorial/first-swap.md", "docs/tutorial/your-model.md")
COMMANDS = [
    line
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for line in block.strip().splitlines()
]
# This very run.
ELSEWHERE = {"scripts/test"}
STORY = (
    (ROOT / "docs" / "concepts" / "rollouts.md").read_text().partition("## With the digits\n")[2].partition("\n## ")[0]
)


class Told(NamedTuple):
    """A command, and the error that the page says it ends with; `...` stands for what differs each time."""

    command: str
    error: str | None


def told(page: str) -> Iterator[Told]:
    for block, error in re.findall(r"```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?", page, re.DOTALL):
        for command in block.strip().splitlines():
            yield Told(command, error.strip() or None)


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


def test_every_command_works_in_the_order_of_the_page(demo: Demo) -> None:
    first, *rest = [command for command in COMMANDS if command not in ELSEWHERE]
    assert first == SERVE
    assert len(rest) == 11
    for command in rest:
        run(command.replace("http://127.0.0.1:8000", demo.url), demo.url)


def test_the_digits_tell_of_rollouts_as_the_page_does(demo: Demo) -> None:
    commands = list(told(STORY))
    assert [bool(command.error) for command in commands] == [False, True, True, False, False]
    traffic = Launched([str(ROOT / "scripts" / "demo_traffic"), "--json", "--url", demo.url], ROOT, {})
    try:
        traffic.wait_for('"accuracy": 0')
        for command in commands:
            done = ended(command.command, demo.url)
            assert (done.returncode == 0) == (command.error is None), f"{command}\n{done.stdout}{done.stderr}"
            if command.error:
                words = ".*".join(map(re.escape, command.error.split("...")))
                assert re.fullmatch(words, done.stderr.splitlines()[-1]), done.stderr
    finally:
        traffic.stop()
    assert re.search(r"^rollout .*: promoted$", done.stdout, re.MULTILINE), done.stdout
    assert {json.loads(line)["errors"] for line in traffic.lines} == {0}, traffic.output


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


def run(command: str, url: str) -> None:
    if command == "scripts/demo_traffic":
        command += " --seconds 2"
    done = ended(command, url)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert done.stdout.strip(), command


def ended(command: str, url: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"AOTI_SERVE_URL": url}
    return subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
