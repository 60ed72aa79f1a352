"""Deltas as versions: complete ones, made of the version that answers and of no other."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import (
    AotiServeError,
    BaseHasNoFile,
    BaseVersionMismatch,
    ConstantIsBaked,
    DeltaBaseMismatch,
    DigestMismatch,
    NotFinite,
    TiedTensorsDiffer,
    UnfitTensor,
    UnknownTensor,
    UnreadableWeights,
    WrongTensorShape,
)
from aoti_serve.signature.constants import BakedConstant, Constants, ConstantSpec
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version

BAKED = np.ones(2, np.float32)
CONSTANTS = Constants(
    constants=(
        ConstantSpec(name="embed", dtype="float32", shape=(4, 2), stride=(2, 1), finite=True),
        ConstantSpec(name="bias", dtype="float32", shape=(3,), stride=(1,)),
    ),
    tied={"head": "embed"},
    baked=(BakedConstant(name="scale", dtype="float32", shape=(2,), digest=sha256(BAKED.tobytes()).hexdigest()),),
)
TABLE = np.arange(8, dtype=np.float32).reshape(4, 2)
WHOLE = {"embed": TABLE, "head": TABLE, "bias": np.zeros(3, np.float32), "scale": BAKED}
ROWS = {"embed::rows": np.array([1, 3]), "embed::values": np.full((2, 2), 9, np.float32)}


class Weights:
    """What the coordinator does with a model's weights: each swap is admitted, and committed."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store", "m", 3)
        self.intake = Intake(self.store, "m", CONSTANTS, WeightsLimits(), [str(folder)])
        self.current = BUILT_IN

    def swap(self, tensors: Mapping[str, NDArray[Any]], made_from: str | None = None, **options: Any) -> Version:
        path = self.store.incoming()
        metadata = None if made_from is None else {"base_digest": made_from}
        save_file(dict(tensors), path, metadata=metadata)
        try:
            made = self.intake.of_file(path, SwapOptions.model_validate(options), self.current)
        finally:
            self.store.discard(path)
        if made != self.current:
            self.store.commit(made, self.store.epoch + 1, self.current)
        self.current = made
        return made

    def delta(self, changes: Mapping[str, NDArray[Any]], **options: Any) -> Version:
        return self.swap(changes, self.current.digest, delta=True, **options)

    def values(self, name: str) -> list[Any]:
        values: list[Any] = load_file(str(self.store.file(self.current)))[name].tolist()
        return values


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    found = Weights(tmp_path)
    found.swap(WHOLE)
    return found


def test_a_version_is_whole_and_names_its_parent(weights: Weights) -> None:
    made = weights.delta(ROWS)
    assert (made.number, made.parent, made.tensors, made.adapter) == (2, 1, 4, None)
    assert weights.values("embed") == weights.values("head") == [[0, 1], [9, 9], [4, 5], [9, 9]]
    assert weights.values("bias") == [0, 0, 0]
    assert list((Path(weights.store.root) / "incoming").iterdir()) == []


def test_the_next_delta_is_made_from_what_the_last_one_has_made(weights: Weights) -> None:
    weights.delta(ROWS)
    weights.delta({"bias::elements": np.array([0, 2]), "bias::values": np.array([1, 2], np.float32)}, base_version=2)
    assert weights.values("bias") == [1, 0, 2]
    assert weights.values("embed")[1] == [9, 9]


def test_changes_that_are_there_already_make_no_new_version(weights: Weights) -> None:
    made = weights.delta(ROWS)
    assert weights.delta(ROWS) == made


def test_a_delta_at_a_uri_is_merged_as_well(weights: Weights, tmp_path: Path) -> None:
    save_file(ROWS, tmp_path / "delta", metadata={"base_digest": weights.current.digest.upper()})
    made = weights.intake.of_uri(str(tmp_path / "delta"), SwapOptions(delta=True), weights.current)
    assert made.number == 2


def test_other_bytes_than_those_that_answer_are_no_base(weights: Weights) -> None:
    before = weights.current
    weights.delta(ROWS)
    with pytest.raises(DeltaBaseMismatch, match=f"sha256 {before.digest}, and those of version 2 have {'.' * 64}; ver"):
        weights.swap(ROWS, before.digest, delta=True)
    with pytest.raises(DeltaBaseMismatch, match="model 'm': the delta was made from weights with sha256 nonsense"):
        weights.swap(ROWS, "nonsense", delta=True)
    with pytest.raises(BaseVersionMismatch, match="base_version 1 is not what answers, version 2 is"):
        weights.swap(ROWS, before.digest, delta=True, base_version=1)
    assert len(weights.store.versions()) == 2


def test_a_rollback_makes_its_bytes_the_base_again(weights: Weights) -> None:
    before = weights.current
    weights.delta(ROWS)
    weights.current = before
    assert weights.delta({"bias": np.ones(3, np.float32)}).parent == 1
    assert weights.values("embed") == TABLE.tolist()


def test_what_is_built_in_is_in_no_file(tmp_path: Path) -> None:
    with pytest.raises(BaseHasNoFile):
        Weights(tmp_path).delta(ROWS)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param(ROWS | {"embed::rows": np.array([1, 4])}, UnfitTensor, id="range"),
        pytest.param({"other::rows": np.array([1]), "other::values": np.zeros((1, 2))}, UnfitTensor, id="unknown"),
        pytest.param({"other": np.zeros(1)}, UnknownTensor, id="unknown-whole"),
        pytest.param({"bias": np.zeros(4, np.float32)}, WrongTensorShape, id="shape"),
        pytest.param(
            {"scale::elements": np.array([1]), "scale::values": np.zeros(1, np.float32)}, ConstantIsBaked, id="baked"
        ),
        pytest.param(ROWS | {"embed::values": np.full((2, 2), np.nan, np.float32)}, NotFinite, id="nan"),
        pytest.param(
            ROWS | {"head::rows": np.array([0]), "head::values": np.zeros((1, 2), np.float32)},
            TiedTensorsDiffer,
            id="tied",
        ),
    ],
)
def test_what_does_not_fit_leaves_no_version(
    weights: Weights, changes: dict[str, NDArray[Any]], error: type[AotiServeError]
) -> None:
    with pytest.raises(error):
        weights.delta(changes)
    assert len(weights.store.versions()) == 1
    assert list((Path(weights.store.root) / "incoming").iterdir()) == []


def test_the_digest_that_is_asked_for_is_that_of_the_delta(weights: Weights) -> None:
    with pytest.raises(DigestMismatch):
        weights.delta(ROWS, sha256="0" * 64)


def test_a_file_that_names_no_base_is_no_delta(weights: Weights) -> None:
    with pytest.raises(UnreadableWeights, match="a delta needs `base_digest`"):
        weights.swap(ROWS, delta=True)


def test_a_delta_that_was_not_said_to_be_one_is_told_of_the_option(weights: Weights) -> None:
    with pytest.raises(UnreadableWeights, match=r"is changed rows or elements of a tensor: say --delta"):
        weights.swap(ROWS, weights.current.digest)
