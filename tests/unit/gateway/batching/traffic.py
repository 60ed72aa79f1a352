"""Traffic in simulated time: clients who ask one thing after the other, and a crowd that comes whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from aoti_serve.config import BatchingConfig
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.work_item import Arrays
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.link.messages import AnswerMessage
from tests.unit.clock import now
from tests.unit.gateway.batching.lab import rows_of

MS = 1e-3


@dataclass
class Model:
    """Its seconds by rows, between those that were measured along a line; `runners` at once, the others at the door."""

    cost: Sequence[tuple[int, float]]
    runners: int = 1
    noise: float = 0.0
    batches: list[int] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.runners)
        self._random = Random(0)

    def seconds(self, rows: int) -> float:
        sizes, costs = zip(*self.cost, strict=True)
        return float(np.interp(rows, sizes, costs)) * MS * self._random.uniform(1, 1 + self.noise)

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        rows = len(arrays[0])
        self.batches.append(rows)
        self.begun.append(now())
        async with self._free:
            await asyncio.sleep(self.seconds(rows))
        return AnswerMessage(1, 1, arrays)

    def batcher(self, *, never_holds: bool = False, **config: Any) -> Batcher:
        made = Batcher(ModelFigures("m"), BatchingConfig(**config), self.run, batches=True)
        made.runners = self.runners
        if never_holds:
            made._measures._holds = False
        return made


LIGHT = [(1, 0.35), (4, 1.3), (8, 1.6), (64, 5.0)]  # measured: a small network on a CPU
HEAVY = [(1, 30.0), (8, 34.0), (64, 60.0)]
LINEAR = [(1, 1.0), (64, 64.0)]
FLAT = [(1, 2.0), (64, 2.0)]
FEATHER = [(1, 0.2), (64, 0.3)]


@dataclass
class Traffic:
    queue: Batcher
    waits: list[float] = field(default_factory=list)

    async def ask(self, rows: int = 1, **options: Any) -> None:
        start = now()
        await self.queue.submit(rows_of(1, rows=rows), **options)
        self.waits.append(now() - start)

    async def client(self, seconds: float, pause: Callable[[], float], **options: Any) -> None:
        """Asks again when it has its answer, after a pause."""
        end = now() + seconds
        while now() < end:
            await self.ask(**options)
            await asyncio.sleep(pause())

    async def crowd(self, seconds: float, per_second: float, seed: int = 0, rows: int = 1) -> None:
        """Comes whatever happens, as Poisson's."""
        random, end = Random(seed), now() + seconds
        async with asyncio.TaskGroup() as group:
            while now() < end:
                group.create_task(self.ask(rows))
                await asyncio.sleep(random.expovariate(per_second))

    @property
    def mean(self) -> float:
        return sum(self.waits) / len(self.waits)


@dataclass
class Pause:
    """Of clients whose answers leave a gateway one after the other, and whose next requests are read so."""

    random: Random
    way: float = 0.15 * MS
    each: float = 0.03 * MS
    free: float = 0.0

    def __call__(self) -> float:
        self.free = max(self.free, now()) + self.each * self.random.uniform(0.7, 1.3)
        return self.free - now() + self.way * self.random.uniform(0.7, 1.5)


async def closed(queue: Batcher, clients: int, seconds: float, seed: int = 0, **pause: float) -> Traffic:
    """So many clients at once, who have begun one after the other."""
    traffic, random = Traffic(queue), Random(seed)
    between = Pause(random, **pause)
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(traffic.client(seconds, between))
            await asyncio.sleep(random.uniform(0, 0.5) * MS)
    return traffic
