from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aoti_serve.errors import BakedConstants, PackageError, UnsupportedModule
from aoti_serve.model import export
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.signature.tensors import Dim
from tests.integration.models import Compiled

MODULE = """
import torch

def make_model():
    module = torch.nn.Linear(3, 5).eval()
    return module, (torch.zeros(2, 3),), ({0: torch.export.Dim("batch", min=1, max=8)},)

def make_nothing():
    return 42
"""


def test_the_signature_holds_names_dtypes_and_ranges(mixed: Compiled) -> None:
    signature = mixed.package.signature
    assert [spec.name for spec in signature.inputs] == ["x", "ids"]
    assert [spec.dtype for spec in signature.inputs] == ["float32", "int64"]
    assert signature.inputs[0].shape == (Dim(symbol="batch", min=1, max=64), 16)
    assert [spec.name for spec in signature.outputs] == ["logits", "hidden.0", "hidden.1"]
    assert signature.batch == Dim(symbol="batch", min=1, max=64)
    constants = {spec.name for spec in signature.constants}
    assert {"last.bias", "offset", "scale", "lifted_tensor_0", "norm.running_mean"} <= constants


def test_the_weights_beside_the_package_fit_it(mixed: Compiled) -> None:
    weights = load_file(mixed.package.path.with_suffix(".safetensors"))
    with Container(mixed.package) as container:
        container.stage(weights)
        container.commit()
        outputs = container.run(mixed.inputs)
    torch.testing.assert_close(outputs["logits"], mixed.module(*mixed.inputs.values())["logits"])


def test_a_package_with_a_baked_parameter_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export._OPTIONS, "always_keep_tensor_constants", False)
    with pytest.raises(BakedConstants, match="bias"):
        export_package(nn.Linear(3, 4).eval(), (torch.zeros(2, 3),), tmp_path / "baked.pt2")
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Power(nn.Module):
        def forward(self, x: torch.Tensor, exponent: int) -> torch.Tensor:
            return x**exponent

    with pytest.raises(UnsupportedModule, match="exponent"):
        export_package(Power().eval(), {"x": torch.zeros(2), "exponent": 2}, tmp_path / "power.pt2")


@pytest.mark.parametrize(
    ("module", "inputs", "name", "says"),
    [
        pytest.param(nn.Linear(3, 4).train(), (torch.zeros(2, 3),), "m.pt2", "training mode", id="training"),
        pytest.param(nn.Linear(3, 4).eval(), (torch.zeros(2, 3),), "m.zip", "m.zip", id="suffix"),
        pytest.param(nn.Linear(3, 4).eval(), {"wrong": torch.zeros(2, 3)}, "m.pt2", "could not export", id="inputs"),
    ],
)
def test_what_cannot_be_packaged_is_refused_in_words(
    tmp_path: Path, module: nn.Module, inputs: Any, name: str, says: str
) -> None:
    with pytest.raises(PackageError, match=says):
        export_package(module, inputs, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_dimension_without_an_end_has_none(tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("rows")},)
    package = export_package(nn.Linear(3, 4).eval(), (torch.zeros(2, 3),), tmp_path / "open.pt2", dynamic_shapes=shapes)
    assert package.signature.batch is not None
    assert package.signature.batch.max is None
    assert package.path.with_suffix(".safetensors").stat().st_mode & 0o044


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "aoti-serve"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_line_packages_and_inspects(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(MODULE)
    done = run("package", "my_module:make_model", "--out", "model.pt2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts == json.loads(run("inspect", "model.pt2", "--json", cwd=tmp_path).stdout)
    assert facts["signature"]["outputs"][0]["name"] == "output"
    shown = run("inspect", "model.pt2", cwd=tmp_path).stdout
    assert "bias" in shown
    assert "[batch=1..8, 3]" in shown


@pytest.mark.parametrize(
    ("target", "says"),
    [
        pytest.param("my_module", "my_module:make_model", id="no callable"),
        pytest.param("nowhere:make", "no module 'nowhere'", id="no module"),
        pytest.param("my_module:other", "has no 'other'", id="no attribute"),
        pytest.param("my_module:make_nothing", "must return", id="no tuple"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "my_module.py").write_text(MODULE)
    done = run("package", target, "--out", "model.pt2", cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
