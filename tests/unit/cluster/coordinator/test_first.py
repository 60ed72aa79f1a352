"""What a new store is given first: the configuration's weights, or why it cannot have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aoti_serve.cluster.coordinator.first import first_committed, intake_of, unfit_first
from aoti_serve.config import ModelConfig, WeightsLimits
from aoti_serve.errors import InvalidConfig
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.files.pickles import pickled
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Committed

SIGNATURE = Signature(
    inputs=(), outputs=(), constants=(ConstantSpec(name="w", dtype="float32", shape=(2,), stride=(1,)),)
)


def test_a_pickle_is_named_once() -> None:
    file = Path("first.pt")
    assert unfit_first(file, pickled(str(file))).count("first.pt is a pickle") == 1


def committed_from(folder: Path, *values: float) -> Committed:
    file = folder / "first.safetensors"
    save_file({"w": np.array(values, np.float32)}, file)
    model = ModelConfig(name="m", package=folder / "m.pt2", weights=file, store=str(folder / "store"))
    intake = intake_of(Store(model.store_root, "m", 2), model, SIGNATURE, WeightsLimits(), carries_weights=False)
    return first_committed(intake, model, SIGNATURE, carries_weights=False)


def test_the_first_weights_are_committed_under_the_files_name(tmp_path: Path) -> None:
    found = committed_from(tmp_path, 1, 2)
    assert (found.epoch, found.version.number, found.version.label) == (1, 1, "first")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param((1, np.nan), "1 NaN and 0 infinite of 2 values", id="nan"),
        pytest.param((1, 2, 3), "shape [3], the package takes [2]", id="shape"),
    ],
)
def test_weights_that_cannot_be_the_first_are_named_with_their_model(
    tmp_path: Path, values: tuple[float, ...], reason: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        committed_from(tmp_path, *values)
    text = str(caught.value)
    assert text.startswith(f"model 'm': weights {tmp_path}/first.safetensors: tensor 'w': ")
    assert reason in text
    assert "skip_acceptance" not in text, "a start has no such option"
