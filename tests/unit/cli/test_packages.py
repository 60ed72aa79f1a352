"""`aoti-serve package`: what is refused before anything is compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aoti_serve.cli import app


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["nowhere:make", "--out", "FILE/m.pt2"], "--out FILE/m.pt2: cannot make the folder", id="folder"),
        pytest.param(["nowhere:make", "--out", "m.pt2"], "no module 'nowhere' in ", id="module"),
        pytest.param(["nowhere", "--out", "m.pt2"], "is not of the form my_module:make_model", id="target"),
        pytest.param(["math:pi", "--out", "m.pt2"], "'math:pi' is a float, not something to call", id="callable"),
        pytest.param(["m:make", "--out", "m.pt2", "--golden", "none"], "none: No such file or directory", id="golden"),
        pytest.param(["m:make", "--out", "m.pt2", "--batch-sizes", "1,x"], "not a list of sizes such as", id="sizes"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    result = CliRunner().invoke(app, ["package", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


TALKING = """
import logging, warnings, torch

class Talking(torch.nn.Module):
    def forward(self, x):
        warnings.warn("a warning from within torch")
        logging.getLogger("torch._export").warning("a line of torch's log")
        return x.view(2, -1)

def make_model():
    return Talking().eval(), (torch.ones(2, 3),), ({0: torch.export.Dim("batch")},)
"""


@pytest.mark.parametrize(("option", "heard"), [([], False), (["-v"], True)], ids=["plain", "verbose"])
def test_torchs_warnings_are_out_of_sight_unless_asked_for(option: list[str], heard: bool, tmp_path: Path) -> None:
    (tmp_path / "talking.py").write_text(TALKING)
    command = [str(Path(sys.executable).parent / "aoti-serve"), "package", "talking:make_model", "--out", "m.pt2"]
    done = subprocess.run([*command, *option], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "forward() needs its size as a number" in done.stderr
    for voice in ("a warning from within torch", "a line of torch's log", "Traceback"):
        assert (voice in done.stderr) is heard, voice
