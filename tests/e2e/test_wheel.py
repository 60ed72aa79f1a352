"""What is published: it installs into an empty environment, and serves its demo from a folder of the user's."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.served import LAST_LINE, ROOT, Launched, free_port


class Installed(NamedTuple):
    """The command of the wheel, and how long its installation took; what it needs was there already."""

    program: Path
    seconds: float


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`aoti-serve` of the wheel, in an environment of its own that sees what it needs, and not this repository."""
    started, home = time.monotonic(), tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "-q"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (own,) = home.glob("lib/python*/site-packages")
    (own / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Installed(home / "bin" / "aoti-serve", time.monotonic() - started)


def test_all_files_of_the_package_are_in_both(built: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "aoti_serve"], cwd=ROOT, check=True, capture_output=True, text=True)
    tracked = set(listed.stdout.split())
    assert "aoti_serve/py.typed" in tracked
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        assert tracked - set(wheel.namelist()) == set()
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        assert tracked - {name.partition("/")[2] for name in source.getnames()} == set()


def test_it_serves_its_demo_from_any_folder(
    installed: Installed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, started, program = free_port(), time.monotonic(), installed.program
    ports = ["--port", str(port), "--grpc-port", str(free_port()), "--metrics-port", "0"]
    launched = Launched([str(program), "demo", *ports], tmp_path, {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"})
    try:
        launched.wait_for(LAST_LINE, timeout=600)
        (infer,) = [line.strip() for line in launched.lines if line.startswith("  curl")]
        done = subprocess.run(infer, shell=True, cwd=tmp_path, check=True, capture_output=True)
        assert json.loads(done.stdout)["model_version"] == "1"
        seconds = time.monotonic() - started
        with capsys.disabled():  # a line for who reads CI's output; machines differ too much for a limit
            print(f"\nwheel installed in {installed.seconds:.1f} s, `aoti-serve demo` to first answer {seconds:.1f} s")
        assert (tmp_path / "aoti-serve-demo" / "digits.pt2").exists()
        command = [str(program), "demo", "traffic", "--url", f"http://127.0.0.1:{port}", "--seconds", "2"]
        lines = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
        assert [line.partition("  ")[0] for line in lines[:2]] == ["second 1", "second 2"]
        assert httpx.get(f"http://127.0.0.1:{port}/v2", trust_env=False).is_success
        launched.assert_leaves_nothing(launched.process.terminate)
    finally:
        launched.stop()
    assert str(ROOT / "aoti_serve") not in launched.output
