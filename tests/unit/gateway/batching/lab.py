"""What tests of the batcher share: a replica that is played, and requests."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import ReplicaDied
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.link.messages import AnswerMessage
from tests.unit.clock import now

AN_HOUR_MS = 3_600_000.0


class Replica:
    """Doubles what it gets. While it is held, runs begin and wait for `release`.

    Else each takes `seconds` of one of its `runners`; who comes when all are busy waits at the door.

    `version` is what it answers with; without one, each run has its own, its number, so that an answer says which run
    it is of. `errors` are by the run's number, `refused` and `deadly` are values.
    """

    def __init__(
        self, *, held: bool = False, seconds: float = 0.0, runners: int = 1, version: int | None = None
    ) -> None:
        self.batches: list[Arrays] = []
        self.timeouts: list[float | None] = []
        self.times: list[float] = []
        self.errors: dict[int, BaseException] = {}
        self.refused: set[float] = set()
        self.deadly: set[float] = set()
        self.cancelled = 0
        self.version = version
        self.epoch = 0
        self.seconds = seconds
        self._free = asyncio.Semaphore(runners)
        self._turns = asyncio.Semaphore(0) if held else None

    @property
    def rows(self) -> list[int]:
        return [batch[0].shape[0] for batch in self.batches]

    @property
    def values(self) -> list[list[float]]:
        return [batch[0].reshape(-1).tolist() for batch in self.batches]

    def release(self, runs: int = 1) -> None:
        assert self._turns is not None
        for _ in range(runs):
            self._turns.release()

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        number = len(self.batches)
        self.batches.append(arrays)
        self.timeouts.append(timeout)
        self.times.append(now())
        version, epoch = number if self.version is None else self.version, self.epoch
        try:
            await (self._turns.acquire() if self._turns else self._take_runner())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if number in self.errors:
            raise self.errors[number]
        values = set(arrays[0].reshape(-1).tolist())
        if self.deadly & values:
            raise ReplicaDied(model="m")
        if self.refused & values:
            raise ValueError("one of these rows is guilty")
        return AnswerMessage(version, epoch, [array * 2 for array in arrays])

    async def _take_runner(self) -> None:
        async with self._free:
            await asyncio.sleep(self.seconds)


def rows_of(value: float, rows: int = 1, width: int = 1) -> Arrays:
    return [np.full((rows, width), value, np.float32)]


def batcher(replica: Replica, *, runners: int = 1, batches: bool = True, smallest: int = 0, **config: Any) -> Batcher:
    made = Batcher(ModelFigures("m"), BatchingConfig(**config), replica.run, batches=batches, smallest=smallest)
    made.runners = runners
    return made


def submitted(to: Batcher, *requests: Arrays, **options: Any) -> list[asyncio.Task[Rows]]:
    return [asyncio.create_task(to.submit(request, **options)) for request in requests]


async def outcomes(tasks: list[asyncio.Task[Rows]]) -> list[Rows | BaseException]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def values_of(rows: Rows | BaseException) -> list[float]:
    assert isinstance(rows, Rows), rows
    values: list[float] = rows.outputs[0].reshape(-1).tolist()
    return values
