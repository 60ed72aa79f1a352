"""The README's commands, as they stand there, but for a free port."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.served import ROOT, Launched, free_port

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.strip().splitlines()]
# Run by other tests: this very run, and test_lifecycle.py.
ELSEWHERE = {"scripts/test", ".venv/bin/serve run configs/model.yaml", ".venv/bin/aoti-serve up configs/model.yaml"}


def test_every_command_works_in_the_order_of_the_page(tmp_path: Path) -> None:
    first, *rest = [command for command in COMMANDS if command not in ELSEWHERE]
    assert first == "scripts/serve"
    assert len(rest) == 8
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    versions = ROOT / "var" / "digits" / "versions"
    kept = tmp_path / "versions"
    if versions.exists():
        versions.rename(kept)
    launched = Launched([str(ROOT / first), "--port", str(port)], ROOT, {})
    try:
        launched.wait_for("aoti-serve status", timeout=280)
        for command in rest:
            run(command.replace("http://127.0.0.1:8000", url), url)
    finally:
        launched.stop()
        subprocess.run(["rm", "-rf", str(versions)], check=True)
        if kept.exists():
            kept.rename(versions)


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
