"""Small packages, compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from tests.integration import foreign, models, raw
from tests.integration.models import Compiled, Mixed
from tests.integration.raw import Lab
from tests.package_cache import PackageCache


@pytest.fixture(scope="session")
def mixed(package_cache: PackageCache) -> Compiled:
    torch.manual_seed(0)
    module = Mixed().eval()
    inputs = {"x": torch.randn(4, 16), "ids": torch.randint(0, 9, (4, 3))}

    def make(folder: Path) -> None:
        batch = torch.export.Dim("batch", min=1, max=64)
        shapes = {"x": {0: batch}, "ids": {0: batch}}
        # Plain, so that torch's own loader, and the stand-in for a card, may take it as well.
        export_package(module, inputs, folder / "mixed.pt2", dynamic_shapes=shapes, prepare=False)

    folder = package_cache.entry("mixed", make, Path(models.__file__), Path(__file__))
    return Compiled(module, Package.open(folder / "mixed.pt2"), inputs)


@pytest.fixture
def container(mixed: Compiled) -> Iterator[Container]:
    """A container of `mixed` with version 1 committed."""
    with Container(mixed.package, num_runners=2) as made:
        made.stage(mixed.weights())
        made.commit()
        yield made


@pytest.fixture(scope="session")
def lab(package_cache: PackageCache, run_folder: Path) -> Lab:
    """What the bare runtime does, each in a process of its own."""
    return raw.lab(package_cache.entry("foreign", foreign.compile_apart, Path(foreign.__file__)), run_folder)


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
