"""On a card: the same promises. Marked `gpu`; skipped where torch sees none."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from aoti_serve.errors import IncompatiblePackage, IndexOutOfRange
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from tests.integration.models import Compiled

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no card here"),
]


class OnCard(nn.Module):
    """A table, batch norm, and a factor that forward() makes on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.norm(x + self.table(ids).sum(1))
        return {"logits": self.last(hidden) * torch.tensor(3.0)}


@pytest.fixture(scope="module")
def on_card(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    module = OnCard().eval().cuda()
    inputs = {"x": torch.randn(4, 16, device="cuda"), "ids": torch.randint(0, 9, (4, 3), device="cuda")}
    path = tmp_path_factory.mktemp("cuda") / "mixed.pt2"
    shapes = {"x": {0: batch}, "ids": {0: batch}}
    return Compiled(module, export_package(module, inputs, path, dynamic_shapes=shapes), inputs)


def weights_of(on_card: Compiled) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in on_card.module.state_dict().items()}


@pytest.fixture
def container(on_card: Compiled) -> Iterator[Container]:
    with Container(on_card.package, num_runners=2) as made:
        made.stage(weights_of(on_card))
        made.commit()
        yield made


def test_answers_as_eager_does_from_host_and_card(container: Container, on_card: Compiled) -> None:
    want = on_card.module(**on_card.inputs)["logits"]
    found = container.run(on_card.inputs)["logits"]
    assert found.device == container.device
    torch.testing.assert_close(found, want)
    on_host = {name: tensor.cpu() for name, tensor in on_card.inputs.items()}
    assert torch.equal(container.run(on_host)["logits"], found)


def test_partial_stages_and_rollbacks_are_exact(container: Container, on_card: Compiled) -> None:
    before = container.run(on_card.inputs)["logits"]
    weights = weights_of(on_card)
    container.stage({"last.bias": weights["last.bias"] + 1}, partial=True)
    container.commit()
    after = container.run(on_card.inputs)["logits"]
    assert not torch.equal(after, before)
    container.rollback()
    assert torch.equal(container.run(on_card.inputs)["logits"], before)
    container.stage({name: tensor.cpu() for name, tensor in weights.items()})
    container.commit()
    assert torch.equal(container.run(on_card.inputs)["logits"], before)


def test_runs_during_swaps_answer_with_the_version_they_name(on_card: Compiled) -> None:
    versions = [weights_of(on_card), {name: tensor + 1 for name, tensor in weights_of(on_card).items()}]
    want: dict[int, torch.Tensor] = {}
    stop, wrong = threading.Event(), []
    with Container(on_card.package, num_runners=4) as container:
        for number, weights in enumerate(versions):
            container.stage(weights, version=number)
            container.commit()
            want[number] = container.run(on_card.inputs)["logits"]

        def ask() -> None:
            while not stop.is_set():
                version, outputs = container.infer(on_card.inputs)
                if not torch.equal(outputs["logits"], want[version % 2]):
                    wrong.append(version)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(2, 202):
            container.stage(versions[number % 2], version=number)
            container.commit()
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_released_memory_is_given_back(container: Container, on_card: Compiled) -> None:
    container.release()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(100):
        container.stage(weights_of(on_card))
        container.commit()
        container.release()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before


def test_an_index_beyond_the_table_leaves_the_card_usable(container: Container, on_card: Compiled) -> None:
    before = container.run(on_card.inputs)["logits"]
    with pytest.raises(IndexOutOfRange, match="'ids'"):
        container.run(on_card.inputs | {"ids": torch.full((4, 3), 9, device="cuda")})
    assert torch.equal(container.run(on_card.inputs)["logits"], before)


def test_a_card_that_is_not_there_is_refused(on_card: Compiled) -> None:
    with pytest.raises(IncompatiblePackage, match="card"):
        Container(on_card.package, device=f"cuda:{torch.cuda.device_count()}")
