"""What the bare runtime does, without any of our checks: programs that would take the tests' process with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.package import Package
from tests.integration.foreign import Weights, inputs

_aoti: Any = torch._C._aoti
ROWS: dict[str, Callable[[Path], dict[str, Any]]] = {}


class Ending(NamedTuple):
    """How a program ended: its exit status, negative for a signal, and what it said before that."""

    code: int
    said: dict[str, Any]

    @property
    def crashed(self) -> bool:
        return self.code in {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}


class Lab(NamedTuple):
    """The packages by name, and what became of the programs."""

    folder: Path
    endings: dict[str, Ending]

    def package(self, name: str) -> Path:
        return self.folder / f"{name}.pt2"


def lab(packages: Path, run_folder: Path) -> Lab:
    """All programs run on copies of the packages, once per run of the tests."""
    folder = run_folder / "raw"
    with FileLock(run_folder / "raw.lock"):
        if not (folder / "rows.json").exists():
            shutil.copytree(packages, folder, dirs_exist_ok=True)
            run_all(folder)
    rows = json.loads((folder / "rows.json").read_text())
    return Lab(folder, {name: Ending(*ending) for name, ending in rows.items()})


def run_all(folder: Path) -> None:
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.raw_runner", str(folder)]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Raw(NativeContainer):
    """The bare C ABI; if `managed`, the runtime copies what it is given, as torch's own loader has it do."""

    def __init__(self, package: Path, managed: bool = False) -> None:
        self._managed = managed
        super().__init__(library(package), 1, "cpu")

    def _call(self, name: str, *arguments: Any, handle: bool = True) -> None:
        managed = self._managed and name == "UpdateUserManagedConstantBufferPairs"
        super()._call("UpdateConstantBufferPairs" if managed else name, *arguments, handle=handle)

    def activate(self, values: Weights) -> None:
        self._register(values)
        self.fold(inactive=True)
        self.swap()

    def answer(self, *given: torch.Tensor) -> torch.Tensor:
        answer = self.run(given or inputs())[0]
        assert answer is not None
        return answer


def library(package: Path) -> Path:
    return next(Package.open(package, "model").extract().glob("*wrapper.so"))


def loader(package: Path) -> Any:
    """torch's own."""
    return _aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def row(program: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    ROWS[program.__name__] = program
    return program
