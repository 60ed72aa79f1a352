"""When the runtime fails in the middle of something, under load: what answered before goes on, and nothing is mixed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aoti_serve.errors import (
    BadIndexInWeights,
    ContainerClosed,
    UnreadablePackage,
    UnsupportedModule,
    VersionTaken,
    WrongInputShape,
)
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from tests.integration.models import Compiled

Weights = dict[str, torch.Tensor]


@contextmanager
def asking(container: Container, mixed: Compiled, want: dict[int, torch.Tensor], threads: int) -> Iterator[list[int]]:
    """Threads that ask all the time; the list has the versions of answers that are not the ones of their version."""
    stop, wrong = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            version, outputs = container.infer(mixed.inputs)
            if not torch.equal(outputs["logits"], want[version]):
                wrong.append(version)

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield wrong
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def swap(container: Container, weights: Weights) -> None:
    container.stage(weights)
    container.commit()


@pytest.mark.parametrize("runners", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["stage", "swap"])
def test_an_interrupted_swap_leaves_the_answers_as_they_were_and_the_next_one_goes_through(
    mixed: Compiled, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException], runners: int
) -> None:
    """The runtime does its part, and then something is raised: once while threads ask, then no more."""
    real, left = getattr(NativeContainer, step), [1]

    def interrupted_once(self: NativeContainer, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        if left:
            left.pop()
            raise error("interrupted")

    with Container(mixed.package, num_runners=runners) as container:
        swap(container, mixed.weights())
        want = {1: container.run(mixed.inputs)["logits"]}
        changed = {name: tensor + 1 for name, tensor in mixed.weights().items()}
        with asking(container, mixed, want, 3) as wrong, monkeypatch.context() as patch:
            patch.setattr(NativeContainer, step, interrupted_once)
            with pytest.raises(error, match="interrupted"):
                swap(container, changed)
            assert (container.version, container.previous, container.staged) == (1, None, None)
        assert not wrong
        assert torch.equal(container.run(mixed.inputs)["logits"], want[1])
        swap(container, changed)
        assert not torch.equal(container.run(mixed.inputs)["logits"], want[1])
        container.rollback()
        assert torch.equal(container.run(mixed.inputs)["logits"], want[1])


def test_when_nothing_can_be_loaded_anew_it_closes_and_answers_nobody_wrongly(
    mixed: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Container(mixed.package) as container:
        swap(container, mixed.weights())

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(NativeContainer, "stage", broken)
            with pytest.raises(RuntimeError, match="out of memory"):
                container.stage(mixed.weights())
        assert (container.closed, container.nbytes) == (True, 0)
        for call in (lambda: container.run(mixed.inputs), container.commit, container.rollback, container.abort):
            with pytest.raises(ContainerClosed):
                call()


def test_a_number_that_answers_cannot_be_staged_again(mixed: Compiled) -> None:
    with Container(mixed.package) as container:
        container.stage(mixed.weights(), version=7)
        container.commit()
        for number in (7, -1):
            with pytest.raises(VersionTaken, match=str(number)):
                container.stage(mixed.weights(), version=number)
        container.stage(mixed.weights())
        assert container.staged == 8


class Pairs(nn.Module):
    """Two rows of `y` for each of `x`, and a table read through indices that come with the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 3))
        self.register_buffer("order", torch.tensor([3, 1, 2]))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x + y.reshape(-1, 2, 3).sum(1) + self.table[self.get_buffer("order")].sum(0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Package:
    batch = torch.export.Dim("batch", min=1, max=16)
    inputs = {"x": torch.zeros(2, 3), "y": torch.zeros(4, 3)}
    shapes = {"x": {0: batch}, "y": {0: 2 * batch}}
    path = tmp_path_factory.mktemp("pairs") / "pairs.pt2"
    return export_package(Pairs().eval(), inputs, path, dynamic_shapes=shapes)


@pytest.fixture
def paired(pairs: Package) -> Iterator[tuple[Container, Pairs]]:
    module = Pairs().eval()
    with Container(pairs) as container:
        container.stage(module.state_dict())
        container.commit()
        yield container, module


def test_a_dimension_that_is_twice_another_is_held_to_it(paired: tuple[Container, Pairs]) -> None:
    container, module = paired
    x, y = torch.randn(4, 3), torch.randn(8, 3)
    torch.testing.assert_close(container.run([x, y])["output"], module(x.clone(), y))
    for rows in (3, 4, 7, 9, 10):
        with pytest.raises(WrongInputShape, match="'y'"):
            container.run([x, torch.randn(rows, 3)])


def test_an_input_that_forward_writes_stays_the_askers(paired: tuple[Container, Pairs]) -> None:
    x, y = torch.zeros(1, 3), torch.zeros(2, 3)
    paired[0].run([x, y])
    assert torch.equal(x, torch.zeros(1, 3))


def test_an_index_in_weights_that_leads_nowhere_ends_no_process(paired: tuple[Container, Pairs]) -> None:
    container, _ = paired
    inputs = [torch.zeros(1, 3), torch.zeros(2, 3)]
    before = container.run(inputs)["output"]
    container.stage({"order": torch.tensor([0, 10**6, 1])}, partial=True)
    container.commit()
    with pytest.raises(BadIndexInWeights, match=r"'order'.*-5\.\.4.*'table'"):
        container.run(inputs)
    container.rollback()
    assert torch.equal(container.run(inputs)["output"], before)


def test_a_file_that_was_replaced_is_not_mixed_with_its_successor(mixed: Compiled, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(mixed.package.path.read_bytes())
    package = Package.open(path)
    digest = package.digest
    with Container(package):
        pass
    other = export_package(nn.Linear(3, 2).eval(), (torch.zeros(2, 3),), tmp_path / "other.pt2")
    path.write_bytes(other.path.read_bytes())
    with Container(package) as container:
        container.stage(mixed.module.state_dict())
        container.commit()
        torch.testing.assert_close(
            container.run(mixed.inputs)["logits"], mixed.module(*mixed.inputs.values())["logits"]
        )
    assert package.digest == digest


class Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


def test_rows_that_depend_on_each_other_cannot_be_padded(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModule, match="depends on its other rows"):
        export_package(Centred().eval(), (torch.randn(4, 3),), tmp_path / "centred.pt2", batch_sizes=(1, 4))
    assert not any(tmp_path.iterdir())


def test_a_baseline_that_does_not_fit_is_refused(mixed: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aoti_serve.model.package.BASELINE", "extra/aoti_serve/nothing.safetensors")
    with pytest.raises(UnreadablePackage, match="'offset'"):
        Container(mixed.package)
