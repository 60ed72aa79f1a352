"""Microseconds per run by rows: eager, torch.compile, a frozen package, and ours: plain, prepared, in int8."""

from __future__ import annotations

import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from architectures import Subject

from aoti_serve.errors import CannotQuantize
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package

Run = Callable[[tuple[torch.Tensor, ...]], Any]
Times = dict[str, dict[str, float]]
ROWS = (1, 2, 4, 8, 16, 32, 64)
TURN_S = 0.05
EAGER, COMPILED, FROZEN = "eager", "torch.compile", "frozen, never swapped"
PLAIN, PREPARED, INT8 = "ours, plain", "ours, prepared", "ours, int8"
OURS: Mapping[str, dict[str, Any]] = {PLAIN: {"prepare": False}, PREPARED: {}, INT8: {"quantize": "int8"}}


def sweep(subject: Subject, folder: Path, rounds: int) -> dict[str, Times]:
    """Times of one runner, also as ratios, and the rates of two; each by candidate and rows."""
    with candidates(subject, folder) as runs:
        times, rates = by_rows(subject, runs, rounds), of_two(subject, runs, rounds)
    return {
        ": us per run, by rows": times,
        ": time in that of ours, prepared": _ratios(times, PREPARED),
        ": runs per second of two runners, by rows": rates,
    }


def _ratios(times: Times, reference: str) -> Times:
    """How many times as long each takes as the reference."""
    return {name: {rows: value / times[reference][rows] for rows, value in row.items()} for name, row in times.items()}


def by_rows(subject: Subject, runs: Mapping[str, Run], rounds: int) -> Times:
    times: Times = {name: {} for name in runs}
    for rows in ROWS:
        inputs = subject.inputs(rows)
        for name, value in _turns(runs, inputs, rounds).items():
            times[name][f"{rows}"] = value
    return times


def of_two(subject: Subject, runs: Mapping[str, Run], rounds: int) -> Times:
    rates: Times = {name: {} for name in runs}
    for rows in (1, 8, 64):
        inputs = subject.inputs(rows)
        seen: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                seen[name].append(_rate(partial(run, inputs)))
        for name, values in seen.items():
            rates[name][f"{rows}"] = statistics.median(values)
    return rates


@contextmanager
def candidates(subject: Subject, folder: Path) -> Iterator[dict[str, Run]]:
    """Every way to run the module, ready to run, with the same weights."""
    module, example = subject.module.eval(), subject.inputs(4)
    with ExitStack() as stack, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch.export's own
        ours: dict[str, Container] = {}
        for name, how in OURS.items():
            path = folder / f"{subject.name}-{len(ours)}.pt2"
            try:
                with torch.inference_mode(False):
                    package = export_package(module, example, path, dynamic_shapes=subject.shapes, **how)
            except CannotQuantize:  # nothing of it is a large linear layer
                continue
            ours[name] = stack.enter_context(Container(package, num_runners=2, num_threads=1))
            ours[name].stage(module.state_dict())
            ours[name].commit()
        frozen = _frozen(subject, folder / f"{subject.name}-frozen.pt2")
        compiled = torch.compile(module, dynamic=True)
        yield {
            EAGER: lambda inputs: module(*inputs),
            COMPILED: lambda inputs: compiled(*inputs),
            FROZEN: lambda inputs: frozen.run(list(inputs)),
            **{name: container.run for name, container in ours.items()},
        }


def _frozen(subject: Subject, path: Path) -> Any:
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(subject.module, subject.inputs(4), dynamic_shapes=subject.shapes)
        options = {"freezing": True, "cpp.dynamic_threads": True}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    kinds: Any = torch._C._aoti
    return kinds.AOTIModelPackageLoader(str(path), "model", False, 2, -1)


def _turns(runs: Mapping[str, Run], inputs: tuple[torch.Tensor, ...], rounds: int) -> dict[str, float]:
    """Median us of each, in turns of `TURN_S`, after a first one that is not counted."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            until = time.perf_counter() + TURN_S
            while True:
                began = time.perf_counter()
                run(inputs)
                ended = time.perf_counter()
                if turn:
                    seen[name].append((ended - began) * 1e6)
                if ended > until:
                    break
    return {name: statistics.median(values) for name, values in seen.items()}


def _rate(run: Callable[[], Any]) -> float:
    """Runs per second of two threads together."""
    until, counts = time.perf_counter() + 4 * TURN_S, [0, 0]

    def work(index: int) -> None:
        with torch.inference_mode():  # per thread
            while time.perf_counter() < until:
                run()
                counts[index] += 1

    began = time.perf_counter()
    workers = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - began)
