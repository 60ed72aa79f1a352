"""The commands that `up` prints."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aoti_serve.cli.commands import commands, request_of
from aoti_serve.config import ModelConfig
from aoti_serve.model.package import SIGNATURE_KEY, Package
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

URL = "http://127.0.0.1:8123"
CONSTANT = ConstantSpec(name="w", dtype="float32", shape=(2,), stride=(1,))
BATCH = Dim(symbol="batch", min=1, max=64)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aoti-serve"])
    return tmp_path


def spec(name: str, *shape: int | Dim, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def printed(*inputs: TensorSpec, weights: str | None = None, **options: Any) -> list[str]:
    signature = Signature(inputs=inputs, outputs=(), constants=(CONSTANT,))
    with zipfile.ZipFile("m.pt2", "w") as archive:
        metadata = json.dumps({SIGNATURE_KEY: signature.model_dump_json()})
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", metadata)
    model = ModelConfig.model_validate({"name": "m", "package": "m.pt2", "weights": weights})
    return commands(URL, None, model, Package.open("m.pt2"), **options)


def sent(command: str) -> Any:
    """The body of the request that a command sends."""
    if "|" not in command:
        return json.loads(shlex.split(command)[-1])
    return json.loads(subprocess.run(command.partition(" | ")[0], shell=True, capture_output=True, check=True).stdout)


def test_a_request_is_made_from_the_signature() -> None:
    infer, status = printed(spec("x", BATCH, 3), spec("on", BATCH, dtype="bool"))
    assert infer.startswith(f"curl -s {URL}/v2/models/m/infer -d ")
    assert sent(infer) == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]},
            {"name": "on", "datatype": "BOOL", "shape": [1], "data": [False]},
        ]
    }
    assert status == f"aoti-serve status --url {URL}"


def test_a_token_is_sent_where_one_is_asked_for() -> None:
    infer, _ = printed(spec("x", BATCH), asks_token=True)
    assert infer.startswith(f'curl -s -H "Authorization: Bearer $TOKEN" {URL}/v2/models/m/infer -d ')


def test_a_symbol_has_one_value_in_all_inputs() -> None:
    signature = Signature(
        inputs=(spec("a", Dim(symbol="s")), spec("b", Dim(symbol="s", min=3, factor=2, offset=1))),
        outputs=(),
        constants=(),
    )
    assert [entry["shape"] for entry in json.loads(request_of(signature))["inputs"]] == [[1], [3]]
    signature = Signature(
        inputs=(spec("a", Dim(symbol="s")), spec("b", Dim(symbol="s", min=6, factor=2, offset=-1))),
        outputs=(),
        constants=(),
    )
    assert [entry["shape"] for entry in json.loads(request_of(signature))["inputs"]] == [[4], [7]]


def test_a_large_request_is_made_by_a_program() -> None:
    infer, *_ = printed(spec("image", BATCH, 3, 64, 64), spec("on", BATCH, 2, dtype="bool"))
    assert len(infer) < 500
    assert infer.endswith(f"| curl -s {URL}/v2/models/m/infer -d @-")
    image, flags = sent(infer)["inputs"]
    assert image == {"name": "image", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": [0] * 3 * 64 * 64}
    assert flags["data"] == [False, False]


def test_an_example_beside_the_package_is_sent_where_there_is_one(here: Path) -> None:
    (here / "m.example.json").touch()
    assert printed(spec("x", BATCH))[0].endswith("/v2/models/m/infer -d @m.example.json")


def test_inputs_that_have_no_json_are_not_made_up() -> None:
    assert printed(spec("x", BATCH, dtype="bfloat16"))[0] == f"curl -s {URL}/v2/models/m"


def test_only_weights_that_fit_are_offered(here: Path) -> None:
    save_file({"w": np.zeros(3, np.float32)}, here / "a-wrong-shape.safetensors")
    save_file({"other": np.zeros(2, np.float32)}, here / "another-model.safetensors")
    (here / "broken.safetensors").write_bytes(b"pickle")
    save_file({"w": np.zeros(2, np.float32)}, here / "first.safetensors")
    assert not any(" swap " in command for command in printed(weights="first.safetensors"))
    save_file({"w": np.ones(2, np.float32)}, here / "second step.safetensors")
    assert printed(weights="first.safetensors")[1] == f"aoti-serve swap --url {URL} m 'second step.safetensors'"


def test_a_program_that_no_shell_finds_is_called_by_its_path(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    program = here / "my tools" / "aoti-serve"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert printed()[-1] == f"'my tools/aoti-serve' status --url {URL}"
    monkeypatch.setenv("PATH", str(program.parent))
    assert printed()[-1] == f"aoti-serve status --url {URL}"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(program.parent)
    assert printed()[-1] == f"./aoti-serve status --url {URL}"


def test_the_program_is_called_as_it_was(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    (here / "__main__.py").touch()
    monkeypatch.setattr(sys, "argv", [str(here / "__main__.py")])
    assert printed()[-1].split(" status")[0].endswith(" -m aoti_serve")
