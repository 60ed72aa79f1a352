"""`aoti-serve package`: what is refused before anything is compiled."""

from __future__ import annotations

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
        pytest.param(["m:make", "--out", "m.pt2", "--sizes", "8"], "'8' is not of the form --sizes", id="no-name"),
        pytest.param(["m:make", "--out", "m.pt2", "--sizes", "n=1", "m=x"], "--sizes m= 'x' is not a list", id="more"),
        pytest.param(["m:make", "--out", "m.pt2", "--sizes", "n=1 n=2"], "--sizes names 'n' twice", id="twice"),
        pytest.param(["m:make", "--out", "m.pt2", "--pad", "x=one"], "x=one is neither a number nor mask", id="pad"),
        pytest.param(
            ["m:make", "--out", "m.pt2", "--sizes", "n=2", "--batch-sizes", "1,8"], "write --sizes batch=1,8", id="both"
        ),
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
