"""Pickles become safetensors, and nothing that is in them runs."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from aoti_serve.cli import app
from aoti_serve.errors import UnreadableWeights
from aoti_serve.model.foreign.pickled import convert_pickle

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1, 2], dtype=torch.bfloat16)}


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def saved(folder: Path, content: object, name: str = "model.pt", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def equal(path: Path, state: dict[str, torch.Tensor]) -> bool:
    found = load_file(path)
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in found)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(STATE, id="plain"),
        pytest.param(OrderedDict(STATE), id="ordered"),
        pytest.param({"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}}, id="of-a-trainer"),
        pytest.param({name: nn.Parameter(tensor) for name, tensor in STATE.items()}, id="parameters"),
        pytest.param(
            {name: tensor.mT.contiguous().mT if tensor.ndim == 2 else tensor for name, tensor in STATE.items()},
            id="other-strides",
        ),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_the_tensors_are_the_same(content: object, old: bool, tmp_path: Path) -> None:
    source = saved(tmp_path, content, _use_new_zipfile_serialization=not old)
    done = convert_pickle(source, tmp_path / "out.safetensors")
    assert equal(tmp_path / "out.safetensors", STATE)
    assert (done.tensors, done.nbytes) == (2, (tmp_path / "out.safetensors").stat().st_size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "out.safetensors"]


def test_tensors_that_share_memory_become_two(tmp_path: Path) -> None:
    shared = torch.ones(3)
    convert_pickle(saved(tmp_path, {"a": shared, "b": shared, "c": shared[1:]}), tmp_path / "out")
    assert equal(tmp_path / "out", {"a": shared, "b": shared, "c": shared[1:]})


def test_what_is_no_tensor_is_left_out_by_name(tmp_path: Path) -> None:
    assert convert_pickle(saved(tmp_path, STATE | {"steps": 7, "name": "x"}), tmp_path / "out").left_out == [
        "name",
        "steps",
    ]


def test_one_of_several_is_chosen_by_its_key(tmp_path: Path) -> None:
    source = saved(tmp_path, {"model": STATE, "ema": {name: tensor + 1 for name, tensor in STATE.items()}})
    with pytest.raises(UnreadableWeights, match="there are: --key model, --key ema"):
        convert_pickle(source, tmp_path / "out")
    convert_pickle(source, tmp_path / "out", "model")
    assert equal(tmp_path / "out", STATE)


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(1)}, "ema": {"x": torch.ones(1)}}, tmp_path / "two.pt")
    with pytest.raises(UnreadableWeights, match="there are: --key model, --key ema"):
        convert_pickle(tmp_path / "two.pt", tmp_path / "out.safetensors", "nope")


def test_what_is_no_checkpoint_and_a_place_that_is_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(255, 0, -1)) * 10)
    with pytest.raises(UnreadableWeights, match=r"noise\.safetensors"):
        convert_pickle(tmp_path / "noise.safetensors", tmp_path / "out.safetensors")
    torch.save({"x": torch.ones(1)}, tmp_path / "one.pt")
    with pytest.raises(UnreadableWeights, match="cannot be written"):
        convert_pickle(tmp_path / "one.pt", tmp_path / "nowhere" / "out.safetensors")


@pytest.mark.parametrize("whole", [False, True])
def test_shards_become_one_file(whole: bool, tmp_path: Path) -> None:
    for at, (name, tensor) in enumerate(STATE.items()):
        saved(tmp_path, {name: tensor}, f"pytorch_model-{at}.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"pytorch_model-{at}.bin" for at, name in enumerate(STATE)}}))
    convert_pickle(tmp_path if whole else index, tmp_path / "out")
    assert equal(tmp_path / "out", STATE)


def test_nothing_of_it_runs(tmp_path: Path) -> None:
    """Also beside tensors that would have been fine."""
    source = saved(tmp_path, STATE | {"harm": Harm(tmp_path / "harmed")})
    with pytest.raises(UnreadableWeights, match=r"holds more than tensors.*nothing of that was run"):
        convert_pickle(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_whole_module_is_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(UnreadableWeights, match=r"save its state_dict\(\) alone"):
        convert_pickle(saved(tmp_path, nn.Linear(2, 2)), tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no pickle", id="text"),
        pytest.param(b"PK\x03\x04 no archive", id="no-archive"),
        pytest.param(b"\x80\x02 cut", id="cut"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UnreadableWeights, match=r"model\.pt"):
        convert_pickle(tmp_path / "model.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_kind_of_file_is_called_by_its_kind(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    with pytest.raises(UnreadableWeights, match=r"w\.safetensors is a safetensors file already: swap to it as it is"):
        convert_pickle(tmp_path / "w.safetensors", tmp_path / "out")
    np.savez(tmp_path / "w.npz", w=np.ones(2))
    with pytest.raises(
        UnreadableWeights, match=r"w\.npz is no checkpoint that torch\.save wrote: it is a file of NumPy"
    ):
        convert_pickle(tmp_path / "w.npz", tmp_path / "out")


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UnreadableWeights, match="out is there already"):
        convert_pickle(saved(tmp_path, STATE), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_command_tells_what_it_has_written(tmp_path: Path) -> None:
    source = saved(tmp_path, STATE | {"steps": 7})
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "a")])
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "left out, as no tensors: steps")
    assert "2 tensors" in done.stdout
    told = json.loads(CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "b"), "--json"]).stdout)
    assert (told["tensors"], told["left_out"]) == (2, ["steps"])
    failed = CliRunner().invoke(app, ["convert", str(tmp_path / "none.pt"), str(tmp_path / "c")])
    assert (failed.exit_code, "none.pt" in failed.stderr) == (1, True)
