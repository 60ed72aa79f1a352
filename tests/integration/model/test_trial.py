"""A staged version is run before it is committed: with its own weights, beside runs of the active one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from aoti_serve.errors import (
    AnswersNotFinite,
    ContainerClosed,
    NothingStaged,
    RuntimeFailed,
    UnfitTensor,
    WeightsDoNotRun,
)
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.aoti.stock import StockContainer
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from tests.integration import foreign
from tests.integration.models import Compiled
from tests.integration.raw import Lab

Weights = dict[str, torch.Tensor]
Outputs = list[torch.Tensor]


class Seen:
    """What the runs of other runtimes than the container's own gave, in order."""

    def __init__(self) -> None:
        self.outputs: list[Outputs] = []
        self.own: list[object] = []

    def of(self, container: Container) -> list[Outputs]:
        self.own = [variant.runtime for variant in container._versions.runtime._variants]
        return self.outputs


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    for kind in (NativeContainer, StockContainer):
        real: Any = kind.run

        def noted(self: Any, inputs: Any, stream: int | None = None, real: Any = real) -> Outputs:
            outputs: Outputs = real(self, inputs, stream)
            if self not in seen.own:
                seen.outputs.append(outputs)
            return outputs

        monkeypatch.setattr(kind, "run", noted)
    return seen


def smallest(container: Container) -> Weights:
    """Zeros, as the trial makes them."""
    return {
        name: torch.zeros(shape, dtype=getattr(torch, dtype))
        for name, (dtype, shape) in container.signature.smallest_inputs.items()
    }


def changed(weights: Weights, by: float) -> Weights:
    return {name: value + by if value.is_floating_point() else value for name, value in weights.items()}


def check_trials(container: Container, weights: Weights, seen: Seen) -> None:
    """Over swaps, repeated stages, an abort, a rollback and a release each trial gives what the commit then gives."""
    container.stage(weights)
    container.commit()
    tried = seen.of(container)
    for turn in range(6):
        container.stage(changed(weights, 0.1 * turn + 0.1))
        container.try_staged()
        before = container.run(smallest(container))
        container.stage(changed(weights, 0.1 * turn + 0.15))  # into the same buffer
        container.try_staged()
        torch.testing.assert_close(container.run(smallest(container)), before)
        container.commit()
        other, last = tried[-2:]
        committed = list(container.run(smallest(container)).values())
        torch.testing.assert_close(last, committed)
        assert not torch.equal(other[0], committed[0])
        if turn == 2:
            container.rollback()
        if turn == 3:
            container.release()
        if turn == 4:
            container.stage(changed(weights, 5))
            container.abort()
    assert len(tried) == 12


def test_a_trial_runs_with_the_staged_weights(mixed: Compiled, seen: Seen) -> None:
    with Container(mixed.package, num_runners=2) as container:
        check_trials(container, mixed.weights(), seen)


@pytest.mark.parametrize("name", ["folded", "lifted"])
def test_a_trial_of_a_package_made_elsewhere_folds_for_itself(lab: Lab, seen: Seen, name: str) -> None:
    made = {"_tensor_constant0": torch.arange(1.0, 17.0)}
    values = foreign.seeded(foreign.Lifted).state_dict() | made if name == "lifted" else foreign.weights()
    with Container(Package.open(lab.package(f"{name}_known"))) as container:
        check_trials(container, values, seen)


def test_a_trial_through_torchs_own_runner(lab: Lab, seen: Seen) -> None:
    with Container(Package.open(lab.package("sampler_known"))) as container:
        container.stage({"mix": torch.eye(16) * 1000})
        container.commit()
        tried = seen.of(container)
        container.stage({"mix": torch.eye(16).flip(0) * 1000})
        container.try_staged()
        assert len(tried) == 1


def test_the_first_version_of_all_is_tried_too(mixed: Compiled, seen: Seen) -> None:
    with Container(mixed.package) as container:
        container.stage(mixed.weights())
        tried = seen.of(container)
        container.try_staged()
        assert len(tried) == 1
        assert (container.version, container.staged) == (None, 1)
        container.commit()


def test_a_trial_needs_a_staged_version_and_an_open_container(mixed: Compiled) -> None:
    with Container(mixed.package) as container, pytest.raises(NothingStaged):
        container.try_staged()
    with pytest.raises(ContainerClosed):
        container.try_staged()


def test_a_trial_takes_no_runner(mixed: Compiled) -> None:
    """It ends while every runner is taken by a run that lasts."""
    with Container(mixed.package, num_runners=1) as container:
        container.stage(mixed.weights())
        container.commit()
        container.stage(mixed.weights())
        with container._gate:
            trial = threading.Thread(target=container.try_staged)
            trial.start()
            trial.join(60)
            assert not trial.is_alive()


class Once:
    """Makes the second runtime's runs fail, and the container's own if `all_of_them`."""

    def __init__(self, container: Container, all_of_them: bool) -> None:
        self.own = [] if all_of_them else [variant.runtime for variant in container._versions.runtime._variants]

    def run(self, runtime: Any, real: Any, inputs: Any, stream: int | None) -> Outputs:
        if runtime in self.own:
            outputs: Outputs = real(runtime, inputs, stream)
            return outputs
        raise RuntimeFailed(call="run", detail="the matrix is singular")


@pytest.fixture
def committed(mixed: Compiled) -> Iterator[Container]:
    with Container(mixed.package) as container:
        container.stage(mixed.weights())
        container.commit()
        container.stage(changed(mixed.weights(), 1))
        yield container


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_failure_counts_only_where_the_active_version_answers(
    committed: Container, mixed: Compiled, monkeypatch: pytest.MonkeyPatch, all_of_them: bool
) -> None:
    """Else the inputs, which are made up, are at fault: the active version fails on them as well."""
    real, once = NativeContainer.run, Once(committed, all_of_them)
    want = committed.run(mixed.inputs)["logits"]
    with monkeypatch.context() as patch:
        patch.setattr(NativeContainer, "run", lambda self, inputs, stream=None: once.run(self, real, inputs, stream))
        if all_of_them:
            committed.try_staged()
        else:
            with pytest.raises(WeightsDoNotRun, match="the matrix is singular") as caught:
                committed.try_staged()
            assert caught.value.http_status == 400
    assert committed.staged == (2 if all_of_them else None)
    assert torch.equal(committed.run(mixed.inputs)["logits"], want)
    committed.stage(mixed.weights())
    committed.try_staged()


def test_weights_that_answer_with_no_number_are_refused_unless_any_will_do(
    committed: Container, mixed: Compiled
) -> None:
    """All values are finite; the root of a negative variance is not."""
    weights = mixed.weights()
    weights["norm.running_var"] = -weights["norm.running_var"] - 1
    committed.stage(weights)
    with pytest.raises(AnswersNotFinite, match=r"output 'logits' has [1-9]\d* NaN .*--skip-acceptance"):
        committed.try_staged()
    assert (committed.version, committed.staged) == (1, None)
    committed.stage(weights)
    committed.try_staged(skip_acceptance=True)
    committed.commit()
    assert committed.run(mixed.inputs)["logits"].isnan().all()
    committed.stage(weights)
    committed.try_staged()  # the version that answers does no better


def test_without_a_version_that_answers_no_number_proves_nothing(
    mixed: Compiled, caplog: pytest.LogCaptureFixture
) -> None:
    weights = mixed.weights()
    weights["norm.running_var"] = -weights["norm.running_var"] - 1
    with Container(mixed.package) as container:
        container.stage(weights)
        container.try_staged()
        assert container.staged is not None
    assert "have answered no made-up input as they should: output 'logits'" in caplog.text


def test_a_second_runtime_that_cannot_be_loaded_stages_nothing(
    committed: Container, mixed: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("aoti_serve.model.container.load", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            committed.try_staged()
    assert (committed.version, committed.staged) == (1, None)
    committed.stage(mixed.weights())
    committed.try_staged()
    assert committed.staged is not None


class Ordered(nn.Module):
    """A table that is read through indices which come with the weights, and at `x - 1`: 0 is no input of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 3))
        self.register_buffer("order", torch.tensor([3, 1, 2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.gather(self.table, 0, (x - 1)[:, None].expand(-1, 3)) + self.table[self.get_buffer("order")].sum(0)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Package:
    batch = torch.export.Dim("batch", min=1, max=16)
    inputs = {"x": torch.ones(2, dtype=torch.int64)}
    path = tmp_path_factory.mktemp("ordered") / "ordered.pt2"
    return export_package(Ordered().eval(), inputs, path, dynamic_shapes={"x": {0: batch}})


def test_an_index_in_weights_that_leads_nowhere_is_found_before_the_commit(ordered: Package) -> None:
    with Container(ordered) as container:
        container.stage(Ordered().state_dict())
        container.try_staged()
        container.commit()
        container.stage({"order": torch.tensor([0, 10**6, 1])}, partial=True)
        with pytest.raises(UnfitTensor, match=r"'order'.*-5\.\.4.*'table'"):
            container.try_staged()
        assert (container.version, container.staged) == (1, None)
