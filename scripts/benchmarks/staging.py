"""How fast weights are staged, plain and packed, and what runs notice of it."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from models import Subject

from aoti_serve.cluster.replica.buffers import STAGER_NICE
from aoti_serve.model.container import Container

Figures = dict[str, dict[str, float]]
SECONDS = 5.0


@contextmanager
def served(subject: Subject, cores: int = 1) -> Iterator[Container]:
    """Two versions are resident, so that both buffers have their pages. Staging uses as many cores as runs do."""
    with Container(subject.package, num_runners=cores, num_threads=1) as container:
        for _ in range(2):
            container.stage(subject.weights)
            container.commit()
        yield container


def staging(plain: Subject, packed: Subject, rounds: int) -> Figures:
    """A whole stage, checks included, against one copy of as many bytes by one core."""
    weights = plain.weights
    size = sum(spec.nbytes for spec in plain.package.constants)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    with served(plain) as container, served(packed) as packing, served(packed, cores=2) as with_two:
        candidates: dict[str, Callable[[], Any]] = {
            "aoti-serve: stage()": lambda: container.stage(weights),
            "aoti-serve: stage(), packed": lambda: packing.stage(weights),
            "aoti-serve: stage(), packed, two cores": lambda: with_two.stage(weights),
            "memcpy": lambda: np.copyto(target, source),
        }
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(max(rounds, 5)):
            for name, call in candidates.items():
                times[name].append(seconds_of(call))
    rates = {name: size / statistics.median(values) / 1e9 for name, values in times.items()}
    return {name: {"GB/s": value, "of memcpy": value / rates["memcpy"]} for name, value in rates.items()}


def runs_beside(plain: Subject, packed: Subject) -> Figures:
    """One runner that is always busy, alone and beside a thread that stages all the time, as a replica's does."""
    found: Figures = {}
    for name, subject in (("plain", plain), ("packed", packed)):
        with served(subject) as container:
            found[f"{name}, alone"] = _runs(container)
            with _staged_again_and_again(container, subject.weights):
                found[f"{name}, beside a stage"] = _runs(container)
    return found


def _runs(container: Container) -> dict[str, float]:
    x, seen, until = torch.randn(8, 3200), [], time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        seen.append(seconds_of(lambda: container.run([x])) * 1e3)
    seen.sort()
    return {"p50": seen[len(seen) // 2], "p99": seen[int(0.99 * len(seen))], "max": seen[-1]}


@contextmanager
def _staged_again_and_again(container: Container, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    done = threading.Event()

    def stage() -> None:
        os.nice(STAGER_NICE)  # of this thread alone
        while not done.is_set():
            container.stage(weights)

    thread = threading.Thread(target=stage)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def seconds_of(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
