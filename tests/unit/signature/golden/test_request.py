"""Golden requests as values: what they take, whether they fit, how they judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aoti_serve.errors import GoldenFailed, UnfitGolden
from aoti_serve.signature.golden.bounds import Bounds
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

BATCH = Dim(symbol="batch", min=1, max=4)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(BATCH, 3)),),
    outputs=(
        TensorSpec(name="logits", dtype="float32", shape=(BATCH, 2)),
        TensorSpec(name="hidden", dtype="float32", shape=(BATCH, 3)),
    ),
    constants=(),
)
X = np.ones((2, 3), np.float32)
LOGITS = np.array([[1, 0], [0, 1]], np.float32)


def request(**changes: Any) -> GoldenRequest:
    known: dict[str, Any] = {"inputs": {"x": X}, "outputs": {"logits": LOGITS}, "bounds": {"logits": {"cosine": 0.99}}}
    return GoldenRequest("seven", **(known | changes))


def test_tensors_of_torch_become_arrays_of_the_same_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.int64, torch.bool):
        tensor = torch.tensor([[0, 1, 1]]).to(dtype)
        made = request(inputs={"x": tensor.mT.mT}).inputs["x"]
        assert (made.dtype.name, made.astype(int).tolist()) == (str(dtype).removeprefix("torch."), [[0, 1, 1]])


def test_what_is_done_to_a_tensor_later_does_not_change_the_request() -> None:
    x = torch.ones(2, 3)
    made = request(inputs={"x": x})
    x.zero_()
    assert made.inputs["x"].all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"inputs": {"x": [1.0]}}, "input 'x': a list instead of", id="no tensor"),
        pytest.param({"inputs": {"x": torch.zeros(1, dtype=torch.complex64)}}, "input 'x': dtype", id="complex"),
        pytest.param({"inputs": {"x": np.array(["a"])}}, "input 'x': dtype", id="text"),
        pytest.param({"bounds": {}}, "output 'logits' is expected, and no bound says how near", id="no bound"),
        pytest.param({"bounds": {"logits": {"range": (0, 1)}}}, "no bound says how near", id="only a range"),
        pytest.param({"outputs": {}}, "output 'logits' has a bound that compares, and no expected", id="no output"),
        pytest.param({"bounds": {"logits": {"cosine": 7}}}, "output 'logits': bound cosine:", id="no bound at all"),
        pytest.param({"outputs": {"logits": LOGITS * np.nan}}, "no finite numbers", id="NaN expected"),
    ],
)
def test_what_says_too_little_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UnfitGolden, match=says) as caught:
        request(**changes)
    assert str(caught.value).startswith("golden request 'seven': ")


@pytest.mark.parametrize("name", ["", "a/b", "*", "a\x1b[2J", "n" * 129])
def test_a_name_that_could_not_be_written_or_shown_is_refused(name: str) -> None:
    with pytest.raises(UnfitGolden, match="printable"):
        GoldenRequest(name, {})


def test_a_request_takes_the_signatures_own_names() -> None:
    fitted = request(
        inputs={"INPUT__0": X}, outputs={"OUTPUT__0": LOGITS}, bounds={"OUTPUT__0": Bounds(top1=1)}
    ).fitted(SIGNATURE)
    assert (list(fitted.inputs), list(fitted.outputs), list(fitted.bounds)) == (["x"], ["logits"], ["logits"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": {}}, "input 'x'"),
        ({"inputs": {"x": X.astype(np.float64)}}, "input 'x'.*FP64"),
        ({"inputs": {"x": np.ones((5, 3), np.float32)}}, "input 'x'.*dimension 0 .* is 5"),
        ({"inputs": {"x": X, "y": X}}, "input 'y'"),
        ({"bounds": {"logits": {"cosine": 1}, "logit": {}}}, "output 'logit'.*logits, hidden"),
        ({"outputs": {"logits": LOGITS[:, :1]}}, r"output 'logits' is expected in shape \[2, 1\]"),
        ({"outputs": {"logits": LOGITS[0]}}, r"output 'logits' is expected in shape \[2\]"),
    ],
)
def test_what_the_package_cannot_be_asked_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UnfitGolden, match=says):
        request(**changes).fitted(SIGNATURE)


def test_an_answer_within_its_bounds_passes() -> None:
    request().judge({"logits": LOGITS * 3, "hidden": X})


def test_the_first_miss_is_an_error_with_its_facts() -> None:
    with pytest.raises(GoldenFailed) as caught:
        request().judge({"logits": LOGITS[::-1], "hidden": X})
    assert str(caught.value) == "golden request 'seven': output 'logits' has cosine 0, at least 0.99 is wanted"
    assert caught.value.facts == {
        "request": "seven",
        "output": "logits",
        "bound": "cosine",
        "measured": 0.0,
        "relation": "at least",
        "limit": 0.99,
    }
    assert caught.value.http_status == 400


def test_an_output_without_bounds_must_be_finite() -> None:
    with pytest.raises(GoldenFailed, match="output 'hidden' has non-finite values 6, at most 0 is wanted"):
        request().judge({"logits": LOGITS, "hidden": X * np.nan})
    request().judge({"logits": LOGITS, "hidden": X.astype(np.int64)})
