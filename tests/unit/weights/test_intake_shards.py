"""Checkpoints in shards as versions, which are one file each: from the configuration, and from what may be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from upath import UPath

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import (
    AotiServeError,
    MissingTensor,
    SourceRefused,
    UnreadableWeights,
    WeightsTooLarge,
)
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.weights.files.checkpoint import open_checkpoint
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version
from tests.unit.weights.files.test_sharded import sharded

CONSTANTS = Constants(
    constants=tuple(ConstantSpec(name=name, dtype="float32", shape=(3,), stride=(1,)) for name in ("a", "b", "c"))
)
WHOLE = {name: np.full(3, at, np.float32) for at, name in enumerate("abc")}
SHARDS = {"a": "x.safetensors", "b": "y.safetensors", "c": "x.safetensors"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "m", 4)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return sharded(tmp_path / "allowed", WHOLE, SHARDS)


def swap_uri(store: Store, uri: object, *roots: object, **limits: int) -> Version:
    intake = Intake(store, "m", CONSTANTS, WeightsLimits.model_validate(limits), [str(root) for root in roots])
    return intake.of_uri(str(uri), SwapOptions(), BUILT_IN)


def is_stored(store: Store, version: Version, index: Path) -> bool:
    path = Path(str(store.file(version)))
    assert {name: array.tolist() for name, array in load_file(path).items()} == {
        name: array.tolist() for name, array in WHOLE.items()
    }
    assert list((Path(store.root) / "incoming").iterdir()) == []
    return path.read_bytes() == b"".join(open_checkpoint(index).pieces(100))


@pytest.mark.parametrize("place", ["folder", "index", "file-uri"])
def test_shards_of_this_host_become_one_file(store: Store, index: Path, place: str) -> None:
    uri = {"folder": index.parent, "index": index, "file-uri": f"file://{index}"}[place]
    assert is_stored(store, swap_uri(store, uri, index.parent), index)


def test_shards_elsewhere_become_one_file(store: Store, index: Path) -> None:
    for path in index.parent.iterdir():
        (UPath("memory://shards") / path.name).write_bytes(path.read_bytes())
    assert is_stored(store, swap_uri(store, "memory://shards/" + index.name, "memory://shards"), index)


def test_names_are_encoded_in_uris_where_the_index_is(store: Store, tmp_path: Path) -> None:
    names = {"a": "50% a.safetensors", "b": "b.safetensors", "c": "b.safetensors"}
    index = sharded(tmp_path / "allowed", WHOLE, names)
    assert is_stored(store, swap_uri(store, f"file://{index}", index.parent), index)
    assert is_stored(store, swap_uri(store, index, index.parent), index)


def test_the_configuration_may_name_shards_and_links_to_them(store: Store, index: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in index.parent.iterdir():
        (snapshot / path.name).symlink_to(path)
    intake = Intake(store, "m", CONSTANTS, WeightsLimits(), [])
    for place in (index, index.parent, snapshot, snapshot / index.name):
        assert is_stored(store, intake.of_local(place, SwapOptions()), index)


def test_a_shard_that_is_a_link_out_of_the_roots_is_refused(store: Store, index: Path, tmp_path: Path) -> None:
    outside = index.with_name("y.safetensors").rename(tmp_path / "outside")
    index.with_name("y.safetensors").symlink_to(outside)
    with pytest.raises(SourceRefused, match=r"y\.safetensors.*outside the allowed"):
        swap_uri(store, index, index.parent)


@pytest.mark.parametrize(
    ("limits", "error", "said"),
    [
        pytest.param({"max_weights_bytes": 200}, WeightsTooLarge, "more than 200 bytes", id="bytes"),
        pytest.param({"max_weights_header_bytes": 40}, WeightsTooLarge, "max_weights_header_bytes", id="header"),
        pytest.param({"max_weights_tensors": 2}, WeightsTooLarge, "more than 2 tensors", id="tensors"),
    ],
)
def test_the_limits_are_those_of_a_file(
    store: Store, index: Path, limits: dict[str, int], error: type[AotiServeError], said: str
) -> None:
    with pytest.raises(error, match=said):
        swap_uri(store, index, index.parent, **limits)
    assert store.versions() == []
    assert list((Path(store.root) / "incoming").iterdir()) == []


def test_the_limit_of_bytes_holds_for_the_configuration(store: Store, index: Path) -> None:
    with pytest.raises(WeightsTooLarge, match="more than 100 bytes"):
        Intake(store, "m", CONSTANTS, WeightsLimits(max_weights_bytes=100), []).of_local(index, SwapOptions())


def test_what_is_wrong_with_a_shard_is_said_by_its_name(store: Store, index: Path) -> None:
    index.with_name("y.safetensors").write_bytes(b"nothing")
    with pytest.raises(UnreadableWeights, match=r"shard y\.safetensors: not a whole safetensors file"):
        swap_uri(store, index, index.parent)
    index.with_name("y.safetensors").unlink()
    with pytest.raises(UnreadableWeights, match=r"no file at .*/y\.safetensors"):
        swap_uri(store, index, index.parent)


def test_the_joined_file_is_checked_as_any_other(store: Store, tmp_path: Path) -> None:
    index = sharded(tmp_path / "allowed", WHOLE, {"a": "x.safetensors", "b": "y.safetensors"})
    with pytest.raises(MissingTensor, match="'c'"):
        swap_uri(store, index, index.parent)


def test_a_uri_with_a_query_names_one_file_only(store: Store) -> None:
    with pytest.raises(UnreadableWeights, match="a URI with a query names one file only"):
        swap_uri(store, "https://host/m/model.safetensors.index.json?sig=secret", "https://host/m")


def test_a_folder_without_weights_says_what_is_looked_for(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UnreadableWeights, match=r"holds neither of model\.safetensors\.index\.json and"):
        swap_uri(store, tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "x\0"])
def test_a_name_that_no_file_can_have_is_no_file(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableWeights, match="no file at"):
        swap_uri(store, tmp_path / name, tmp_path)
    with pytest.raises(UnreadableWeights, match="no file at"):
        open_checkpoint(tmp_path / name)
