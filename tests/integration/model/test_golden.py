"""Golden requests: staged weights must answer them rightly before they are committed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aoti_serve.errors import GoldenFailed, RuntimeFailed, UnfitGolden, UnreadableGolden, WeightsDoNotRun
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from aoti_serve.signature.golden.file import save_golden
from aoti_serve.signature.golden.request import GoldenRequest
from tests.integration.models import Compiled

Weights = dict[str, torch.Tensor]
BATCH = torch.export.Dim("batch", min=1, max=16)


def changed(weights: Weights, by: float) -> Weights:
    return {name: value + by if value.is_floating_point() else value for name, value in weights.items()}


def golden(mixed: Compiled, **bounds: Any) -> GoldenRequest:
    """What the module itself answers."""
    outputs = {"logits": mixed.module(*mixed.inputs.values())["logits"]}
    return GoldenRequest("mixed", mixed.inputs, outputs, {"logits": bounds or {"cosine": 0.999}})


def test_weights_that_answer_rightly_are_staged_and_others_are_not(container: Container, mixed: Compiled) -> None:
    want = container.run(mixed.inputs)["logits"]
    container.stage(mixed.weights())
    container.try_staged([golden(mixed, cosine=0.9999, absolute=1e-3, top1=1)])
    assert (container.version, container.staged) == (1, 2)
    container.stage(changed(mixed.weights(), 1))
    with pytest.raises(GoldenFailed, match=r"golden request 'mixed': output 'logits' has cosine .*, at least 0.9999"):
        container.try_staged([golden(mixed, cosine=0.9999)])
    assert (container.version, container.staged) == (1, None)
    assert torch.equal(container.run(mixed.inputs)["logits"], want)


def test_acceptance_can_be_skipped(container: Container, mixed: Compiled) -> None:
    container.stage(changed(mixed.weights(), 1))
    container.try_staged([golden(mixed)], skip_acceptance=True)
    assert container.staged == 2


def test_every_output_must_be_finite(container: Container, mixed: Compiled) -> None:
    """Also those that are numbers for the inputs that are made up, which are zeros."""
    weights = mixed.weights()
    weights["first.weight"] = torch.full_like(weights["first.weight"], 3e38)
    container.stage(weights)
    with pytest.raises(GoldenFailed, match=r"output 'logits' has non-finite values"):
        container.try_staged([GoldenRequest("plain", mixed.inputs)])


@pytest.mark.parametrize("inputs", [{}, {"x": torch.zeros(100, 16), "ids": torch.zeros(100, 3, dtype=torch.int64)}])
def test_what_the_package_cannot_be_asked_stages_nothing(
    container: Container, mixed: Compiled, inputs: Weights
) -> None:
    container.stage(mixed.weights())
    with pytest.raises(UnfitGolden, match="golden request 'odd': input 'x'"):
        container.try_staged([GoldenRequest("odd", inputs)])
    assert container.staged is None


class Table(nn.Module):
    """A table that is read through `ids`; its answers are in bfloat16, and one is a number of a class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(5, 4, dtype=torch.bfloat16)
        self.last = nn.Linear(4, 8, dtype=torch.bfloat16)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.last(self.table(ids))
        return {"logits": logits, "best": logits.argmax(-1)}


IDS = torch.arange(5)


def asked(**bounds: Any) -> GoldenRequest:
    answers = Table()(IDS)
    known: dict[str, Any] = {"logits": {"cosine": 0.99}, "best": {"absolute": 0}}
    return GoldenRequest("rows", {"ids": IDS}, {name: answers[name] for name in known | bounds}, known | bounds)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package that carries golden requests, from a file."""
    folder = tmp_path_factory.mktemp("table")
    save_golden([asked()], folder / "golden.safetensors")
    return export_package(
        *(Table().eval(), {"ids": torch.zeros(2, dtype=torch.int64)}, folder / "table.pt2"),
        dynamic_shapes={"ids": {0: BATCH}},
        golden=folder / "golden.safetensors",
    )


def test_a_package_carries_what_it_was_given(table: Package) -> None:
    (request,) = Package.open(table.path).golden()
    assert (table.golden_count, request.name, request.bounds) == (1, "rows", asked().bounds)
    assert request.outputs["logits"].dtype.name == "bfloat16"


def test_the_requests_of_a_package_hold_for_all_weights(table: Package) -> None:
    with Container(table) as container:
        container.stage(Table().state_dict())
        container.try_staged()
        container.commit()
        container.stage(changed(Table().state_dict(), 1))
        with pytest.raises(GoldenFailed, match="golden request 'rows': output"):
            container.try_staged()
        assert (container.version, container.staged) == (1, None)


def test_what_a_package_demands_cannot_be_passed_over_by_a_commit_without_a_trial(table: Package) -> None:
    with Container(table) as container:
        container.stage(Table().state_dict())
        container.commit()
        container.stage(changed(Table().state_dict(), 1), 7)
        with pytest.raises(GoldenFailed):
            container.commit()
        assert (container.version, container.staged) == (1, None)
        container.stage(changed(Table().state_dict(), 1), 7)
        container.try_staged(skip_acceptance=True)
        container.commit()
        assert container.version == 7
        container.rollback()
        assert container.version == 1


def test_an_index_that_leads_nowhere_is_the_requests_own_fault(table: Package) -> None:
    with Container(table) as container:
        container.stage(Table().state_dict())
        with pytest.raises(UnfitGolden, match=r"golden request 'far': input 'ids'.*'table.weight'"):
            container.try_staged([GoldenRequest("far", {"ids": torch.tensor([99])})])
        assert container.staged is None


def test_a_run_that_fails_names_the_request(
    container: Container, mixed: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = NativeContainer.run

    def fails(self: NativeContainer, inputs: Iterable[torch.Tensor], stream: int | None = None) -> Any:
        given = list(inputs)
        if len(given[0]) == 4:
            raise RuntimeFailed(call="run", detail="the matrix is singular")
        return real(self, given, stream)

    container.stage(mixed.weights())
    monkeypatch.setattr(NativeContainer, "run", fails)
    with pytest.raises(WeightsDoNotRun, match="golden request 'mixed': run: the matrix is singular"):
        container.try_staged([golden(mixed)])


@pytest.mark.parametrize(
    ("request_of", "error"),
    [
        pytest.param(lambda: asked(logits={"range": (100, 101), "cosine": 0}), GoldenFailed, id="its own weights"),
        pytest.param(lambda: GoldenRequest("odd", {"idx": IDS}), UnfitGolden, id="other inputs"),
        pytest.param(lambda: "nowhere.safetensors", UnreadableGolden, id="no file"),
    ],
)
def test_a_package_that_fails_its_own_requests_is_not_written(
    tmp_path: Path, request_of: Any, error: type[Exception]
) -> None:
    made = request_of()
    with pytest.raises(error):
        export_package(
            *(Table().eval(), {"ids": torch.zeros(2, dtype=torch.int64)}, tmp_path / "table.pt2"),
            dynamic_shapes={"ids": {0: BATCH}},
            golden=made if isinstance(made, str) else [made],
        )
    assert list(tmp_path.iterdir()) == []


def test_variants_of_one_package_share_the_requests(tmp_path: Path) -> None:
    package = export_package(
        *(Table().eval(), {"ids": torch.zeros(2, dtype=torch.int64)}, tmp_path / "table.pt2"),
        batch_sizes=[2, 8],
        golden=[asked()],
    )
    assert package.golden_count == 1
    with Container(package) as container:
        container.stage(Table().state_dict())
        container.try_staged()
        container.stage(changed(Table().state_dict(), 1))
        with pytest.raises(GoldenFailed):
            container.try_staged()
