"""One server for all tests that only talk to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aoti_serve.demo import digits
from tests.e2e import dtypes, labour, toil
from tests.e2e.served import Eager, Server, free_port, serving, write_config
from tests.package_cache import PackageCache


@pytest.fixture(scope="session")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def server(
    digits_dir: Path, dtypes_dir: Path, tmp_path_factory: pytest.TempPathFactory, grpc_port: int
) -> Iterator[Server]:
    """Over HTTP and gRPC: digits, two replicas, version 1 = v1; and dtypes."""
    folder = tmp_path_factory.mktemp("server")
    other = {
        "name": dtypes.NAME,
        "package": str(dtypes_dir / "dtypes.pt2"),
        "weights": str(dtypes_dir / "dtypes.safetensors"),
        "store": str(folder / "dtypes-versions"),
    }
    config = write_config(folder, digits_dir, other, weights_roots=[str(digits_dir)])
    with serving(config, "--grpc-port", str(grpc_port)) as running:
        yield running


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    """The 360 held-out images."""
    found: NDArray[np.float32] = digits.load_images()[1].images.numpy()
    return found


@pytest.fixture(scope="session")
def eager(digits_dir: Path) -> Eager:
    return Eager(digits_dir)


@pytest.fixture(scope="session")
def dtypes_dir(package_cache: PackageCache) -> Path:
    """A folder with dtypes.pt2 and its weights."""
    return package_cache.entry("dtypes", dtypes.make_package, Path(dtypes.__file__))


@pytest.fixture(scope="session")
def labour_dir(package_cache: PackageCache) -> Path:
    """A folder with labour.pt2 and its weights."""
    return package_cache.entry("labour", labour.make_package, Path(labour.__file__), Path(toil.__file__))
