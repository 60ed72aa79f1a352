"""What a call is asked with: what the bare runtime makes of it, and what we do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from aoti_serve.errors import InvalidInput, InvalidInputData, WrongInputDtype, WrongInputShape
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from tests.integration import foreign
from tests.integration.foreign import eager, inputs, weights
from tests.integration.raw import Lab


@pytest.fixture(scope="module")
def net(lab: Lab) -> Iterator[Container]:
    """The signature comes from the exported program in the archive: batches of 1 to 64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its fixed threads
        made = Container(Package.open(lab.package("plain_known")))
    with made:
        yield made


def freed(tensor: torch.Tensor) -> torch.Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def wrapped(tensor: torch.Tensor) -> torch.Tensor:
    wrapper: Any = TwoTensor
    two: torch.Tensor = wrapper(tensor, tensor)
    return two


X, IDS = inputs()
UNFIT: dict[str, tuple[str, dict[str, Callable[[], Any]], type[InvalidInput]]] = {
    "unequal batches": ("ids", {"ids": lambda: IDS[:2]}, WrongInputShape),
    "above the maximum": ("x", {"x": lambda: inputs(65)[0], "ids": lambda: inputs(65)[1]}, WrongInputShape),
    "empty batch, below the minimum": ("x", {"x": lambda: X[:0], "ids": lambda: IDS[:0]}, WrongInputShape),
    "trailing dimension": ("ids", {"ids": lambda: torch.zeros(4, 7, dtype=torch.int64)}, WrongInputShape),
    "as many elements": ("x", {"x": X.flatten}, WrongInputShape),
    "no dimensions": ("x", {"x": lambda: torch.tensor(1.0)}, WrongInputShape),
    "dtype": ("ids", {"ids": IDS.double}, WrongInputDtype),
    "dtype as large": ("x", {"x": lambda: X.view(torch.int32)}, WrongInputDtype),
    "complex": ("x", {"x": lambda: X.to(torch.complex64)}, WrongInputDtype),
    "freed storage": ("x", {"x": lambda: freed(X.clone())}, InvalidInputData),
    "freed storage of an expanded one": ("x", {"x": lambda: freed(torch.ones(64).expand(4, 64))}, InvalidInputData),
    "meta": ("x", {"x": lambda: X.to("meta")}, InvalidInputData),
    "sparse": ("x", {"x": X.to_sparse}, InvalidInputData),
    "a wrapper of others": ("x", {"x": lambda: wrapped(X)}, InvalidInputData),
    "no tensor": ("x", {"x": X.tolist}, InvalidInputData),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_does_not_fit_the_signature_is_refused_by_name(lab: Lab, net: Container, kind: str) -> None:
    for ending in ("unequal_batches", "wrong_trailing_dimension", "wrong_input_dtype"):
        assert lab.endings[ending] == (0, {"shape": [4, 4]})
    assert lab.endings["above_the_maximum"] == (0, {"shape": [100, 4]})
    name, changes, error = UNFIT[kind]
    before = net.run(inputs())["logits"]
    with pytest.raises(error, match=f"'{name}'"):
        net.run({"x": X, "ids": IDS} | {key: make() for key, make in changes.items()})
    assert torch.equal(net.run(inputs())["logits"], before)


def test_each_input_must_be_there_and_no_other(lab: Lab, net: Container) -> None:
    bare = lab.endings["one_input_of_two"]
    assert bare.crashed or "expected inputs vector size to be 2" in str(bare.said)  # torch 2.15 has learnt to say so
    before = net.run(inputs())["logits"]
    for given in ([X], [X, IDS, IDS], {"x": X}, {"x": X, "ids": IDS, "more": X}, []):
        with pytest.raises(InvalidInput, match=r"'(ids|more|x, ids)'"):
            net.run(given)
    assert torch.equal(net.run(inputs())["logits"], before)


HARMLESS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda tensor: tensor.t().contiguous().t(),
    "view of a large storage": lambda tensor: torch.cat([tensor, tensor])[4:],
    "every second": lambda tensor: torch.stack([tensor, -tensor], -1)[..., 0],
    "negative view": lambda tensor: torch._neg_view(-tensor),
    "imaginary part of a conjugate": lambda tensor: torch.complex(tensor, -tensor).conj().imag,
    "parameter": lambda tensor: torch.nn.Parameter(tensor.clone()),
}


@pytest.mark.parametrize("layout", HARMLESS)
def test_an_input_is_taken_for_what_it_reads_as(net: Container, layout: str) -> None:
    want = net.run([X, IDS])["logits"]
    assert torch.equal(net.run([HARMLESS[layout](X), IDS])["logits"], want)


def test_an_expanded_input_is_taken_for_its_whole(net: Container) -> None:
    want = net.run([X[:1].repeat(4, 1), IDS])["logits"]
    assert torch.equal(net.run([X[:1].expand(4, 64), IDS])["logits"], want)


def test_the_runtimes_own_check_refuses_strides_that_we_set_right(lab: Lab) -> None:
    said = lab.endings["runtime_checks_inputs"].said
    assert "unmatched dtype" in said["dtype"]
    assert "unmatched stride" in said["strides"]
    assert said["ours"]


def test_answers_belong_to_whoever_asked(lab: Lab, net: Container) -> None:
    torch.testing.assert_close(net.run(inputs())["logits"], eager(weights()))
    with Container(Package.open(lab.package("folded"), signature=foreign.NET)) as container:
        given = inputs()
        first = container.run(given)
        kept = {name: tensor.clone() for name, tensor in first.items()}
        container.stage(weights(0.5))
        container.commit()
        container.run([tensor + 1 for tensor in given])
    assert all(torch.equal(first[name], kept[name]) for name in kept)
    assert all(torch.equal(*pair) for pair in zip(given, inputs(), strict=True))
