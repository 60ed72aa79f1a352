"""What becomes a version, and that what does not leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import (
    AotiServeError,
    BaseHasNoFile,
    BaseVersionMismatch,
    ConstantIsBaked,
    DigestMismatch,
    MissingTensor,
    UnfitTensor,
    UnknownTensor,
    WeightsTooLarge,
)
from aoti_serve.signature.constants import BakedConstant, Constants, ConstantSpec
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version

BAKED = np.ones(2, np.float32)
CONSTANTS = Constants(
    constants=(
        ConstantSpec(name="bias", dtype="float32", shape=(3,), stride=(1,)),
        ConstantSpec(name="flags", dtype="bool", shape=(2,), stride=(1,)),
    ),
    baked=(BakedConstant(name="scale", dtype="float32", shape=(2,), digest=sha256(BAKED.tobytes()).hexdigest()),),
)
WHOLE = {"bias": np.arange(3, dtype=np.float32), "flags": np.array([True, False]), "scale": BAKED}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "m", 4)


def intake(store: Store, tmp_path: Path, **limits: int) -> Intake:
    return Intake(store, "m", CONSTANTS, WeightsLimits.model_validate(limits), [str(tmp_path)])


def upload(store: Store, **changes: np.ndarray | None) -> Path:
    path = store.incoming()
    tensors = {name: tensor for name, tensor in (WHOLE | changes).items() if tensor is not None}
    save_file(tensors, path)
    return path


def only(store: Store, **tensors: np.ndarray) -> Path:
    path = store.incoming()
    save_file(tensors, path)
    return path


def first(store: Store, tmp_path: Path) -> Version:
    version = intake(store, tmp_path).of_file(upload(store), SwapOptions(label="first"), BUILT_IN)
    return store.commit(version, 1, None).version


def test_a_whole_file_becomes_a_version(store: Store, tmp_path: Path) -> None:
    version = first(store, tmp_path)
    assert (version.number, version.label, version.parent, version.tensors) == (1, "first", 0, 3)


def test_a_partial_file_becomes_a_whole_version_on_its_base(store: Store, tmp_path: Path) -> None:
    base = first(store, tmp_path)
    changes = only(store, bias=np.full(3, 7, np.float32))
    order = SwapOptions(partial=True, base_version=1, sha256=sha256(changes.read_bytes()).hexdigest())
    version = intake(store, tmp_path).of_file(changes, order, base)
    assert version.parent == 1
    stored = load_file(str(store.file(version)))
    assert stored["bias"].tolist() == [7, 7, 7]
    assert stored["flags"].tolist() == [True, False]


def test_the_bytes_that_answer_already_make_no_new_version(store: Store, tmp_path: Path) -> None:
    """A client that repeats its swap after a timeout keeps its way back."""
    answers = first(store, tmp_path)
    again = intake(store, tmp_path).of_file(upload(store), SwapOptions(label="again"), answers)
    assert again == answers
    assert store.versions() == [answers]
    assert [path.name for path in (tmp_path / "store" / "versions").iterdir()] == ["1"]
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_a_partial_file_that_changes_nothing_makes_no_new_version(store: Store, tmp_path: Path) -> None:
    base = first(store, tmp_path)
    whole = intake(store, tmp_path).of_file(
        only(store, bias=np.full(3, 7, np.float32)), SwapOptions(partial=True, base_version=1), base
    )
    store.commit(whole, 2, base)
    order = SwapOptions(partial=True, base_version=whole.number)
    assert intake(store, tmp_path).of_file(only(store, bias=np.full(3, 7, np.float32)), order, whole) == whole


@pytest.mark.parametrize(
    ("changes", "strict"),
    [
        pytest.param({"bias": np.zeros(3, np.float32)}, True, id="other-bytes"),
        pytest.param({}, False, id="less-strict"),
    ],
)
def test_anything_else_makes_a_new_version(
    store: Store, tmp_path: Path, changes: dict[str, np.ndarray], strict: bool
) -> None:
    answers = first(store, tmp_path)
    made = intake(store, tmp_path).of_file(upload(store, **changes), SwapOptions(strict=strict), answers)
    assert (made.number, made.strict) == (2, strict)


def test_the_bytes_of_an_older_version_make_a_new_one(store: Store, tmp_path: Path) -> None:
    older = first(store, tmp_path)
    answers = intake(store, tmp_path).of_file(upload(store, bias=np.zeros(3, np.float32)), SwapOptions(), older)
    store.commit(answers, 2, older)
    assert intake(store, tmp_path).of_file(upload(store), SwapOptions(), answers).number == 3


@pytest.mark.parametrize(
    ("made", "order", "error"),
    [
        pytest.param(lambda store: upload(store, bias=None), SwapOptions(), MissingTensor, id="missing"),
        pytest.param(lambda store: upload(store, more=BAKED), SwapOptions(), UnknownTensor, id="unknown"),
        pytest.param(lambda store: upload(store, scale=2 * BAKED), SwapOptions(), ConstantIsBaked, id="baked"),
        pytest.param(upload, SwapOptions(sha256="0" * 64), DigestMismatch, id="digest"),
        pytest.param(upload, SwapOptions(base_version=7), BaseVersionMismatch, id="base"),
        pytest.param(
            lambda store: only(store, bias=BAKED), SwapOptions(partial=True, base_version=0), AotiServeError, id="shape"
        ),
        pytest.param(
            lambda store: only(store, bias=WHOLE["bias"]),
            SwapOptions(partial=True, base_version=0),
            BaseHasNoFile,
            id="no-base",
        ),
    ],
)
def test_what_does_not_fit_leaves_no_version(
    store: Store, tmp_path: Path, made: Callable[[Store], Path], order: SwapOptions, error: type[AotiServeError]
) -> None:
    path = made(store)
    with pytest.raises(error):
        intake(store, tmp_path).of_file(path, order, BUILT_IN)
    store.discard(path)
    assert store.versions() == []
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_a_bool_that_is_neither_is_refused_before_anybody_stages_it(store: Store, tmp_path: Path) -> None:
    path = upload(store)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"\x01\x00", b"\x02\x00") if content.endswith(b"\x01\x00") else content[:-2] + b"\x02\x00"
    )
    with pytest.raises(UnfitTensor, match="'flags'"):
        intake(store, tmp_path).of_file(path, SwapOptions(), BUILT_IN)


def test_without_strict_a_compiled_in_value_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    version = intake(store, tmp_path).of_file(upload(store, scale=2 * BAKED), SwapOptions(strict=False), BUILT_IN)
    assert not version.strict


def test_a_wrong_base_is_refused_before_anything_is_fetched(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BaseVersionMismatch):
        intake(store, tmp_path).of_uri(str(tmp_path / "nowhere"), SwapOptions(base_version=7), BUILT_IN)


def test_a_file_elsewhere_is_copied_and_stays(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere.safetensors"
    upload(store).rename(source)
    version = intake(store, tmp_path).of_uri(str(source), SwapOptions(), BUILT_IN)
    assert source.read_bytes() == store.file(version).read_bytes()
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_the_configured_first_file_may_be_a_link_to_anywhere(store: Store, tmp_path: Path) -> None:
    source = upload(store).rename(tmp_path / "real.safetensors")
    link = tmp_path / "folder" / "first.safetensors"
    link.parent.mkdir()
    link.symlink_to(source)
    assert Intake(store, "m", CONSTANTS, WeightsLimits(), []).of_local(link, SwapOptions()).number == 1


@pytest.mark.parametrize("limit", ["max_weights_tensors", "max_weights_header_bytes"])
def test_the_limits_are_those_of_the_gateway(store: Store, tmp_path: Path, limit: str) -> None:
    with pytest.raises(WeightsTooLarge, match=limit):
        intake(store, tmp_path, **{limit: 2}).of_file(upload(store), SwapOptions(), BUILT_IN)
