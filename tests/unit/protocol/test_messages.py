"""Requests and metadata as values."""

from __future__ import annotations

import pytest

from aoti_serve.protocol.messages import RequestHead, model_metadata
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


def test_metadata_writes_minus_one_for_what_varies() -> None:
    x = TensorSpec(name="x", dtype="bfloat16", shape=(Dim(symbol="batch", max=8), 3))
    y = TensorSpec(name="y", dtype="int64", shape=())
    assert model_metadata("m", [4], [x], [y]) == {
        "name": "m",
        "versions": ["4"],
        "platform": "pytorch_aotinductor",
        "inputs": [{"name": "x", "datatype": "BF16", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": []}],
    }
