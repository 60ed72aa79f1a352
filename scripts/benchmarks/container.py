"""Our container, torch's own loader and eager PyTorch, side by side in one run, on the CPU.

    scripts/bench container [--rounds 5] [--only WORD] [--json]

Every figure is the median of several rounds in which the candidates take turns; every comparison is a ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from architectures import subjects
from models import Mlp, Subject, Sum, compiled
from rich.console import Console
from rich.table import Table
from staging import runs_beside, staging
from sweep import sweep

from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.arguments import checked_inputs
from aoti_serve.model.container import Container

Figures = dict[str, dict[str, float]]
Candidates = Mapping[str, Callable[[], Any]]
SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", metavar="WORD", default="", help="measure only what has this in its title")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    progress = Console(stderr=True)
    found: dict[str, Figures] = {}
    with TemporaryDirectory() as name, progress.status("compiling") as status:
        for title, measure in _measures(Path(name), options.rounds).items():
            if options.only in title:
                status.update(f"measuring: {title}")
                found |= {title + key: figures for key, figures in measure().items()}
    print(json.dumps(found, indent=1)) if options.json else show(found)


def _measures(folder: Path, rounds: int) -> Mapping[str, Callable[[], dict[str, Figures]]]:
    """What is measured, by title; each gives its tables, by what their titles have in addition."""
    busy = cache(lambda: compiled(Mlp(1024, 4), (torch.randn(64, 1024),), folder, "mlp", stock=True))
    tiny = cache(lambda: compiled(Sum(), (torch.randn(4, 16), torch.randn(4, 16)), folder, "sum", stock=True))
    large = cache(lambda: compiled(Mlp(3200, 10), (torch.randn(8, 3200),), folder, "large", stock=False))
    plain = cache(lambda: compiled(Mlp(3200, 10), (torch.randn(8, 3200),), folder, "plain", stock=False, prepare=False))
    one_table: dict[str, Callable[[], Figures]] = {
        "runs per second, 4 x 1024 MLP, batch 64": lambda: throughput(busy(), rounds),
        "call overhead, two inputs, us": lambda: overhead(tiny(), rounds),
        "event loop beside 2 busy runners: lag, ms": lambda: loop_lag(busy(), rounds),
        "200 commits under 4 busy threads on 4 runners, ms": lambda: commits(busy()),
        "staging 410 MB, GB/s": lambda: staging(plain(), large(), rounds),
        "runs of 8 rows while 410 MB are staged, ms": lambda: runs_beside(plain(), large()),
    }
    return {title: partial(_alone, measure) for title, measure in one_table.items()} | {
        subject.title: partial(sweep, subject, folder, rounds) for subject in subjects()
    }


def _alone(measure: Callable[[], Figures]) -> dict[str, Figures]:
    return {"": measure()}


def show(found: dict[str, Figures]) -> None:
    for title, figures in found.items():
        columns = list(next(iter(figures.values())))
        table = Table("", *columns, title=title, title_justify="left")
        for name, row in figures.items():
            table.add_row(name, *(f"{row[column]:,.2f}" for column in columns))
        Console().print(table)


@contextmanager
def serving(subject: Subject, num_runners: int) -> Iterator[Container]:
    with Container(subject.package, num_runners=num_runners, num_threads=1) as container:
        container.stage(subject.weights)
        container.commit()
        yield container


def stock_loader(subject: Subject, num_runners: int) -> Any:
    kinds: Any = torch._C._aoti
    return kinds.AOTIModelPackageLoader(str(subject.stock), "model", False, num_runners, -1)


def throughput(subject: Subject, rounds: int) -> Figures:
    """Runs per second of 1 and of 2 threads, with as many runners."""
    x = subject.inputs[0]
    figures: Figures = {}
    with serving(subject, 1) as one, serving(subject, 2) as two, torch.no_grad():
        stock_one, stock_two = stock_loader(subject, 1), stock_loader(subject, 2)
        runs: dict[str, dict[int, Callable[[], Any]]] = {
            "aoti-serve": {1: lambda: one.run([x]), 2: lambda: two.run([x])},
            "torch's loader": {1: lambda: stock_one.run([x]), 2: lambda: stock_two.run([x])},
            "eager": dict.fromkeys((1, 2), lambda: subject.module(x)),
        }
        for name, by_threads in runs.items():
            rates: dict[int, list[float]] = {threads: [] for threads in by_threads}
            for _ in range(rounds):
                for threads, run in by_threads.items():
                    rates[threads].append(rate(run, threads))
            one_thread, two_threads = statistics.median(rates[1]), statistics.median(rates[2])
            figures[name] = {"1 runner": one_thread, "2 runners": two_threads, "ratio": two_threads / one_thread}
    return figures


def rate(run: Callable[[], Any], threads: int, seconds: float = SECONDS) -> float:
    """Calls per second of `threads` threads together."""
    until, counts = time.perf_counter() + seconds, [0] * threads

    def work(index: int) -> None:
        with torch.no_grad():  # per thread
            while time.perf_counter() < until:
                run()
                counts[index] += 1

    started = time.perf_counter()
    together(work, threads)
    return sum(counts) / (time.perf_counter() - started)


def together(work: Callable[[int], None], threads: int) -> None:
    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def overhead(subject: Subject, rounds: int) -> Figures:
    """Microseconds of one call whose work is next to nothing."""
    inputs = list(subject.inputs)
    loader = stock_loader(subject, 1)
    model = torch._inductor.aoti_load_package(str(subject.stock))
    with serving(subject, 1) as container:
        runtime = container._versions.runtime
        candidates: Candidates = {
            "aoti-serve": lambda: container.run(inputs),
            "  of which the check of the inputs": lambda: checked_inputs(inputs, container.signature),
            "  of which the C ABI": lambda: runtime.run(list(inputs), None),
            "torch's loader": lambda: loader.run(inputs),
            "torch's AOTICompiledModel": lambda: model(*inputs),
            "eager": lambda: subject.module(*inputs),
        }
        return {name: {"us": value} for name, value in taking_turns(candidates, rounds, 2000).items()}


def taking_turns(candidates: Candidates, rounds: int, calls: int) -> dict[str, float]:
    """Median microseconds per call."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.no_grad():
        for _ in range(rounds):
            for name, call in candidates.items():
                started = time.perf_counter()
                for _ in range(calls):
                    call()
                times[name].append((time.perf_counter() - started) / calls * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def loop_lag(subject: Subject, rounds: int) -> Figures:
    """How late a thread of Python wakes up while runners are busy: what an event loop beside them would see."""
    x = subject.inputs[0]
    loader = stock_loader(subject, 2)
    with serving(subject, 2) as container:
        candidates: Candidates = {"aoti-serve": lambda: container.run([x]), "torch's loader": lambda: loader.run([x])}
        figures = {}
        for name, run in candidates.items():
            gaps = sorted(gap for _ in range(rounds) for gap in wake_ups(run, 2))
            figures[name] = {"p50": quantile(gaps, 0.5), "p99": quantile(gaps, 0.99), "max": gaps[-1]}
    return figures


def wake_ups(run: Callable[[], Any], threads: int) -> list[float]:
    """Milliseconds beyond the 1 ms that each nap was to last."""
    done = threading.Event()
    late: list[float] = []

    def nap() -> None:
        while not done.is_set():
            started = time.perf_counter()
            time.sleep(0.001)
            late.append((time.perf_counter() - started - 0.001) * 1e3)

    napper = threading.Thread(target=nap)
    napper.start()
    rate(run, threads)
    done.set()
    napper.join()
    return late


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def commits(subject: Subject) -> Figures:
    """The pause of commits while every runner is busy; bare, the runtime's own swap without a gate, 5 times."""
    x = subject.inputs[0]
    with serving(subject, 4) as container:
        runs: list[float] = []

        def gated() -> float:
            container.stage(subject.weights)
            return timed(container.commit)

        ours = under_load(lambda: runs.append(timed(lambda: container.run([x]))), gated, 200)
    native = NativeContainer(next(subject.package.extract().glob("*wrapper.so")), 4, "cpu")
    weights = {spec.name: subject.weights[spec.name] for spec in subject.package.constants}
    native.stage(weights, moved=True)
    native.swap()
    bare = under_load(lambda: native.run([x]), lambda: swapped(native, weights), 5)
    native.delete()
    return {
        "aoti-serve": {"median": statistics.median(ours), "longest": max(ours), "longest run": max(runs)},
        "bare runtime": {"median": statistics.median(bare), "longest": max(bare), "longest run": max(runs)},
    }


def swapped(native: NativeContainer, weights: Mapping[str, torch.Tensor]) -> float:
    native.stage(weights, moved=True)
    return timed(native.swap)


def under_load(run: Callable[[], Any], swap: Callable[[], float], times: int) -> list[float]:
    """Milliseconds of each of `times` swaps while 4 threads run without a pause."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            run()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        return [swap() for _ in range(times)]
    finally:
        done.set()
        for worker in workers:
            worker.join()


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    main()
