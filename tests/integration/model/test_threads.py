"""Intra-op threads: each run has its share of the cores, and code that was compiled for another number is told of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from aoti_serve.config import DeclaredSignature
from aoti_serve.errors import WrongOutput
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from aoti_serve.signature.tensors import Dim, TensorSpec

FIXED = 3
ROWS = TensorSpec(name="x", dtype="float32", shape=(Dim(symbol="batch", min=1, max=4096), 512))
DECLARED = DeclaredSignature(inputs=(ROWS,), outputs=(ROWS.model_copy(update={"name": "y"}),))
COUNT_THREADS = """
import sys, warnings
warnings.simplefilter("ignore")
import psutil, torch
from aoti_serve.errors import WrongOutput
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from test_threads import DECLARED
torch.set_num_threads(1)  # nothing but the run starts any
x = torch.ones(4096, 512)
container = Container(Package.open(sys.argv[1], signature=DECLARED), num_threads=int(sys.argv[2]))
before = psutil.Process().num_threads()
container.run([x])
print(psutil.Process().num_threads() - before)
"""


class Wave(nn.Module):
    """Elementwise, which is what the compiler spreads over OpenMP's threads by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) * torch.cos(x)


def compiled(path: Path, **options: object) -> Path:
    dims = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    program = torch.export.export(Wave(), (torch.zeros(8, 512),), dynamic_shapes=dims)
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    return path


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("fixed") / "fixed.pt2", **{"cpp.threads": FIXED})


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("dynamic") / "dynamic.pt2", **{"cpp.dynamic_threads": True})


def extra_threads(package: Path, num_threads: int) -> int:
    """How many threads one run starts, in a process that has started none for it before."""
    command = [sys.executable, "-c", COUNT_THREADS, str(package), str(num_threads)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_a_run_takes_the_threads_it_is_given(dynamic: Path, num_threads: int) -> None:
    assert extra_threads(dynamic, num_threads) == num_threads - 1


def test_code_for_a_fixed_number_takes_that_and_says_so(fixed: Path) -> None:
    assert extra_threads(fixed, 1) == FIXED - 1
    with (
        pytest.warns(UserWarning, match=rf"{FIXED} threads per run.*2 runners take {2 * FIXED} threads where 2 are"),
        Container(Package.open(fixed, signature=DECLARED), num_runners=2, num_threads=1),
    ):
        pass


def test_the_number_it_was_compiled_for_needs_no_warning(fixed: Path) -> None:
    with Container(Package.open(fixed, signature=DECLARED), num_threads=FIXED) as container:
        x = torch.ones(16, 512)
        torch.testing.assert_close(container.run([x])["y"], Wave()(x))


def test_an_output_that_is_not_as_declared_is_an_error_that_says_so(dynamic: Path) -> None:
    wrong = DECLARED.model_copy(update={"outputs": (ROWS.model_copy(update={"name": "y", "dtype": "int64"}),)})
    with (
        Container(Package.open(dynamic, signature=wrong)) as container,
        pytest.raises(WrongOutput, match=r"'y' is float32 \[2, 512\].*int64 \[batch=1\.\.4096, 512\]"),
    ):
        container.run([torch.ones(2, 512)])
