"""Requests that share a run.

The batcher is work-conserving: while a runner is free, a request leaves at once, alone; while all are busy, rows gather
and the next free runner takes up to `max_batch_size` of them. So one client pays no delay, and many fill the batches by
themselves. It counts rows, not requests, and puts only equal trailing shapes together. A request larger than
`max_batch_size` leaves as a batch of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import PoisonousRequest, QueueFull, ReplicaDied, Unavailable

Arrays = list[NDArray[Any]]
Key = tuple[tuple[int, ...], ...]


class Answered(Protocol):
    """What a run gives back: the version that computed it and the outputs in order."""

    @property
    def version(self) -> int: ...

    @property
    def outputs(self) -> Arrays: ...


class Rows(NamedTuple):
    """One request's part of an answer."""

    version: int
    outputs: Arrays


@dataclass(eq=False)
class _Pending:
    arrays: Arrays
    rows: int
    future: asyncio.Future[Rows]
    arrival: float
    queued: bool = True


class Batcher:
    """Runs in the gateway's event loop, one per model.

    `run` sends one batch to a replica; `runners` is how many batches may be under way, and may change at any time.
    Raises PoisonousRequest for a request whose replica died twice, and QueueFull when `max_queued_rows` wait already.
    A request whose caller has gone leaves the queue.
    """

    def __init__(
        self, model: str, config: BatchingConfig, run: Callable[[Arrays], Awaitable[Answered]], *, batches: bool
    ) -> None:
        self._model = model
        self._config = config
        self._run = run
        self._batches = batches
        self._runners = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._queues: dict[Key, deque[_Pending]] = {}
        self._queued_rows = 0
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    @property
    def runners(self) -> int:
        return self._runners

    @runners.setter
    def runners(self, count: int) -> None:
        self._runners = count
        self._pump()

    async def submit(self, arrays: Arrays) -> Rows:
        """This request's rows of an answer that one version computed."""
        rows = arrays[0].shape[0] if self._batches else 1
        if self._queued_rows + rows > self._config.max_queued_rows and self._queued_rows:
            raise QueueFull(model=self._model, rows=self._queued_rows, limit=self._config.max_queued_rows)
        loop = asyncio.get_running_loop()
        pending = _Pending(arrays, rows, loop.create_future(), loop.time())
        key = _key(arrays)
        self._queues.setdefault(key, deque()).append(pending)
        self._queued_rows += rows
        self._pump()
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._withdraw(key, pending)
            raise

    def _pump(self) -> None:
        """Send batches while runners are free and rows are due, those that have waited longest first."""
        while len(self._under_way) < self._runners:
            due = [key for key, queue in self._queues.items() if not self._delayed(key, queue)]
            if not due:
                return
            key = min(due, key=lambda key: self._queues[key][0].arrival)
            batch = self._take(key)
            task = asyncio.get_running_loop().create_task(self._answer(batch))
            self._under_way.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._pump()

    def _withdraw(self, key: Key, pending: _Pending) -> None:
        if pending.queued:
            self._queues[key].remove(pending)
            self._unqueued(key, pending)

    def _unqueued(self, key: Key, pending: _Pending) -> None:
        pending.queued = False
        self._queued_rows -= pending.rows
        if not self._queues[key]:
            del self._queues[key]

    def _delayed(self, key: Key, queue: deque[_Pending]) -> bool:
        """Whether the rows should wait for company; then the pump is called again when they have waited enough."""
        delay = self._config.max_queue_delay_ms / 1e3
        if not delay or not self._batches or sum(pending.rows for pending in queue) >= self._config.max_batch_size:
            return False
        loop = asyncio.get_running_loop()
        left = queue[0].arrival + delay - loop.time()
        if left <= 0:
            return False
        if key not in self._timers:
            self._timers[key] = loop.call_later(left, self._waited, key)
        return True

    def _waited(self, key: Key) -> None:
        del self._timers[key]
        self._pump()

    def _take(self, key: Key) -> list[_Pending]:
        queue = self._queues[key]
        batch: list[_Pending] = []
        rows = 0
        while queue and (not batch or (self._batches and rows + queue[0].rows <= self._config.max_batch_size)):
            pending = queue.popleft()
            self._unqueued(key, pending)
            batch.append(pending)
            rows += pending.rows
        return batch

    async def _answer(self, batch: list[_Pending], *, again: bool = False) -> None:
        try:
            answer = await self._run(_joined([pending.arrays for pending in batch]))
        except asyncio.CancelledError:
            for pending in batch:
                pending.future.cancel()
            raise
        except ReplicaDied as error:  # once it may be anybody's fault; alone and again, it is this request's
            if again:
                _fail(batch, PoisonousRequest(model=self._model).with_traceback(error.__traceback__))
            else:
                await self._answer_alone(batch)
        except Unavailable as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
            else:
                await self._answer_alone(batch)
        else:
            self._hand_out(batch, answer)

    async def _answer_alone(self, batch: list[_Pending]) -> None:
        """One of them may be the guilty one; the others must not fail with it."""
        for pending in batch:
            if not pending.future.done():
                await self._answer([pending], again=True)

    def _hand_out(self, batch: list[_Pending], answer: Answered) -> None:
        start = 0
        for pending in batch:
            end = start + pending.rows
            outputs = [array[start:end] for array in answer.outputs] if len(batch) > 1 else list(answer.outputs)
            start = end
            if not pending.future.done():
                pending.future.set_result(Rows(answer.version, outputs))


def _key(arrays: Arrays) -> Key:
    return tuple(array.shape[1:] for array in arrays)


def _joined(requests: list[Arrays]) -> Arrays:
    if len(requests) == 1:
        return requests[0]
    return [np.concatenate(parts) for parts in zip(*requests, strict=True)]


def _fail(batch: list[_Pending], error: Exception) -> None:
    for pending in batch:
        if not pending.future.done():
            pending.future.set_exception(error)
