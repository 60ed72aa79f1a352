"""What a module may be made of: what the bare runtime makes of it, and what we do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aoti_serve.errors import (
    ConstantIsBaked,
    IndexOutOfRange,
    InvalidWeights,
    TiedTensorsDiffer,
    UnsupportedModule,
)
from aoti_serve.model import export
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from tests.integration import foreign

Weights = dict[str, torch.Tensor]


class Odd(nn.Module):
    """Tied weights, a constant without dimensions, one without elements, one that is an answer, one that is written."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.words.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.nothing = nn.Parameter(torch.empty(0, 5))
        self.note = nn.Parameter(torch.randn(3))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, ids: torch.Tensor, image: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.add_(1)
        scores = self.head(self.words(ids)) * self.scale + self.seen
        ramp = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
        return {"scores": scores, "note": self.note, "nothing": self.nothing, "image": image * ramp}


class Written(nn.Module):
    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return x + self.seen


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Package:
    given = {"ids": torch.tensor([1, 2]), "image": foreign.image().to(memory_format=torch.channels_last)}
    module = foreign.seeded(Odd)
    return export_package(module, given, tmp_path_factory.mktemp("odd") / "odd.pt2", forget_mutations=True)


@pytest.fixture
def served(odd: Package) -> Iterator[Container]:
    with Container(odd) as made:
        made.stage(load_file(odd.path.with_suffix(".safetensors")))
        made.commit()
        yield made


GIVEN = {"ids": torch.tensor([3, 6]), "image": foreign.image()}


def eagerly(values: Weights) -> dict[str, torch.Tensor]:
    module = foreign.seeded(Odd)
    module.load_state_dict(values)
    with torch.no_grad():
        return {name: tensor.clone() for name, tensor in module(**GIVEN).items()}


def test_tied_weights_may_come_under_either_name_or_under_both_alike(served: Container) -> None:
    state = foreign.seeded(Odd).state_dict()
    kept, alias = "words.weight", "head.weight"
    if kept in served.signature.tied:
        kept, alias = alias, kept
    assert served.signature.tied == {alias: kept}
    new = state | {name: state[name] + 1 for name in (kept, alias)}
    want = eagerly(new)["scores"]
    for given in (new, without(new, kept), without(new, alias)):
        served.stage(state)
        served.commit()
        served.stage(given)
        served.commit()
        torch.testing.assert_close(served.run(GIVEN)["scores"], want)
    before = served.run(GIVEN)["scores"]
    with pytest.raises(TiedTensorsDiffer, match=alias):
        served.stage(new | {alias: new[alias] + 1})
    assert torch.equal(served.run(GIVEN)["scores"], before)


def without(values: Weights, name: str) -> Weights:
    return {key: value for key, value in values.items() if key != name}


def test_constants_without_dimensions_or_elements_are_constants(served: Container) -> None:
    state = foreign.seeded(Odd).state_dict()
    new = state | {"scale": torch.tensor(5.0), "nothing": torch.ones(0, 5)}
    served.stage(new)
    served.commit()
    torch.testing.assert_close(served.run(GIVEN)["scores"], eagerly(new)["scores"])
    for name, value in (("scale", torch.ones(1)), ("nothing", torch.ones(0, 6))):
        with pytest.raises(InvalidWeights, match=f"'{name}'"):
            served.stage(new | {name: value})


def test_a_constant_that_is_an_answer_is_answered_as_it_was(served: Container) -> None:
    state = foreign.seeded(Odd).state_dict()
    answers = []
    for number in range(4):
        served.stage(state | {"note": torch.full((3,), float(number))})
        served.commit()
        answers.append(served.run(GIVEN)["note"])
    served.release()
    assert [answer.tolist() for answer in answers] == [[float(number)] * 3 for number in range(4)]


def test_a_buffer_that_forward_writes_is_refused_by_name_or_forgotten(served: Container, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModule, match="seen"):
        export_package(foreign.seeded(Written), (torch.zeros(2),), tmp_path / "written.pt2")
    first = served.run(GIVEN)["scores"]
    assert torch.equal(served.run(GIVEN)["scores"], first)
    new = foreign.seeded(Odd).state_dict() | {"seen": torch.tensor([5.0])}
    served.stage(new)
    served.commit()
    for _ in range(2):
        torch.testing.assert_close(served.run(GIVEN)["scores"], eagerly(new)["scores"])
    assert not any(tmp_path.iterdir())


def test_an_example_in_channels_last_does_not_bind_requests(served: Container) -> None:
    want = eagerly(foreign.seeded(Odd).state_dict())["image"]
    for image in (GIVEN["image"], GIVEN["image"].to(memory_format=torch.channels_last)):
        answer = served.run(GIVEN | {"image": image})["image"]
        torch.testing.assert_close(answer, want, check_stride=False)


def test_an_index_out_of_range_is_refused_and_the_next_call_answered(served: Container) -> None:
    before = served.run(GIVEN)["scores"]
    for bad in (7, -1, 2**62):
        with pytest.raises(IndexOutOfRange, match="'ids'"):
            served.run(GIVEN | {"ids": torch.tensor([0, bad])})
    assert torch.equal(served.run(GIVEN)["scores"], before)


def test_an_expanded_constant_is_given_memory_of_its_own(tmp_path: Path) -> None:
    module, x = foreign.seeded(foreign.Expanded), torch.randn(4, 16)
    with Container(export_package(module, (x,), tmp_path / "expanded.pt2")) as container:
        container.stage(module.state_dict())
        container.commit()
        torch.testing.assert_close(container.run([x])["output"], module(x))


class OnePlus(nn.Module):
    """A gain as Gemma's norms have it: kept as the difference from one, and so all zeros before training."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + self.gain)


def test_what_is_made_of_a_uniform_constant_follows_its_swaps(tmp_path: Path) -> None:
    module, x = OnePlus().eval(), torch.randn(4, 16)
    with Container(export_package(module, (x,), tmp_path / "gain.pt2")) as container:
        for gain in (torch.zeros(16), torch.randn(16)):
            container.stage({"gain": gain})
            container.commit()
            torch.testing.assert_close(container.run([x])["output"], x * (1 + gain))


def test_allow_baked_writes_what_the_compiler_fixed_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(export._OPTIONS, "always_keep_tensor_constants", False)
    module = nn.Linear(3, 4).eval()
    package = export_package(module, (torch.zeros(2, 3),), tmp_path / "baked.pt2", allow_baked=True)
    assert [spec.name for spec in package.signature.baked] == ["bias"]
    with Container(package) as container:
        container.stage(module.state_dict())
        container.commit()
        with pytest.raises(ConstantIsBaked, match="'bias'"):
            container.stage({name: value + 1 for name, value in module.state_dict().items()})
