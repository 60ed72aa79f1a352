"""Packages that torch makes without us.

`python -m tests.integration.foreign FOLDER` compiles them, two at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.pt2_archive._package import package_pt2

from aoti_serve.config import DeclaredSignature

Weights = dict[str, torch.Tensor]
FOLD = {"aot_inductor.use_runtime_constant_folding": True}
NO_END = 1 << 20
FIXED_THREADS = 3


class Net(nn.Module):
    """Two layers, a batch norm, and a bias and a buffer that are small enough to be inlined."""

    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64)
        self.last = nn.Linear(64, 4)
        self.register_buffer("offset", torch.randn(4))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.norm(self.first(x)))
        return {"logits": self.last(hidden) + self.offset + ids.sum(-1, keepdim=True), "hidden": hidden}


class Lifted(nn.Module):
    """A tensor that forward() makes, in code that folds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(x) * torch.tensor([float(number) for number in range(1, 17)])
        return made


class Sampler(nn.Module):
    """Calls an operator that only torch's dispatcher can call; picks where its input is largest."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(16) * 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(torch.softmax(x @ self.mix, -1), 1)


class Image(nn.Module):
    """Something for each pixel; its example comes as channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.paint = nn.Parameter(torch.randn(3, 4, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.paint


class Expanded(nn.Module):
    """A constant of four rows, one of which is in memory."""

    row: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("row", torch.randn(1, 16).expand(4, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.row


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The same module in every process."""
    torch.manual_seed(0)
    return make().eval()


def inputs(rows: int = 4) -> list[torch.Tensor]:
    """For Net."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 64, generator=generator), torch.randint(0, 9, (rows, 3), generator=generator)]


def weights(by: float = 0.0) -> Weights:
    """Net's, without the counter that no code reads; each value changed by `by`."""
    values = seeded(Net).state_dict()
    return {name: value + by for name, value in values.items() if value.is_floating_point()}


def eager(values: Weights, given: list[torch.Tensor] | None = None) -> torch.Tensor:
    """The logits that PyTorch answers with these weights."""
    with torch.no_grad():
        answer = torch.func.functional_call(seeded(Net), values, tuple(given or inputs()))
    logits: torch.Tensor = answer["logits"]
    return logits


def image() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))


def _net(limit: int) -> ExportedProgram:
    batch = Dim("batch", min=1, max=limit)
    with torch.no_grad():
        return torch.export.export(seeded(Net), tuple(inputs(64)), dynamic_shapes={"x": {0: batch}, "ids": {0: batch}})


def _fixed(make: Callable[[], nn.Module], given: torch.Tensor) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(seeded(make), (given,))


MADE: dict[str, tuple[Callable[[], ExportedProgram], dict[str, Any]]] = {
    "folded": (lambda: _net(NO_END), FOLD),
    "plain": (lambda: _net(64), {"cpp.threads": FIXED_THREADS}),
    "lifted": (
        lambda: _fixed(Lifted, torch.zeros(4, 16)),
        FOLD | {"aot_inductor.package_constants_in_so": False},
    ),
    "sampler": (lambda: _fixed(Sampler, torch.eye(16)[:4]), {"always_keep_tensor_constants": True}),
    "image": (lambda: _fixed(Image, image().to(memory_format=torch.channels_last)), {}),
    "expanded": (lambda: _fixed(Expanded, torch.zeros(4, 16)), FOLD),
}


def compile_apart(folder: Path) -> None:
    """`compile_all` in a process of its own, which may fork."""
    quiet = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.foreign", str(folder)]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def compile_all(folder: Path) -> None:
    """`<name>.pt2` as torch makes it, `<name>_known.pt2` with the exported program, `two.pt2` with two models."""
    children = [_forked(folder, list(MADE)[start::2]) for start in range(2)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    files = {name: torch.load(folder / f"{name}.files") for name in ("folded", "plain")}
    package_pt2(folder / "two.pt2", aoti_files=files)


def _forked(folder: Path, names: list[str]) -> int:
    child = os.fork()
    if child == 0:
        for name in names:
            _compile(folder, name)
        os._exit(0)
    return child


def _compile(folder: Path, name: str) -> None:
    make, options = MADE[name]
    exported = make()
    module, example = exported.module(check_guards=False), exported.example_inputs
    assert example is not None
    files: Any = torch._inductor.aot_compile(module, *example, options={"aot_inductor.package": True} | options)
    torch.save(files, folder / f"{name}.files")
    package_pt2(folder / f"{name}.pt2", aoti_files={"model": [*files]})
    package_pt2(folder / f"{name}_known.pt2", exported_programs={"model": exported}, aoti_files={"model": [*files]})


NET = DeclaredSignature.model_validate(
    {
        "inputs": [
            {"name": "x", "dtype": "float32", "shape": ["batch=1..1048576", 64]},
            {"name": "ids", "dtype": "int64", "shape": ["batch=1..1048576", 3]},
        ],
        "outputs": [
            {"name": "logits", "dtype": "float32", "shape": ["batch=1..1048576", 4]},
            {"name": "hidden", "dtype": "float32", "shape": ["batch=1..1048576", 64]},
        ],
        "unused": ["norm.num_batches_tracked"],
    }
)
ONE = DeclaredSignature.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [4, 16]}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": [4, 16]}],
    }
)

if __name__ == "__main__":
    compile_all(Path(sys.argv[1]))
