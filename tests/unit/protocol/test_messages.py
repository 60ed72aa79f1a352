"""Requests and metadata as values."""

from __future__ import annotations

from typing import Any

import pytest

from aoti_serve.protocol.messages import RequestHead, model_metadata, without_parameters
from aoti_serve.signature.tensors import Dim, TensorSpec


@pytest.mark.parametrize(
    ("outputs", "binary", "default", "wanted"),
    [
        pytest.param(None, [], False, False, id="nothing-asked"),
        pytest.param(None, [], True, True, id="default"),
        pytest.param(["y"], ["y"], False, True, id="asked"),
        pytest.param(["y"], [], True, False, id="named-without-asking"),
        pytest.param(["y", "z"], ["z"], False, False, id="another-asked"),
    ],
)
def test_an_output_is_binary_if_it_or_all_were_asked_so(
    outputs: list[str] | None, binary: list[str], default: bool, wanted: bool
) -> None:
    request = RequestHead(id=None, outputs=outputs, binary=binary, binary_default=default)
    assert request.wants_binary("y") is wanted


def test_metadata_writes_minus_one_for_what_varies_and_its_sizes_beside() -> None:
    height = Dim(symbol="height", min=13, max=641, factor=2)
    x = TensorSpec(name="x", dtype="bfloat16", shape=(Dim(symbol="batch", max=8), 3, height))
    y = TensorSpec(name="y", dtype="int64", shape=())
    metadata = model_metadata("m", [4], [x], [y])
    sizes = {"dim_0": "batch", "dim_0_min": 0, "dim_0_max": 8}
    sizes |= {"dim_2": "2*height", "dim_2_min": 14, "dim_2_max": 640, "dim_2_step": 2}
    assert metadata == {
        "name": "m",
        "versions": ["4"],
        "platform": "pytorch_aotinductor",
        "inputs": [{"name": "x", "datatype": "BF16", "shape": [-1, 3, -1], "parameters": sizes}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": []}],
    }
    (plain,) = without_parameters(metadata)["inputs"]
    assert plain == {"name": "x", "datatype": "BF16", "shape": [-1, 3, -1]}


def test_a_dimension_without_a_largest_size_has_none_in_the_metadata() -> None:
    x = TensorSpec(name="x", dtype="float32", shape=(Dim(symbol="length", min=1),))
    about: Any = model_metadata("m", [], [x], [])
    assert about["inputs"][0]["parameters"] == {"dim_0": "length", "dim_0_min": 1}
