"""Adapters as versions: which version one is merged into, what is recorded, what stays to go back to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import (
    AotiServeError,
    BaseHasNoFile,
    ConstantIsBaked,
    DigestMismatch,
    SourceRefused,
    UnfitAdapter,
    UnknownTensor,
    UnknownWeightsVersion,
    UnreadableWeights,
    WeightsTooLarge,
    WrongTensorDtype,
    WrongTensorShape,
)
from aoti_serve.signature.constants import BakedConstant, Constants, ConstantSpec
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, MergedAdapter, Version

BAKED = np.ones((2, 2), np.float32)
CONSTANTS = Constants(
    constants=(
        ConstantSpec(name="fc.weight", dtype="float32", shape=(2, 3), stride=(3, 1)),
        ConstantSpec(name="fc.bias", dtype="float32", shape=(2,), stride=(1,)),
    ),
    baked=(BakedConstant(name="b.weight", dtype="float32", shape=(2, 2), digest=sha256(BAKED.tobytes()).hexdigest()),),
)
KEEP = 3
CONFIG: dict[str, Any] = {"r": 1, "lora_alpha": 1, "peft_type": "LORA"}


def adapter(by: float, module: str = "fc", shape: tuple[int, int] = (2, 3)) -> dict[str, np.ndarray]:
    """Raises every element by so much."""
    name, (rows, columns) = f"base_model.model.{module}", shape
    return {
        f"{name}.lora_A.weight": np.full((1, columns), by, np.float32),
        f"{name}.lora_B.weight": np.ones((rows, 1), np.float32),
    }


class Weights:
    """What the coordinator does with a model's weights: each swap is admitted, and committed."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.folder = folder
        self.store = Store(folder / "store", "m", KEEP)
        self.intake = Intake(
            self.store, "m", CONSTANTS, WeightsLimits.model_validate(limits), [str(folder / "allowed")]
        )

    @property
    def current(self) -> Version:
        committed = self.store.committed()
        return committed.version if committed else BUILT_IN

    def swap(self, tensors: Mapping[str, np.ndarray], **options: Any) -> Version:
        path = self.store.incoming()
        save_file(dict(tensors), path)
        try:
            return self.commit(self.intake.of_file(path, SwapOptions.model_validate(options), self.current))
        finally:
            self.store.discard(path)

    def swap_uri(self, uri: Path | str, **options: Any) -> Version:
        asked = SwapOptions.model_validate({"adapter": True} | options)
        return self.commit(self.intake.of_uri(str(uri), asked, self.current))

    def plain(self, value: float) -> Version:
        weight, bias = np.full((2, 3), value, np.float32), np.zeros(2, np.float32)
        return self.swap({"fc.weight": weight, "fc.bias": bias, "b.weight": BAKED})

    def adapt(self, by: float, **options: Any) -> Version:
        return self.swap(adapter(by), adapter=True, adapter_config=CONFIG, **options)

    def commit(self, version: Version) -> Version:
        if version != self.current:
            self.store.commit(version, self.store.epoch + 1, self.current)
        return version

    def values(self, version: Version) -> set[float]:
        return set(load_file(str(self.store.file(version)))["fc.weight"].ravel().tolist())

    def leftovers(self) -> list[Path]:
        return list((self.folder / "store" / "incoming").iterdir())


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return Weights(tmp_path)


def test_a_version_is_whole_and_names_its_base_and_its_adapter(weights: Weights) -> None:
    base, made = weights.plain(1), weights.adapt(0.5)
    assert (made.number, made.parent, made.tensors) == (2, 1, 3)
    assert made.adapter is not None
    assert (made.adapter.base, len(made.adapter.digest)) == (base.number, 64)
    assert weights.values(made) == {1.5}
    assert weights.leftovers() == []


def test_the_record_outlives_the_process(weights: Weights, tmp_path: Path) -> None:
    weights.plain(1)
    made = weights.adapt(0.5)
    again = Weights(tmp_path)
    assert again.current == made
    assert again.store.versions()[-1] == made
    assert again.values(again.adapt(2)) == {3}


def test_adapters_do_not_pile_up(weights: Weights) -> None:
    weights.plain(1)
    for by in (0.5, 2, 4):
        made = weights.adapt(by)
        assert (made.adapter_base, weights.values(made)) == (1, {1 + by})


def test_a_plain_swap_after_adapters_is_plain_and_the_next_ones_base(weights: Weights) -> None:
    weights.plain(1)
    weights.adapt(0.5)
    plain = weights.plain(10)
    assert (plain.adapter, weights.values(plain)) == (None, {10})
    assert weights.values(weights.adapt(0.5)) == {10.5}


def test_a_partial_swap_makes_an_adapters_version_plain(weights: Weights) -> None:
    weights.plain(1)
    made = weights.adapt(0.5)
    changed = weights.swap({"fc.bias": np.ones(2, np.float32)}, partial=True, base_version=made.number)
    assert (changed.adapter, weights.values(changed)) == (None, {1.5})
    assert weights.values(weights.adapt(1)) == {2.5}


def test_another_base_can_be_chosen_and_stays_chosen(weights: Weights) -> None:
    first, _, third = weights.plain(1), weights.plain(10), weights.adapt(0.5)
    assert weights.values(weights.adapt(2, base_version=first.number)) == {3}
    assert weights.values(weights.adapt(4)) == {5}
    assert weights.values(weights.adapt(1, base_version=third.number)) == {11.5}


def test_a_base_stays_as_long_as_its_adapters_answer(weights: Weights) -> None:
    weights.plain(1)
    for by in range(2 * KEEP):
        weights.adapt(by)
    kept = [version.number for version in weights.store.versions()]
    assert kept == [1, *range(2 * KEEP - KEEP + 2, 2 * KEEP + 2)]
    weights.plain(7)
    assert 1 in weights.store.numbers(), "what was before that may be rolled back to, and adapted further"
    weights.plain(8)
    assert 1 not in weights.store.numbers()


def test_the_same_adapter_again_changes_nothing(weights: Weights) -> None:
    weights.plain(1)
    made = weights.adapt(0.5)
    assert weights.adapt(0.5) == made
    assert weights.leftovers() == []


def test_the_same_bytes_without_the_adapter_are_another_version(weights: Weights) -> None:
    weights.plain(1)
    made = weights.adapt(0.5)
    plain = weights.plain(1.5)
    assert (plain.digest, plain.number, plain.adapter) == (made.digest, made.number + 1, None)


def test_a_package_with_weights_inside_has_no_file_to_adapt(weights: Weights) -> None:
    with pytest.raises(BaseHasNoFile, match="swap in a complete file first"):
        weights.adapt(1)
    weights.plain(1)
    with pytest.raises(BaseHasNoFile):
        weights.adapt(1, base_version=0)


def test_whole_tensors_of_an_adapter_are_checked_as_any(weights: Weights) -> None:
    weights.plain(1)
    bias = {"base_model.model.fc.base_layer.bias": np.full(2, 3, np.float32)}
    made = weights.swap(adapter(1) | bias, adapter=True, adapter_config=CONFIG | {"bias": "lora_only"})
    assert load_file(str(weights.store.file(made)))["fc.bias"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("tensors", "options", "error"),
    [
        pytest.param(adapter(1, "gone"), {}, UnknownTensor, id="module"),
        pytest.param(adapter(1, shape=(3, 2)), {}, UnfitAdapter, id="shape"),
        pytest.param(adapter(1), {"base_version": 9}, UnknownWeightsVersion, id="base"),
        pytest.param(adapter(1), {"sha256": "0" * 64}, DigestMismatch, id="digest"),
        pytest.param(adapter(1), {"adapter_config": CONFIG | {"r": 2}}, UnfitAdapter, id="rank"),
        pytest.param(adapter(1, "b", (2, 2)), {}, ConstantIsBaked, id="compiled-in"),
        pytest.param({"base_model.model.head": np.zeros(1)}, {}, UnknownTensor, id="whole-name"),
        pytest.param({"base_model.model.fc.bias": np.zeros(2)}, {}, WrongTensorDtype, id="whole-dtype"),
        pytest.param({"base_model.model.fc.bias": np.zeros(1, np.float32)}, {}, WrongTensorShape, id="whole-shape"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    weights: Weights, tensors: dict[str, np.ndarray], options: dict[str, Any], error: type[AotiServeError]
) -> None:
    plain = weights.plain(1)
    with pytest.raises(error):
        weights.swap(tensors, **({"adapter": True, "adapter_config": CONFIG} | options))
    assert (weights.store.versions(), weights.leftovers()) == ([plain], [])


def saved(folder: Path, by: float, config: dict[str, Any] | None = CONFIG) -> Path:
    folder.mkdir(parents=True)
    save_file(adapter(by), folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapter_model.safetensors"


def test_the_settings_of_an_adapter_elsewhere_are_read_beside_it(weights: Weights, tmp_path: Path) -> None:
    weights.plain(1)
    path = saved(tmp_path / "allowed" / "a", 2, CONFIG | {"lora_alpha": 3})
    made = weights.swap_uri(path)
    assert weights.values(made) == {7}
    assert made.adapter == MergedAdapter(base=1, digest=sha256(path.read_bytes()).hexdigest())
    assert weights.values(weights.swap_uri(f"file://{path}", adapter_config=CONFIG)) == {3}
    assert weights.leftovers() == []


@pytest.mark.parametrize(
    ("config", "limits", "error", "said"),
    [
        pytest.param(None, {}, UnreadableWeights, "no file at .*/a/adapter_config.json", id="missing"),
        pytest.param(CONFIG | {"use_dora": True}, {}, UnfitAdapter, "/a/adapter_config.json: use_dora True", id="dora"),
        pytest.param(
            CONFIG | {"revision": "x" * 999},
            {"max_weights_header_bytes": 999},
            WeightsTooLarge,
            "header_bytes",
            id="long",
        ),
    ],
)
def test_settings_elsewhere_that_cannot_be_used_change_nothing(
    tmp_path: Path, config: dict[str, Any] | None, limits: dict[str, int], error: type[AotiServeError], said: str
) -> None:
    weights = Weights(tmp_path, **limits)
    plain, path = weights.plain(1), saved(tmp_path / "allowed" / "a", 2, config)
    with pytest.raises(error, match=said):
        weights.swap_uri(path)
    assert (weights.store.versions(), weights.leftovers()) == ([plain], [])


def test_settings_are_read_under_the_roots_only(weights: Weights, tmp_path: Path) -> None:
    weights.plain(1)
    path = saved(tmp_path / "allowed" / "a", 2, None)
    (tmp_path / "outside.json").write_text(json.dumps(CONFIG))
    (path.parent / "adapter_config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(SourceRefused, match="outside the allowed weights_roots"):
        weights.swap_uri(path)
