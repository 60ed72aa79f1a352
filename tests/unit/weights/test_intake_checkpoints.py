"""Checkpoints with other names and dtypes than the package's become versions, and say what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import (
    AotiServeError,
    BaseHasNoFile,
    DigestMismatch,
    IncompatiblePackage,
    MissingTensor,
    OtherNames,
    PickledWeights,
    UnknownTensor,
    WrongNameRule,
    WrongTensorDtype,
)
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.signature.name_rules import NameRules, ReadingRules
from aoti_serve.weights.intake import Intake, WriteBuiltIn
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version

CONSTANTS = Constants(
    constants=tuple(
        ConstantSpec(name=f"layer.{kind}", dtype="bfloat16", shape=(4,), stride=(1,)) for kind in ("bias", "weight")
    )
)
WHOLE = {"layer.bias": torch.arange(4).bfloat16(), "layer.weight": torch.tensor([0.5, 1, 2, 3]).bfloat16()}
PUBLISHED = {f"bert.{name}": tensor for name, tensor in WHOLE.items()} | {"cls.weight": torch.ones(2)}
RULES: dict[str, Any] = {"rename": [r"bert\.="], "drop": ["cls.*"]}


class Model:
    """A model's store, and what takes files into it."""

    def __init__(self, folder: Path, rules: ReadingRules | None = None, built_in: WriteBuiltIn | None = None) -> None:
        self.store = Store(folder / "store", "m", 4)
        rules = rules or ReadingRules()
        self.intake = Intake(self.store, "m", CONSTANTS, WeightsLimits(), [str(folder)], rules, built_in)

    def take(self, tensors: dict[str, torch.Tensor], current: Version = BUILT_IN, **asked: Any) -> Version:
        path = self.store.incoming()
        save_file(tensors, path)
        return self.intake.of_file(path, SwapOptions.model_validate(asked), current)

    def stored(self, version: Version) -> dict[str, torch.Tensor]:
        return load_file(str(self.store.file(version)))

    def holds(self, version: Version, tensors: dict[str, torch.Tensor]) -> bool:
        found = self.stored(version)
        return found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path)


def test_a_published_checkpoint_is_stored_under_the_packages_names(model: Model) -> None:
    version = model.take(PUBLISHED, **RULES)
    assert model.holds(version, WHOLE)
    assert version.names == NameRules.model_validate(RULES)
    assert version.rounding is None
    model.store.commit(version, 1, None)
    assert Store(model.store.root, "m", 4).versions() == [version]


def test_without_rules_the_error_has_those_that_make_it_fit(model: Model) -> None:
    with pytest.raises(OtherNames) as caught:
        model.take(PUBLISHED)
    assert str(caught.value) == (
        "the weights do not have the package's names: 2 of the 3 names have the prefix 'bert.', which the package has "
        r"not, and it has nothing for 'cls.weight'; they fit with --rename 'bert\.=' --drop 'cls\..*'"
    )


def test_other_names_of_the_weights_that_answer_are_no_change(model: Model) -> None:
    answers = model.take(WHOLE)
    assert model.take(PUBLISHED, answers, **RULES) == answers
    assert answers.names is None


def test_two_names_may_change_places(model: Model) -> None:
    swap = [r"layer\.bias=old", r"layer\.weight=layer.bias", "old=layer.weight"]
    version = model.take(WHOLE, rename=swap)
    assert model.holds(version, {"layer.bias": WHOLE["layer.weight"], "layer.weight": WHOLE["layer.bias"]})


def test_the_configurations_rules_are_for_all_that_bring_none(tmp_path: Path) -> None:
    model = Model(tmp_path, ReadingRules.model_validate(RULES))
    save_file(PUBLISHED, tmp_path / "published.safetensors")
    first = model.intake.of_local(tmp_path / "published.safetensors", SwapOptions())
    again = model.intake.of_uri(str(tmp_path / "published.safetensors"), SwapOptions(), BUILT_IN)
    for version in (first, again, model.take(PUBLISHED)):
        assert model.holds(version, WHOLE)
    with pytest.raises(OtherNames):
        model.take(PUBLISHED, rename=[])
    with pytest.raises(UnknownTensor):
        model.take(PUBLISHED, drop=[])


def test_a_partial_swap_is_renamed_too(model: Model) -> None:
    base = model.store.commit(model.take(WHOLE), 1, None).version
    change = {"bert.layer.bias": torch.full((4,), 7.0), "cls.weight": torch.ones(2)}
    version = model.take(change, base, partial=True, base_version=base.number, cast=True, **RULES)
    assert model.holds(version, WHOLE | {"layer.bias": torch.full((4,), 7.0).bfloat16()})
    assert version.rounding is not None
    assert version.rounding.error == 0


def test_floats_of_another_width_are_refused_unless_a_cast_is_asked_for(model: Model) -> None:
    wide = {name: tensor.float() + 0.001 for name, tensor in WHOLE.items()}
    with pytest.raises(WrongTensorDtype, match="--cast"):
        model.take(wide)
    version = model.take(wide, cast=True)
    assert model.holds(version, {name: tensor.bfloat16() for name, tensor in wide.items()})
    assert version.rounding is not None
    assert version.rounding.tensors == 2
    assert version.rounding.error == pytest.approx(0.001, rel=1e-3)


def test_a_cast_of_what_fits_changes_no_byte(model: Model) -> None:
    version = model.take(WHOLE, cast=True)
    assert version.rounding is None
    assert version.digest == sha256(save(WHOLE)).hexdigest()


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        pytest.param({"rename": ["(="]}, WrongNameRule, id="no-rule"),
        pytest.param({"rename": [r"bert\.layer\.\w+=same"]}, WrongNameRule, id="one-name-for-two"),
        pytest.param(RULES | {"drop": ["cls.*", ".*bias"]}, MissingTensor, id="dropped-too-much"),
        pytest.param(RULES | {"sha256": "0" * 64}, DigestMismatch, id="digest-of-what-was-sent"),
        pytest.param(RULES | {"partial": True, "base_version": 0}, BaseHasNoFile, id="no-base"),
    ],
)
def test_what_fails_leaves_nothing(model: Model, asked: dict[str, Any], error: type[AotiServeError]) -> None:
    with pytest.raises(error):
        model.take(PUBLISHED, **asked)
    assert model.store.versions() == []
    assert len(list((Path(model.store.root) / "incoming").iterdir())) == 1  # the upload, which the caller removes


def test_the_digest_is_that_of_what_was_sent(model: Model) -> None:
    assert model.holds(model.take(PUBLISHED, sha256=sha256(save(PUBLISHED)).hexdigest(), **RULES), WHOLE)


def test_a_pickle_elsewhere_is_refused_by_its_place(model: Model, tmp_path: Path) -> None:
    torch.save(WHOLE, tmp_path / "model.pt")
    with pytest.raises(PickledWeights, match=f"aoti-serve convert {tmp_path}/model.pt model.safetensors"):
        model.intake.of_uri(str(tmp_path / "model.pt"), SwapOptions(), BUILT_IN)


def test_a_pickle_that_was_uploaded_is_not_called_by_its_name_on_the_server(model: Model) -> None:
    path = model.store.incoming()
    torch.save(WHOLE, path)
    with pytest.raises(PickledWeights, match=r"^the upload is a pickle.*`aoti-serve convert FILE FILE\.safetensors`"):
        model.intake.of_file(path, SwapOptions(), BUILT_IN)


def test_a_rule_that_is_none_is_refused_before_anything_is_fetched(model: Model) -> None:
    with pytest.raises(WrongNameRule):
        model.intake.of_uri("/nowhere/at.all", SwapOptions(drop=("[",)), BUILT_IN)


# Version 0


def writes(tensors: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path)


def test_a_partial_swap_on_the_built_in_weights_keeps_the_rest_of_them(tmp_path: Path) -> None:
    model = Model(tmp_path, built_in=writes(WHOLE))
    version = model.take({"layer.bias": WHOLE["layer.bias"] + 1}, partial=True, base_version=0)
    assert model.holds(version, WHOLE | {"layer.bias": WHOLE["layer.bias"] + 1})
    assert version.parent == 0
    assert len(list((tmp_path / "store" / "incoming").iterdir())) == 1


def test_built_in_weights_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise IncompatiblePackage(path=tmp_path, reason="compiled for cuda, no card here")

    model = Model(tmp_path, built_in=fails)
    with pytest.raises(BaseHasNoFile, match=r"no card here.*swap in a complete file first"):
        model.take({"layer.bias": WHOLE["layer.bias"]}, partial=True, base_version=0)
    assert len(list((tmp_path / "store" / "incoming").iterdir())) == 1


def test_an_adapter_and_a_delta_still_need_a_file(tmp_path: Path) -> None:
    model = Model(tmp_path, built_in=writes(WHOLE))
    for asked in ({"delta": True}, {"adapter": True, "adapter_config": {"r": 1, "lora_alpha": 1}}):
        with pytest.raises(BaseHasNoFile):
            model.take(WHOLE, **asked)
