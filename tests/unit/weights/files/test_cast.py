"""Floats of another width: what they become, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from aoti_serve.errors import UnfitTensor
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.signature.name_rules import ReadingRules
from aoti_serve.weights.files.cast import cast_parts, read_spans, rounding_of
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.files.merge import merge_weights, parts_in
from aoti_serve.weights.version import Rounding

VALUES = torch.tensor([[1.0, -3.14159], [1e-3, 65504.0]])


def constants(dtype: str) -> Constants:
    spec = ConstantSpec(name="w", dtype=dtype, shape=(2, 2), stride=(2, 1))
    count = ConstantSpec(name="n", dtype="int64", shape=(), stride=())
    return Constants(constants=(spec, count), tied={"head": "w"})


def cast(folder: Path, tensors: dict[str, torch.Tensor], dtype: str) -> tuple[dict[str, torch.Tensor], Rounding | None]:
    """What a checkpoint becomes, and what is told of it."""
    source, target = folder / "source", folder / "target"
    save_file(tensors, source)
    with source.open("rb") as file:
        parts = parts_in(file, read_index(source))
        casts = cast_parts(parts, constants(dtype))
        merge_weights(parts, casts, target, {})
    return load_file(target), rounding_of(casts.values())


@pytest.mark.parametrize("before", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("after", ["float16", "bfloat16", "float32", "float64"])
def test_a_cast_is_torchs_own(before: torch.dtype, after: str, tmp_path: Path) -> None:
    given = {"w": VALUES.clamp(max=65000).to(before), "n": torch.tensor(7)}
    made, _ = cast(tmp_path, given, after)
    assert torch.equal(made["w"], given["w"].to(getattr(torch, after)))
    assert torch.equal(made["n"], given["n"])


def test_the_largest_rounding_is_told_with_its_value(tmp_path: Path) -> None:
    values = torch.zeros(2, 2)
    values[1] = torch.tensor([1.001, -300.7])
    _, told = cast(tmp_path, {"w": values, "head": torch.ones(2, 2)}, "bfloat16")
    rounded = abs(300.7 - float(torch.tensor(300.7).bfloat16()))
    assert told is not None
    assert (told.tensors, told.tensor) == (2, "w")
    assert told.error == pytest.approx(rounded, rel=1e-4)
    assert told.value == pytest.approx(300.7, rel=1e-6)


def test_a_wider_float_is_exact(tmp_path: Path) -> None:
    _, told = cast(tmp_path, {"w": VALUES.bfloat16()}, "float32")
    assert told == Rounding(tensors=1, tensor="w", error=0.0, value=0.0)


def test_what_fits_is_not_touched(tmp_path: Path) -> None:
    assert cast(tmp_path, {"w": VALUES}, "float32")[1] is None


def test_a_value_beyond_the_dtype_is_refused_and_not_made_infinite(tmp_path: Path) -> None:
    with pytest.raises(UnfitTensor, match="'w': 70000 is beyond the largest float16"):
        cast(tmp_path, {"w": torch.full((2, 2), 70000.0)}, "float16")


def test_values_that_are_no_numbers_stay_so(tmp_path: Path) -> None:
    given = torch.tensor([[float("nan"), float("inf")], [1.0, -float("inf")]])
    made, told = cast(tmp_path, {"w": given}, "bfloat16")
    assert torch.equal(made["w"].isnan(), given.isnan())
    assert torch.equal(made["w"].isinf(), given.isinf())
    assert told is not None
    assert told.error == 0


def test_integers_and_other_kinds_are_left_to_be_refused(tmp_path: Path) -> None:
    assert cast(tmp_path, {"w": torch.ones(2, 2, dtype=torch.int32)}, "float32")[1] is None


def test_the_header_alone_says_what_a_checkpoint_becomes(tmp_path: Path) -> None:
    save_file({"model.w": VALUES, "extra": VALUES.clone()}, tmp_path / "w")
    rules = ReadingRules(rename=(r"model\.=",), drop=("extra",), cast=True)
    spans = read_spans(read_index(tmp_path / "w"), rules, constants("bfloat16"))
    assert {name: (span.dtype, span.shape) for name, span in spans.items()} == {"w": ("bfloat16", (2, 2))}


def test_the_chunks_of_a_large_tensor_are_measured_together(tmp_path: Path) -> None:
    values: NDArray[Any] = np.linspace(-1, 1, 3 << 20, dtype=np.float32)
    values[0] = 999.5
    _, told = cast(tmp_path, {"w": torch.from_numpy(values)}, "bfloat16")
    assert told is not None
    assert told.error == abs(float(values[0].astype(ml_dtypes.bfloat16)) - 999.5)
