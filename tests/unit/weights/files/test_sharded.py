"""Checkpoints in shards: the bytes of one file, and errors that name the shard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from aoti_serve.errors import UnreadableWeights, WeightsTooLarge
from aoti_serve.weights.files.checkpoint import (
    JoinedShards,
    checkpoint_in,
    checkpoint_label,
    checkpoint_spans,
    open_checkpoint,
    write_joined,
)
from aoti_serve.weights.files.sharded import ShardIndex

Arrays = dict[str, NDArray[Any]]
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS: Arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16), "c": np.zeros(0)}


def sharded(folder: Path, tensors: Arrays, shard_of: dict[str, str]) -> Path:
    """Written as Hugging Face does; returns the index."""
    folder.mkdir(exist_ok=True)
    for shard in set(shard_of.values()):
        save_file({name: tensors[name] for name in shard_of if shard_of[name] == shard}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 30}, "weight_map": shard_of}))
    return index


def joined(place: Path) -> bytes:
    found = open_checkpoint(place)
    content = b"".join(found.pieces(1000))
    assert len(content) == found.nbytes
    return content


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return sharded(tmp_path / "step 1.5", TENSORS, {"a": ONE, "b": TWO, "c": ONE})


def rewrite(index: Path, **shard_of: str | None) -> None:
    written = json.loads(index.read_text())
    kept = {name: shard for name, shard in (written["weight_map"] | shard_of).items() if shard is not None}
    index.write_text(json.dumps(written | {"weight_map": kept}))


@settings(max_examples=50)
@given(shards=st.lists(st.sampled_from([ONE, TWO, "x.safetensors"]), min_size=3, max_size=3))
def test_the_joined_file_does_not_tell_how_it_was_sharded(
    tmp_path_factory: pytest.TempPathFactory, shards: list[str]
) -> None:
    content = joined(sharded(tmp_path_factory.mktemp("w"), TENSORS, dict(zip(TENSORS, shards, strict=True))))
    found = load(content)
    assert {name: (found[name].dtype, found[name].tolist()) for name in found} == {
        name: (array.dtype, array.tolist()) for name, array in TENSORS.items()
    }
    assert content == joined(sharded(tmp_path_factory.mktemp("w"), TENSORS, dict.fromkeys(TENSORS, ONE)))


def test_a_folder_is_what_it_holds(index: Path, tmp_path: Path) -> None:
    assert joined(index.parent) == joined(index)
    single = tmp_path / "single"
    single.mkdir()
    save_file(TENSORS, single / "model.safetensors")
    assert joined(single) == (single / "model.safetensors").read_bytes()
    assert checkpoint_spans(single).keys() == checkpoint_spans(index).keys() == TENSORS.keys()


def test_a_folder_that_holds_neither_or_both_asks_which(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableWeights, match=r"holds neither of model\.safetensors\.index\.json and model\.safe"):
        checkpoint_in(tmp_path)
    save_file(TENSORS, index.with_name("model.safetensors"))
    with pytest.raises(UnreadableWeights, match=r"holds both .*; name the file that is meant"):
        checkpoint_in(index.parent)


def test_a_folder_of_other_safetensors_names_them_and_no_pickle_beside_them(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"a pickle")
    for number in range(5):
        save_file(TENSORS, tmp_path / f"v{number}.safetensors")
    said = r"holds neither of .*, but v0\.safetensors, v1\.safetensors, v2\.safetensors, \.\.\.; name the file"
    with pytest.raises(UnreadableWeights, match=said):
        checkpoint_in(tmp_path)


def test_it_is_called_as_its_folder(index: Path) -> None:
    assert checkpoint_label(index) == checkpoint_label(index.parent) == "step 1.5"
    assert checkpoint_label(Path("runs/step 7.safetensors")) == "step 7"
    assert checkpoint_label(Path("a\x1b\udcffb" + 300 * "c")) == ("ab" + 300 * "c")[:256], "as a label takes it"


def test_links_as_in_a_cache_of_downloads_are_followed(index: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for at, path in enumerate(index.parent.iterdir()):
        (snapshot / path.name).symlink_to(path.rename(tmp_path / f"blob{at}"))
    assert load(joined(snapshot)).keys() == TENSORS.keys()


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        pytest.param("../model.safetensors", "is no file beside it", id="above"),
        pytest.param("/etc/model.safetensors", "is no file beside it", id="elsewhere"),
        pytest.param("..", "is no file beside it", id="folder"),
        pytest.param("a\\b.safetensors", "is no file beside it", id="backslash"),
        pytest.param("a\0.safetensors", "is no file beside it", id="zero"),
        pytest.param("", "is no file beside it", id="nothing"),
        pytest.param("x" * 300 + ".safetensors", "is no file beside it", id="long"),
        pytest.param("pytorch_model-00001.bin", r"shard pytorch_model-00001.bin is not called \*.saf", id="pickle"),
        pytest.param("gone.safetensors", "shard gone.safetensors: No such file", id="missing"),
        pytest.param(TWO, f"shard {TWO}: it lacks tensor 'a', which .*index.json says it holds", id="other"),
    ],
)
def test_a_shard_that_is_not_there_is_named(index: Path, shard: str, said: str) -> None:
    rewrite(index, a=shard)
    with pytest.raises(UnreadableWeights, match=said):
        open_checkpoint(index)


def test_a_tensor_of_the_index_that_no_shard_holds_is_named(index: Path) -> None:
    rewrite(index, d=TWO)
    with pytest.raises(UnreadableWeights, match=f"shard {TWO}: it lacks tensor 'd'"):
        open_checkpoint(index)


def test_a_tensor_that_the_index_does_not_name_is_named(index: Path) -> None:
    rewrite(index, c=None)
    with pytest.raises(UnreadableWeights, match=f"shard {ONE}: it holds tensor 'c', which .* does not name"):
        open_checkpoint(index)


def test_a_tensor_in_two_shards_is_named(index: Path) -> None:
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, index.with_name(TWO))
    with pytest.raises(UnreadableWeights, match=f"tensor 'a' is in two shards, {ONE} and {TWO}"):
        open_checkpoint(index)


def test_a_shard_that_is_cut_short_is_named(index: Path) -> None:
    os.truncate(index.with_name(TWO), 20)
    with pytest.raises(UnreadableWeights, match=f"shard {TWO}: not a whole safetensors file"):
        open_checkpoint(index)


@pytest.mark.parametrize("change", ["written", "removed"])
def test_a_shard_that_changes_while_it_is_sent_is_named(index: Path, change: str) -> None:
    pieces = open_checkpoint(index).pieces(1000)
    next(pieces)
    if change == "written":
        save_file({"b": np.zeros(3, np.float16)}, index.with_name(TWO))
    else:
        index.with_name(TWO).unlink()
    said = "it has changed while it was read" if change == "written" else "No such file"
    with pytest.raises(UnreadableWeights, match=f"shard {TWO}: {said}"):
        list(pieces)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"weight_map": {"a": 1}}', b"\xff", b"[" * 100_000, b'{"weight_map": []}']
)
def test_an_index_that_is_none_is_said_to_be_none(index: Path, content: bytes) -> None:
    index.write_bytes(content)
    with pytest.raises(UnreadableWeights, match=r'index\.json is no index of shards, \{"weight_map": \{tensor: file'):
        open_checkpoint(index)


def test_limits(index: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsTooLarge, match=r"more than 10 bytes of index \(gateway.max_weights_header_bytes\)"):
        ShardIndex.read(index, 10)
    with pytest.raises(WeightsTooLarge, match="more than 2 tensors"):
        ShardIndex.parse(index.read_bytes(), "here", 2)
    shards = open_checkpoint(index)
    assert isinstance(shards, JoinedShards)
    with pytest.raises(WeightsTooLarge, match="more than 100 bytes"):
        write_joined(shards, tmp_path / "target", 100)
    write_joined(shards, tmp_path / "target", 1000)
    assert (tmp_path / "target").read_bytes() == joined(index)
