"""Pickles are recognised wherever a file of weights is taken, and refused with the command that converts them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from aoti_serve.errors import PickledWeights, UnreadableWeights
from aoti_serve.errors.file_kinds import PICKLE
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
        pytest.param(lambda folder: save(folder / "step 7.pt"), "step 7.pt", id="space"),
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
        with pytest.raises(PickledWeights, match=r"pickles?, as") as caught:
            reads(place)
        assert f"`aoti-serve convert {shlex.quote(str(tmp_path / named))} " in str(caught.value)


def test_a_pickle_is_one_by_what_is_in_it_whatever_it_is_called(tmp_path: Path) -> None:
    with pytest.raises(PickledWeights):
        read_index(save(tmp_path / "upload"))


def test_a_package_is_an_archive_too_and_no_pickle(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    with pytest.raises(UnreadableWeights, match="it is a package; name the safetensors file beside it") as caught:
        read_index(tmp_path / "model.pt2")
    assert not isinstance(caught.value, PickledWeights)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"PK\x03\x04" + b"\xff" * 40])
def test_a_file_that_is_cut_is_no_pickle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(UnreadableWeights) as caught:
        read_index(tmp_path / "upload")
    assert not isinstance(caught.value, PickledWeights)


def test_a_header_that_is_as_long_as_a_pickle_begins_is_one_of_safetensors(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x0280)
    (tmp_path / "model.bin").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert (tmp_path / "model.bin").read_bytes().startswith(PICKLE)
    assert checkpoint_spans(tmp_path / "model.bin").keys() == {"w"}


def test_of_several_pickles_none_is_named_as_the_one(tmp_path: Path) -> None:
    for name in ("b.pt", "a.pt", "d.pt", "c.pt"):
        save(tmp_path / name)
    with pytest.raises(PickledWeights, match=r"holds 4 pickles of torch.save's, a.pt, b.pt, c.pt, \.\.\., and no"):
        open_checkpoint(tmp_path)
