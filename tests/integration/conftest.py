"""Small packages, compiled once per run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from tests.integration import foreign, raw
from tests.integration.models import Compiled, Mixed
from tests.integration.raw import Lab


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    module = Mixed().eval()
    inputs = {"x": torch.randn(4, 16), "ids": torch.randint(0, 9, (4, 3))}
    path = tmp_path_factory.mktemp("mixed") / "mixed.pt2"
    return Compiled(
        module, export_package(module, inputs, path, dynamic_shapes={"x": {0: batch}, "ids": {0: batch}}), inputs
    )


@pytest.fixture
def container(mixed: Compiled) -> Iterator[Container]:
    """A container of `mixed` with version 1 committed."""
    with Container(mixed.package, num_runners=2) as made:
        made.stage(mixed.weights())
        made.commit()
        yield made


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """What the bare runtime does, each in a process of its own."""
    return raw.lab(tmp_path_factory.getbasetemp())


@pytest.fixture
def folded(lab: Lab) -> Iterator[Container]:
    """A package that folds, with its weights in its library."""
    with Container(Package.open(lab.package("folded"), signature=foreign.NET)) as made:
        yield made


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Ray in this process; gone when the module ends, since tests that want none may share the process."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()
