"""Packages that only torch's own runner can run: the same interface, the same promises, one run at a time."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aoti_serve.config import DeclaredSignature
from aoti_serve.errors import (
    ContainerClosed,
    IncompatiblePackage,
    InvalidInput,
    InvalidWeights,
    NothingStaged,
    RuntimeFailed,
    WeightsMissing,
)
from aoti_serve.model.aoti.stock import StockContainer
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package

OPERATORS = """
import torch


@torch.library.custom_op("tests_of_stock::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    for _ in range(50):  # lets go of the GIL, again and again
        torch.ones(8, 8) @ torch.ones(8, 8)
    return x * 2


@doubled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)
"""
MODULE = "operators_of_the_tests"
Weights = dict[str, torch.Tensor]


class Drawing(nn.Module):
    """A custom operator, multinomial, batch norm's unused counter, a lifted tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor, chances: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = doubled(self.norm(self.first(x))) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"logits": logits, "drawn": torch.multinomial(chances, 1)}


class Folding(nn.Module):
    """An SVD of what a folding package computes once per version; `by_operator`: with a custom operator."""

    def __init__(self, by_operator: bool) -> None:
        super().__init__()
        self.by_operator = by_operator
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = doubled(self.weight) if self.by_operator else self.weight * 2
        values: torch.Tensor = torch.linalg.svdvals(x @ weight + self.bias)
        return values * torch.tensor([[2.0, 1.0]]).sum()


FOLDING = DeclaredSignature.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [6, 6]}],
        "outputs": [{"name": "values", "dtype": "float32", "shape": [6]}],
    }
)


def doubled(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.ops.tests_of_stock.doubled(x)
    return result


@pytest.fixture(scope="session")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("operators")
    (folder / f"{MODULE}.py").write_text(OPERATORS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.import_module(MODULE)
        yield folder


class Drawn:
    """`Drawing` and its package, made by export: code only."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.module = Drawing().eval()
        batch = torch.export.Dim("batch", min=1, max=16)
        chances = torch.zeros(3, 5)
        chances[range(3), [4, 0, 2]] = 1
        self.inputs = {"x": torch.randn(3, 6), "chances": chances}
        shapes = {"x": {0: batch}, "chances": {0: batch}}
        self.path = export_package(self.module, self.inputs, folder / "drawing.pt2", dynamic_shapes=shapes).path
        self.package = Package.open(self.path, operators=[MODULE])

    def weights(self, by: float = 0.0) -> Weights:
        return {
            name: tensor + by if tensor.is_floating_point() else tensor
            for name, tensor in self.module.state_dict().items()
        }

    def check(self, container: Container, weights: Weights) -> None:
        want = torch.func.functional_call(self.module, weights, tuple(self.inputs.values()))
        torch.testing.assert_close(container.run(self.inputs), want)


@pytest.fixture(scope="session")
def drawn(operators: Path, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn(tmp_path_factory.mktemp("drawing"))


@pytest.fixture
def container(drawn: Drawn) -> Iterator[Container]:
    """A container of `Drawing` with version 1 committed."""
    with Container(drawn.package, num_runners=2) as made:
        made.stage(drawn.weights())
        made.commit()
        yield made


def folding_package(module: Folding, path: Path) -> Package:
    program = torch.export.export(module, (torch.randn(6, 6),))
    configs = {"aot_inductor.use_runtime_constant_folding": True}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    return Package.open(path, signature=FOLDING, operators=[MODULE])


@pytest.fixture(scope="session")
def folding(operators: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folding, Package]:
    torch.manual_seed(0)
    module = Folding(by_operator=False).eval()
    return module, folding_package(module, tmp_path_factory.mktemp("folding") / "folding.pt2")


def test_it_runs_through_torchs_own_runner(container: Container, drawn: Drawn) -> None:
    (variant,) = container._versions.runtime._variants
    assert isinstance(variant.runtime, StockContainer)
    takes = container.signature.takes
    assert takes is not None
    assert variant.runtime._runner.get_call_spec()[0] == takes.spec
    drawn.check(container, drawn.weights())
    assert container(**drawn.inputs)["drawn"].tolist() == [[4], [0], [2]]


def test_versions_come_go_and_come_back(container: Container, drawn: Drawn) -> None:
    for step in (1.0, 2.0, 3.0):
        container.stage(drawn.weights(step))
        drawn.check(container, drawn.weights(step - 1))
        container.commit()
        drawn.check(container, drawn.weights(step))
    assert (container.version, container.previous) == (4, 3)
    for step in (2.0, 3.0, 2.0):
        container.rollback()
        drawn.check(container, drawn.weights(step))


def test_a_partial_stage_changes_what_is_active(container: Container, drawn: Drawn) -> None:
    weights = drawn.weights(1.0)
    container.stage(weights)
    container.commit()
    for value in (5.0, 6.0):
        changes = {"first.bias": torch.full((4,), value)}
        container.stage(changes, partial=True)
        container.commit()
        drawn.check(container, weights | changes)


def test_abort_and_release_leave_the_active_version_alone(container: Container, drawn: Drawn) -> None:
    container.stage(drawn.weights(1.0))
    container.abort()
    with pytest.raises(NothingStaged):
        container.commit()
    container.release()
    drawn.check(container, drawn.weights())


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        pytest.param("first.bias", torch.zeros(5), id="shape"),
        pytest.param("first.bias", torch.zeros(4, dtype=torch.float64), id="dtype"),
        pytest.param("stranger", torch.zeros(4), id="unknown"),
    ],
)
def test_weights_and_inputs_are_checked(container: Container, drawn: Drawn, name: str, tensor: torch.Tensor) -> None:
    with pytest.raises(InvalidWeights, match=f"'{name}'"):
        container.stage(drawn.weights() | {name: tensor})
    with pytest.raises(InvalidInput, match="'x'"):
        container.run(drawn.inputs | {"x": torch.zeros(3, 7)})
    drawn.check(container, drawn.weights())


def test_what_an_operator_raises_is_an_error_and_it_goes_on(container: Container, drawn: Drawn) -> None:
    for _ in range(5):
        with pytest.raises(RuntimeFailed, match="run"):
            container.run(drawn.inputs | {"chances": torch.full((3, 5), float("nan"))})
    drawn.check(container, drawn.weights())


def test_without_weights_or_after_close_it_refuses_to_run(drawn: Drawn) -> None:
    container = Container(drawn.package)
    with pytest.raises(WeightsMissing):
        container.run(drawn.inputs)
    container.close()
    with pytest.raises(ContainerClosed):
        container.run(drawn.inputs)


def test_close_returns_the_runner(drawn: Drawn) -> None:
    container = Container(drawn.package)
    (variant,) = container._versions.runtime._variants
    runtime: Any = variant.runtime
    runner = runtime._runner
    container.close()
    assert sys.getrefcount(runner) == 2  # the variable here, and the call's argument
    assert container.nbytes == 0


def test_a_folding_package_folds_anew_after_every_commit(folding: tuple[Folding, Package]) -> None:
    """Refilled in place: only the values change, not the tensors that the runtime knows."""
    module, package = folding
    x = torch.randn(6, 6)

    def check(container: Container, weights: Weights) -> None:
        want = torch.func.functional_call(module, weights, (x,))
        torch.testing.assert_close(container(x), want, rtol=1e-4, atol=1e-4)

    with Container(package) as container:
        (variant,) = container._versions.runtime._variants
        runtime: Any = variant.runtime
        assert any(constant.folded for constant in runtime.constants)
        assert {spec.name for spec in package.constants if not spec.carried} == {"weight", "bias"}
        check(container, module.state_dict())
        for _ in range(6):
            before, weights = container.run([x]), {"weight": torch.randn(6, 6), "bias": torch.randn(6)}
            container.stage(weights)
            assert torch.equal(container.run([x])["values"], before["values"])
            container.commit()
            check(container, weights)
        change = {"weight": torch.randn(6, 6)}
        container.stage(change, partial=True)
        container.commit()
        check(container, weights | change)
        container.rollback()
        check(container, weights)


def test_folding_by_an_operator_is_refused(operators: Path, tmp_path: Path) -> None:
    """torch's own loader loads it, and fails at the first run."""
    package = folding_package(Folding(by_operator=True).eval(), tmp_path / "refused.pt2")
    with pytest.raises(IncompatiblePackage, match="without runtime folding"):
        Container(package)


def test_runs_during_swaps_answer_with_exactly_one_version(drawn: Drawn) -> None:
    """Its operator lets go of the GIL, so that runs overlap after all."""
    versions = [drawn.weights(), drawn.weights(1.0)]
    with Container(drawn.package, num_runners=2) as container:
        want: dict[int, torch.Tensor] = {}
        for number, weights in enumerate(versions):
            container.stage(weights, version=number)
            container.commit()
            want[number] = container.run(drawn.inputs)["logits"]
        stop, wrong, seen = threading.Event(), [], set()

        def ask() -> None:
            while not stop.is_set():
                version, outputs = container.infer(drawn.inputs)
                seen.add(version % 2)
                if not torch.equal(outputs["logits"], want[version % 2]):
                    wrong.append(version)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(2, 42):
            container.stage(versions[number % 2], version=number)
            container.commit()
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen == {0, 1}


def child(operators: Path, drawn: Drawn, *modules: str) -> subprocess.CompletedProcess[str]:
    """Load the package in a process that has not imported its operators."""
    code = (
        "import sys; from aoti_serve import Container, Package; "
        "Container(Package.open(sys.argv[1], operators=sys.argv[2:])).close()"
    )
    command: list[Any] = [sys.executable, "-W", "ignore", "-c", code, drawn.path, *modules]
    return subprocess.run(command, cwd=operators, capture_output=True, text=True, check=False)


def test_a_missing_operator_is_named_and_its_module_mends_it(operators: Path, drawn: Drawn) -> None:
    refused = child(operators, drawn)
    assert refused.returncode == 1
    assert "MissingOperators" in refused.stderr
    assert "tests_of_stock::doubled" in refused.stderr
    assert "`operators`" in refused.stderr
    mended = child(operators, drawn, MODULE)
    assert mended.returncode == 0, mended.stderr


def test_a_module_of_operators_that_cannot_be_imported_is_named(drawn: Drawn) -> None:
    with pytest.raises(IncompatiblePackage, match="'no_such_module'"):
        Container(Package.open(drawn.path, operators=["no_such_module"]))
