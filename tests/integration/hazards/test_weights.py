"""Weights on their way into a package: what the bare runtime makes of them, and what we do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from aoti_serve.errors import (
    InvalidWeights,
    MissingTensor,
    UnfitTensor,
    UnknownTensor,
    WrongTensorDtype,
    WrongTensorShape,
)
from aoti_serve.model.container import Container
from tests.integration import foreign
from tests.integration.foreign import Weights, eager, inputs, weights
from tests.integration.models import Compiled
from tests.integration.raw import Lab

NAME = "first.weight"


def logits(container: Container) -> torch.Tensor:
    return container.run(inputs())["logits"]


def update(container: Container, values: Weights, **how: Any) -> torch.Tensor:
    container.stage(values, **how)
    container.commit()
    return logits(container)


def _inferred(tensor: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tensor.clone()


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "view of a large storage": lambda tensor: torch.cat([tensor.new_zeros(1 << 16), tensor.flatten()])[1 << 16 :].view(
        tensor.shape
    ),
    "transposed": lambda tensor: tensor.t().contiguous().t(),
    "every second": lambda tensor: torch.stack([tensor, tensor.neg()], -1)[..., 0],
    "negative view": lambda tensor: torch._neg_view(-tensor),
    "imaginary part of a conjugate": lambda tensor: torch.complex(tensor, -tensor).conj().imag,
    "parameter": torch.nn.Parameter,
    "result with a history": lambda tensor: torch.nn.Parameter(tensor) * 1,
    "inference tensor": _inferred,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_is_taken_for_what_it_reads_as(lab: Lab, folded: Container, layout: str) -> None:
    assert lab.endings["view_of_a_large_storage"].crashed
    assert lab.endings["not_contiguous"] == (0, {"new": False})
    want = update(folded, weights(0.5))
    update(folded, weights())
    given = {name: value.clone() for name, value in weights(0.5).items()}
    given[NAME] = LAYOUTS[layout](given[NAME])
    assert torch.equal(update(folded, given), want)


def test_an_expanded_tensor_is_taken_for_its_whole(folded: Container) -> None:
    row = torch.randn(64)
    want = update(folded, weights() | {NAME: row.repeat(64, 1)})
    assert torch.equal(update(folded, weights() | {NAME: row.expand(64, 64)}), want)


def _freed(tensor: torch.Tensor) -> torch.Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def _wrapped(tensor: torch.Tensor) -> torch.Tensor:
    wrapper: Any = TwoTensor
    two: torch.Tensor = wrapper(tensor, tensor)
    return two


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        return torch.quantize_per_tensor(torch.eye(64), 0.1, 0, torch.qint8)


UNFIT: dict[str, tuple[Callable[[], Any], type[InvalidWeights]]] = {
    "float64": (lambda: torch.ones(64, 64, dtype=torch.float64), WrongTensorDtype),
    "int32, as large": (lambda: torch.ones(64, 64, dtype=torch.int32), WrongTensorDtype),
    "complex": (lambda: torch.ones(64, 64, dtype=torch.complex64), WrongTensorDtype),
    "another shape": (lambda: torch.ones(2, 2), WrongTensorShape),
    "as many elements": (lambda: torch.ones(64 * 64), WrongTensorShape),
    "no dimensions": (lambda: torch.tensor(1.0), WrongTensorShape),
    "empty": (lambda: torch.ones(0, 64), WrongTensorShape),
    "freed storage": (lambda: _freed(torch.ones(64, 64)), UnfitTensor),
    "freed storage of an expanded one": (lambda: _freed(torch.ones(64).expand(64, 64)), UnfitTensor),
    "meta": (lambda: torch.ones(64, 64, device="meta"), UnfitTensor),
    "sparse": (lambda: torch.eye(64).to_sparse(), UnfitTensor),
    "mkldnn": (lambda: torch.eye(64).to_mkldnn(), UnfitTensor),
    "quantised": (_quantised, UnfitTensor),
    "a wrapper of others": (lambda: _wrapped(torch.eye(64)), UnfitTensor),
    "no tensor": (lambda: [[1.0] * 64] * 64, UnfitTensor),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_not_the_constants_kind_is_refused_by_name(lab: Lab, folded: Container, kind: str) -> None:
    assert lab.endings["wrong_dtype"].crashed
    assert lab.endings["wrong_shape"] == (0, {"new": False})
    make, error = UNFIT[kind]
    before = logits(folded)
    with pytest.raises(error, match=f"'{NAME}'"):
        folded.stage(weights(0.5) | {NAME: make()})
    assert (folded.version, folded.staged) == (0, None)
    assert torch.equal(logits(folded), before)


def test_names_are_checked_and_folded_ones_are_nobodys(lab: Lab, folded: Container) -> None:
    accepted = lab.endings["unknown_name"]
    assert accepted == (0, {"accepted": True, "loader": "Constant not found: stranger"})
    listed = lab.endings["folded"].said["listed"]
    derived = [name for name in listed if name.startswith("_FOLDED_CONST_")]
    assert derived
    assert {spec.name for spec in folded.signature.constants} == set(listed) - set(derived)
    before = logits(folded)
    for name in ("stranger", derived[0]):
        with pytest.raises(UnknownTensor, match=f"'{name}'"):
            folded.stage(weights(0.5) | {name: torch.ones(3)})
    with pytest.raises(MissingTensor, match=f"'{NAME}'"):
        folded.stage({name: value for name, value in weights(0.5).items() if name != NAME})
    assert torch.equal(logits(folded), before)


def test_a_trainers_state_dict_is_accepted_whole(lab: Lab, folded: Container, mixed: Compiled) -> None:
    assert "norm.num_batches_tracked" in lab.endings["plain_state_dict"].said["loader"]
    state = foreign.seeded(foreign.Net).state_dict()
    torch.testing.assert_close(update(folded, state), eager(weights()))
    with Container(mixed.package) as container:
        container.stage(mixed.module.state_dict())
        container.commit()
        answer = container.run(mixed.inputs)["logits"]
    torch.testing.assert_close(answer, mixed.module(*mixed.inputs.values())["logits"])
