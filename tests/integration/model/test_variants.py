"""Several static batch sizes served as one model, over one copy of the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aoti_serve.errors import IndexOutOfRange, UnsupportedModule, WrongInputShape
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from aoti_serve.model.variants import Variants
from tests.integration.models import Compiled, Mixed

SIZES = (1, 4, 8)


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    torch.manual_seed(1)
    module = Mixed().eval()
    inputs = {"x": torch.randn(4, 16), "ids": torch.randint(0, 9, (4, 3))}
    path = tmp_path_factory.mktemp("variants") / "variants.pt2"
    return Compiled(module, export_package(module, inputs, path, batch_sizes=SIZES), inputs)


@pytest.fixture
def container(variants: Compiled) -> Iterator[Container]:
    with Container(variants.package, num_runners=2) as made:
        made.stage(variants.weights())
        made.commit()
        yield made


def rows(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {
        "x": torch.randn(count, 16, generator=generator),
        "ids": torch.randint(0, 9, (count, 3), generator=generator),
    }


def test_one_signature_stands_for_all_sizes(variants: Compiled) -> None:
    batch = variants.package.signature.batch
    assert batch is not None
    assert (batch.min, batch.max) == (0, 8)
    assert [sizes for sizes, _ in variants.package.variants] == [{"batch": size} for size in SIZES]
    assert Package.open(variants.package.path).model_name == "batch1"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8])
def test_any_number_of_rows_up_to_the_largest_answers_as_eager_does(
    container: Container, variants: Compiled, count: int
) -> None:
    inputs = rows(count)
    outputs = container.run(inputs)
    eager = variants.module(**inputs)
    torch.testing.assert_close(outputs["logits"], eager["logits"])
    torch.testing.assert_close(outputs["hidden.1"], eager["hidden"][1])


def test_more_rows_than_the_largest_are_refused(container: Container) -> None:
    with pytest.raises(WrongInputShape, match=r"batch=0\.\.8"):
        container.run(rows(9))


@pytest.mark.parametrize(("count", "chosen"), [(1, 1), (2, 4), (4, 4), (5, 8), (8, 8)])
def test_the_smallest_that_fits_runs(
    container: Container, count: int, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def noting(size: int, run: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            seen.append(size)
            return run(*arguments)

        return note

    for sizes, runtime in container._versions.runtime._variants:
        monkeypatch.setattr(runtime, "run", noting(sizes["batch"], runtime.run))
    container.run(rows(count))
    assert seen == [chosen]


def test_all_sizes_change_their_weights_together(container: Container, variants: Compiled) -> None:
    """Runs of all sizes during 60 swaps: each answer is exactly that of the version it names."""
    versions = [variants.weights(), {name: tensor + 0.5 for name, tensor in variants.weights().items()}]
    want: dict[tuple[int, int], torch.Tensor] = {}
    for number, weights in enumerate(versions):
        container.stage(weights, version=number)
        container.commit()
        want |= {(number, count): container.run(rows(count))["logits"] for count in (1, 3, 8)}
    stop, wrong = threading.Event(), []

    def ask(count: int) -> None:
        inputs = rows(count)
        while not stop.is_set():
            version, outputs = container.infer(inputs)
            if not torch.equal(outputs["logits"], want[version % 2, count]):
                wrong.append((version, count))

    threads = [threading.Thread(target=ask, args=(count,)) for count in (1, 3, 8)]
    for thread in threads:
        thread.start()
    for number in range(2, 62):
        container.stage(versions[number % 2], version=number)
        container.commit()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_weights_are_held_once_for_all_sizes(container: Container, variants: Compiled) -> None:
    needed = sum(-(-spec.nbytes // 64) * 64 for spec in variants.package.constants)
    container.release()
    assert container.nbytes == needed
    container.stage(variants.weights())
    assert container.nbytes == 2 * needed
    variants_runtime = container._versions.runtime
    assert isinstance(variants_runtime, Variants)
    held = [runtime.extract() for _, runtime in variants_runtime._variants]
    assert len({tensors["first.weight"].data_ptr() for tensors in held}) == 1


class Tables(torch.nn.Module):
    """Three tables, so that there are more guards than rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(size, 4) for size in (5, 6, 7))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([table(ids) for table in self.tables]).sum(0)


def test_every_index_is_guarded_also_where_rows_are_padded(tmp_path: Path) -> None:
    module = Tables().eval()
    ids = torch.tensor([0, 1, 2])
    package = export_package(module, {"ids": ids}, tmp_path / "tables.pt2", batch_sizes=(4,))
    with Container(package) as container:
        container.stage(module.state_dict())
        container.commit()
        for rows in (ids[:1], ids):
            torch.testing.assert_close(container.run({"ids": rows})["output"], module(rows))
        for bad, table in ((5, "tables.0"), (6, "tables.0"), (-1, "tables.0")):
            with pytest.raises(IndexOutOfRange, match=table):
                container.run({"ids": torch.tensor([bad])})


class Pooled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


def test_a_model_without_a_batch_dimension_cannot_have_variants(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModule, match="output 0 of a batch depends on its other rows"):
        export_package(Pooled().eval(), (torch.zeros(2, 3),), tmp_path / "pooled.pt2", batch_sizes=(2, 5))
    with pytest.raises(UnsupportedModule, match="no dimension of an input is called 'batch'"):
        export_package(
            Pooled().eval(), (torch.zeros(2, 3),), tmp_path / "p.pt2", dynamic_shapes=({},), batch_sizes=(2,)
        )
