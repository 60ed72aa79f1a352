"""What the bare runtime does, without any of our checks: programs that would take the tests' process with them.

`python -m tests.integration.raw FOLDER [NAME ...]` runs each program, or those that are named, on the foreign packages
in the folder: in a process of its own, forked so that torch is imported once. It writes what became of each to
FOLDER/rows.json: how it ended, and what it said.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock

from aoti_serve.errors import AotiServeError
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from tests.integration import foreign
from tests.integration.foreign import Weights, eager, inputs, weights

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
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.raw", str(folder)]
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


@row
def loader_holds_the_gil(folder: Path) -> dict[str, Any]:
    """Whoever waits for "it has begun" wakes up when it has ended: no thread is ever forced to let go here."""
    sys.setswitchinterval(1000)
    runner, given = loader(folder / "folded.pt2"), inputs(1 << 17)
    begun, ended, kept = threading.Event(), threading.Event(), []

    def run() -> None:
        begun.set()
        kept.append(runner.run(given))  # else freeing it lets others in before the end
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    inside = not ended.is_set()
    thread.join()
    return {"inside": inside, "ran": len(kept)}


@row
def loader_cannot_activate(folder: Path) -> dict[str, Any]:
    runner = loader(folder / "folded.pt2")
    before = runner.run(inputs())[0]
    runner.load_constants(weights(0.5), True, False)
    after = runner.run(inputs())[0]
    lacks = [name for name in ("swap_constant_buffer", "free_inactive_constant_buffer") if not hasattr(runner, name)]
    return {"lacks": lacks, "same": torch.equal(before, after)}


@row
def loader_writes_what_answers(folder: Path) -> dict[str, Any]:
    runner = loader(folder / "folded.pt2")
    runner.load_constants(weights(0.5), False, False)
    return {"new": same(runner.run(inputs())[0], eager(weights(0.5)))}


@row
def inlined(folder: Path) -> dict[str, Any]:
    runner = loader(folder / "plain.pt2")
    known, new = runner.get_constant_fqns(), weights(0.5)
    runner.load_constants({name: new[name] for name in known}, False, True)
    old = {name: value for name, value in weights().items() if name not in known}
    answer = runner.run(inputs())[0]
    return {"lost": sorted(old), "new": same(answer, eager(new)), "mixed": same(answer, eager(new | old))}


@row
def folded(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    sizes = {constant.fqn: constant.nbytes for constant in native.constants if constant.folded}
    return {"listed": sorted(loader(folder / "folded.pt2").get_constant_fqns()), "folded": sizes}


@row
def partial_first(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    native.activate({"last.weight": weights(0.5)["last.weight"]})
    return {"new": same(native.answer(), eager(weights() | {"last.weight": weights(0.5)["last.weight"]}))}


@row
def partial_later(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    versions = [weights(by) for by in (0.25, 0.5, 0.75)]
    for version in versions[:2]:
        native.activate(version)
    change = {"last.weight": versions[2]["last.weight"]}
    native.activate(change)
    buffers = {name: versions[1][name] for name in ("offset", "norm.running_mean", "norm.running_var")}
    answer = native.answer()
    return {
        "new": same(answer, eager(versions[1] | change)),
        "mix": same(answer, eager(versions[0] | buffers | change)),
    }


@row
def in_two_calls(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2", managed=True)
    new, buffers = weights(0.5), ("offset", "norm.running_mean", "norm.running_var")
    native._register({name: new[name] for name in buffers})
    native.activate({name: value for name, value in new.items() if name not in buffers})
    answer, old = native.answer(), {name: weights()[name] for name in buffers}
    return {"new": same(answer, eager(new)), "old buffers": same(answer, eager(new | old))}


def spoiled(folder: Path, **changes: torch.Tensor) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2", managed=True)
    new = weights(0.5)
    native.activate(new | {name.replace("__", "."): value for name, value in changes.items()})
    return {"new": same(native.answer(), eager(new))}


@row
def view_of_a_large_storage(folder: Path) -> dict[str, Any]:
    return spoiled(folder, first__weight=torch.zeros(1 << 26)[: 64 * 64].view(64, 64))


@row
def not_contiguous(folder: Path) -> dict[str, Any]:
    return spoiled(folder, first__weight=weights(0.5)["first.weight"].t().contiguous().t())


@row
def wrong_dtype(folder: Path) -> dict[str, Any]:
    return spoiled(folder, **{name.replace(".", "__"): value.double() for name, value in weights(0.5).items()})


@row
def wrong_shape(folder: Path) -> dict[str, Any]:
    return spoiled(folder, first__weight=torch.ones(2, 2))


@row
def unknown_name(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    native._names["stranger"] = b"stranger"
    native.activate(weights(0.5) | {"stranger": torch.ones(3)})
    accepted = same(native.answer(), eager(weights(0.5)))
    try:
        loader(folder / "folded.pt2").load_constants({"stranger": torch.ones(3)}, False, False)
    except RuntimeError as error:
        return {"accepted": accepted, "loader": str(error)}
    return {"accepted": accepted, "loader": ""}


@row
def plain_state_dict(folder: Path) -> dict[str, Any]:
    try:
        loader(folder / "folded.pt2").load_constants(foreign.seeded(foreign.Net).state_dict(), False, True)
    except RuntimeError as error:
        return {"loader": str(error)}
    return {"loader": ""}


@row
def every_update_is_kept(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    alive: set[int] = set()
    for number in range(6):
        array = np.full((64, 64), float(number), dtype=np.float32)
        alive.add(number)
        weakref.finalize(array, alive.discard, number)
        native.activate(weights() | {"first.weight": torch.from_numpy(array)})
        del array
    native.free_inactive()
    return {"alive": len(alive)}


@row
def freed_and_swapped_back(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2", managed=True)
    native.activate(weights(0.5))
    native.free_inactive()
    native.swap()
    return {"old": same(native.answer(), eager(weights()))}


@row
def freed_and_updated(folder: Path) -> dict[str, Any]:
    native = Raw(folder / "folded.pt2")
    native.activate(weights(0.25))
    native.activate(weights(0.5))
    native.free_inactive()
    native.activate(weights(0.75))
    return {"new": same(native.answer(), eager(weights(0.75)))}


@row
def ours_given_up_and_updated(folder: Path) -> dict[str, Any]:
    """In a process of its own, since it would crash as the bare runtime does."""
    with Container(Package.open(folder / "folded.pt2", signature=foreign.NET)) as container:
        container.stage(weights(0.25))
        container.commit()
        active = container.run(inputs())["logits"]
        for give_up in (container.abort, container.release, container.abort):
            container.stage(weights(0.5))
            give_up()
        kept = torch.equal(container.run(inputs())["logits"], active)
        container.stage(weights(0.5))
        container.commit()
        new = container.run(inputs())["logits"]
        container.release()
        container.stage(weights(0.25))
        container.commit()
        again = torch.equal(container.run(inputs())["logits"], active)
        return {"kept": kept, "new": same(new, eager(weights(0.5))), "again": again}


@row
def no_weights_yet(folder: Path) -> dict[str, Any]:
    return {"answer": Raw(folder / "lifted.pt2").answer(torch.zeros(4, 16)).tolist()}


def lifted(folder: Path, fold_first: bool) -> dict[str, Any]:
    """Two versions that differ in the tensor that forward() makes."""
    native, module = Raw(folder / "lifted.pt2"), foreign.seeded(foreign.Lifted)
    values = dict(module.state_dict())
    (name,) = {constant.fqn for constant in native.constants if not constant.folded} - values.keys()
    native._register(values | {name: torch.ones(16)})
    if fold_first:
        native.fold(inactive=True)
    native.swap()
    native.activate(values | {name: torch.full((16,), 2.0)})
    with torch.no_grad():
        layer = module.get_submodule("layer")(torch.ones(4, 16))
    answer = native.answer(torch.ones(4, 16))
    return {"new": same(answer, layer * 2), "old": same(answer, layer)}


@row
def lifted_folded_first(folder: Path) -> dict[str, Any]:
    return lifted(folder, fold_first=True)


@row
def lifted_folded_later(folder: Path) -> dict[str, Any]:
    return lifted(folder, fold_first=False)


@row
def unequal_batches(folder: Path) -> dict[str, Any]:
    return {"shape": list(loader(folder / "folded.pt2").run([torch.zeros(4, 64), inputs(2)[1]])[0].shape)}


@row
def above_the_maximum(folder: Path) -> dict[str, Any]:
    return {"shape": list(loader(folder / "plain.pt2").run(inputs(100))[0].shape)}


@row
def one_input_of_two(folder: Path) -> dict[str, Any]:
    return {"shape": list(Raw(folder / "folded.pt2").answer(inputs()[0]).shape)}


def garbled(folder: Path, *given: torch.Tensor) -> dict[str, Any]:
    return {"shape": list(loader(folder / "folded.pt2").run(list(given))[0].shape)}


@row
def wrong_trailing_dimension(folder: Path) -> dict[str, Any]:
    return garbled(folder, inputs()[0], torch.zeros(4, 7, dtype=torch.int64))


@row
def wrong_input_dtype(folder: Path) -> dict[str, Any]:
    return garbled(folder, inputs()[0], torch.full((4, 3), 1.5, dtype=torch.float64))


@row
def runtime_checks_inputs(folder: Path) -> dict[str, Any]:
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
    given = inputs()
    said: dict[str, Any] = {}
    strided = [given[0].t().contiguous().t(), given[1]]
    for name, bad in {"dtype": [given[0], given[1].double()], "strides": strided}.items():
        try:
            loader(folder / "plain.pt2").run(bad)
        except RuntimeError as error:
            said[name] = str(error)
    with Container(Package.open(folder / "plain_known.pt2")) as container:
        said["ours"] = same(container.run(strided)["logits"], eager(weights()))
    return said


@row
def extern_operator(folder: Path) -> dict[str, Any]:
    return {"answer": Raw(folder / "sampler.pt2").answer(torch.eye(16)[:4]).tolist()}


@row
def other_strides_than_the_example(folder: Path) -> dict[str, Any]:
    answer = loader(folder / "image.pt2").run([foreign.image()])[0]
    with torch.no_grad():
        return {"right": same(answer, foreign.seeded(foreign.Image)(foreign.image()))}


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    only = sys.argv[2:]
    endings = {name: _ending(name, program, folder) for name, program in ROWS.items() if not only or name in only}
    (folder / "rows.json").write_text(json.dumps(endings))


def _ending(name: str, program: Callable[[Path], dict[str, Any]], folder: Path) -> tuple[int, dict[str, Any]]:
    said = folder / f"{name}.json"
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            result = program(folder)
        except (RuntimeError, AotiServeError) as error:
            result = {"error": str(error)}
        said.write_text(json.dumps(result))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(said.read_text()) if said.exists() else {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
