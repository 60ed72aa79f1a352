"""Pickles are recognised wherever a file of weights is taken, and refused with the command that converts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aoti_serve.errors import PickledWeights
from aoti_serve.weights.files.checkpoint import checkpoint_spans, open_checkpoint
from aoti_serve.weights.files.index import read_index


def save(path: Path, *, old: bool = False) -> Path:
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=not old)
    return path


def index(folder: Path) -> Path:
    save(folder / "pytorch_model-00001-of-00001.bin")
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}))
    return path


def folder_of_index(folder: Path) -> Path:
    save(folder / "training_args.bin")
    index(folder)
    return folder


def renamed(folder: Path) -> Path:
    return save(folder / "w.pt").rename(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("made", "named"),
    [
        pytest.param(lambda folder: save(folder / "pytorch_model.bin"), "pytorch_model.bin", id="bin"),
        pytest.param(lambda folder: save(folder / "step.pt"), "step.pt", id="pt"),
        pytest.param(lambda folder: save(folder / "old.pth", old=True), "old.pth", id="old-format"),
        pytest.param(renamed, "model.safetensors", id="renamed"),
        pytest.param(lambda folder: save(folder / "pytorch_model.bin").parent, "pytorch_model.bin", id="folder"),
        pytest.param(index, "pytorch_model.bin.index.json", id="index"),
        pytest.param(folder_of_index, "pytorch_model.bin.index.json", id="folder-of-index"),
    ],
)
def test_a_pickle_is_refused_by_its_name_with_the_way_out(
    made: Callable[[Path], Path], named: str, tmp_path: Path
) -> None:
    place = made(tmp_path)
    for reads in (open_checkpoint, checkpoint_spans):
        with pytest.raises(PickledWeights, match="is a pickle, as") as caught:
            reads(place)
        assert f"`aoti-serve convert {tmp_path / named} " in str(caught.value)


def test_an_upload_that_is_a_pickle_is_refused_as_one(tmp_path: Path) -> None:
    with pytest.raises(PickledWeights, match="aoti-serve convert FILE"):
        read_index(save(tmp_path / "upload"))
