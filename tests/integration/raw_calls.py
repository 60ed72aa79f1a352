"""What the bare runtime does with calls: torch's own loader, and inputs that do not fit."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from tests.integration import foreign
from tests.integration.foreign import eager, inputs, weights
from tests.integration.raw import Raw, loader, row, same


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
