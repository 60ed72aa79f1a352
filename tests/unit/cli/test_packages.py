"""`aoti-serve package`: what is refused before anything is compiled; `inspect` on a screen."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from rich.console import Console
from typer.testing import CliRunner

from aoti_serve.cli import app, package_view
from aoti_serve.model.package import SIGNATURE_KEY
from aoti_serve.signature.constants import ConstantSpec
from tests.unit.model.test_package import SIGNATURE, opened

NAMES = [
    f"bert.encoder.layer.{layer}.{end}" for layer in (1, 11) for end in ("output.dense.weight", "output.dense.bias")
]
NAMES += [f"{side}.block.layer.11.attention.output.dense.kernel" for side in ("bert.encoder", "bert.decoder")]
NAMES += ["bert.encoder.layer.11.attention.output.dense.weight", "bert.encoder.layer.10.attention.output.dense.weight"]


def inspected(folder: Path, screen: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of `inspect`, on a screen of so many columns or in a pipe, for a package with `NAMES`."""
    specs = tuple(
        ConstantSpec(name=name, dtype="float32", shape=(3072, 768), stride=(768, 1), carried=True) for name in NAMES
    )
    made = opened(folder, **{SIGNATURE_KEY: SIGNATURE.model_copy(update={"constants": specs}).model_dump_json()})
    file = io.StringIO()
    console = Console(file=file, width=screen, soft_wrap=True, force_terminal=screen is not None, color_system=None)
    monkeypatch.setattr(package_view, "out", console)
    package_view.show_package(made, as_json=False)
    return file.getvalue().splitlines()


def test_on_a_screen_of_80_columns_the_middle_of_long_names_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = inspected(tmp_path, 80, monkeypatch)
    table = lines[[line.strip() for line in lines].index("constants") :]
    assert max(map(len, table)) <= 80
    shown = [line.split()[0] for line in table if "float32" in line]
    assert len(set(shown)) == len(NAMES)
    assert "bert…layer.11.attention.output.dense.weight" in shown
    assert "bert…layer.10.attention.output.dense.weight" in shown
    assert "bert.encoder.layer.1.output.dense.bias" in shown
    folded = "".join(line.split()[0] for line in table if line.strip() and not line.startswith(" "))
    assert "bert.encoder.block.layer.11.attention.output.dense.kernel" in folded, "another one would look like it"


@pytest.mark.parametrize("screen", [None, 160], ids=["pipe", "wide"])
def test_where_there_is_room_names_are_whole(
    screen: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {word for line in inspected(tmp_path, screen, monkeypatch) for word in line.split()}
    assert set(NAMES) <= shown


def test_json_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspected(tmp_path, 80, monkeypatch)
    told = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "model.pt2"), "--json"]).stdout)
    assert [spec["name"] for spec in told["signature"]["constants"]] == NAMES


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


def test_example_inputs_that_are_one_tensor_are_told_apart_from_a_tuple(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare_inputs.py").write_text("def make():\n    return None, 1.5, None\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["package", "bare_inputs:make", "--out", "m.pt2"])
    assert "returns a float as example_inputs: write a tuple, as (inputs,), or a dict by name" in result.stderr


BROKEN = """
import json


def make():
    return step(1)


def step(size):
    return json.loads("no JSON")
"""


@pytest.mark.parametrize("options", [[], ["-v"]], ids=["short", "verbose"])
def test_a_function_that_raises_shows_the_users_own_lines(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raising_model.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "aoti_serve", "package", "raising_model:make", "--out", "m.pt2", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert 'raising_model.py", line 6, in make' in ended.stderr
    assert 'return json.loads("no JSON")' in ended.stderr
    assert "error: 'raising_model:make' raised JSONDecodeError: Expecting value" in ended.stderr
    assert ("json/decoder.py" in ended.stderr) is bool(options)
    assert "typer" not in ended.stderr
    assert "-v shows where in the libraries" in ended.stderr or options


def test_a_package_in_which_a_bit_has_changed_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    content = bytearray((tmp_path / "model.pt2").read_bytes())
    with ZipFile(tmp_path / "model.pt2") as archive:
        info = max(archive.infolist(), key=lambda member: member.file_size)
    content[info.header_offset + 30 + len(info.filename)] ^= 1
    (tmp_path / "model.pt2").write_bytes(content)
    found = CliRunner().invoke(app, ["inspect", str(tmp_path / "model.pt2")])
    assert found.exit_code == 1
    assert "a damaged one" in found.stderr
