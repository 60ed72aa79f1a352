"""Requests of one model on their way through its processors.

A free processor takes what waits, up to `max_batch_size` rows of one step; answers go before new requests, since they
have cost a run. A call over which a processor dies, or hangs, is made again for each of its requests alone, so that
only the guilty one fails: when a second processor dies over it, or the first hangs over it alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from aoti_serve.config import ProcessorConfig
from aoti_serve.errors import (
    AotiServeError,
    DeadlineExceeded,
    NoProcessor,
    ProcessorDied,
    ProcessorFailed,
    ProcessorHung,
    ProcessorRefused,
    QueueFull,
    ReplicaDied,
    TryAgain,
)
from aoti_serve.gateway.in_flight import RETRY_AFTER_S
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.processor.declared import AFTER, BEFORE
from aoti_serve.processor.packed import Failure, HeldTensors, packed, unpacked
from aoti_serve.signature.strings import strings_nbytes
from aoti_serve.weights.swap.target import NO_EPOCH

OTHERS_S = 5.0  # beyond its own limit a call may wait for those of other gateways

AskProcessor = Callable[[BatchMessage], Awaitable[AnswerMessage]]


@dataclass(eq=False, slots=True)
class StepItem:
    """One request at one step, by the files of `version` if that has any.

    `alone` once a call that it shared has ended badly, `deaths` counts such ends.
    """

    step: str
    version: int | None
    tensors: HeldTensors
    rows: int
    nbytes: int
    result: asyncio.Future[HeldTensors]
    queued: bool = False
    alone: bool = False
    deaths: int = 0
    patience: asyncio.TimerHandle | None = None


class ProcessorQueue:
    """Lives in the gateway's event loop. `ask` sends a call to a free processor."""

    def __init__(self, model: str, config: ProcessorConfig, ask: AskProcessor) -> None:
        self._model = model
        self._config = config
        self._ask = ask
        self._waiting: dict[str, deque[StepItem]] = {AFTER: deque(), BEFORE: deque()}
        self._processors = self._under_way = 0
        self._rows = self._nbytes = 0  # in hand
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def processors(self) -> int:
        """How many calls may be under way."""
        return self._processors

    @processors.setter
    def processors(self, count: int) -> None:
        self._processors = count
        self._pump()

    async def run(
        self, step: str, tensors: HeldTensors, rows: int, timeout: float | None, version: int | None = None
    ) -> HeldTensors:
        """Have a processor do one step of a request. `timeout` is the request's own, in seconds.

        Raises QueueFull, NoProcessor, DeadlineExceeded, ProcessorRefused, ProcessorFailed, -Died or -Hung, and
        VersionNotResident if no processor holds the files of that `version`.
        """
        nbytes = sum(strings_nbytes(held.array) for held in tensors.values())
        self._admit(rows, nbytes)
        item = StepItem(step, version, tensors, rows, nbytes, asyncio.get_running_loop().create_future())
        self._rows, self._nbytes = self._rows + rows, self._nbytes + nbytes
        try:
            async with asyncio.timeout(timeout):
                self._enter(item)
                self._pump()
                return await item.result
        except TimeoutError:
            assert timeout is not None
            raise DeadlineExceeded(model=self._model, timeout=timeout) from None
        finally:
            self._rows, self._nbytes = self._rows - rows, self._nbytes - nbytes
            self._leave(item)

    def close(self) -> None:
        for call in self._calls:
            call.cancel()

    def _admit(self, rows: int, nbytes: int) -> None:
        """Whatever its size, a request is let in where nothing else is in hand."""
        config = self._config
        for has, more, limit, unit in (
            (self._rows, rows, config.max_queued_rows, "rows"),
            (self._nbytes, nbytes, config.max_queued_bytes, "bytes"),
        ):
            if has and has + more > limit:
                setting = f"processor.max_queued_{unit}"
                waiting, most = f"{has} {unit}", str(limit)
                raise QueueFull(
                    model=self._model, waiting=waiting, limit=most, setting=setting, retry_after=RETRY_AFTER_S
                )

    def _enter(self, item: StepItem, *, again: bool = False) -> None:
        waiting = self._waiting[item.step]
        (waiting.appendleft if again else waiting.append)(item)
        item.queued = True
        wait = self._config.max_queue_wait_ms / 1e3
        item.patience = asyncio.get_running_loop().call_later(wait, self._expire, item)

    def _expire(self, item: StepItem) -> None:
        if not item.result.done():
            item.result.set_exception(NoProcessor(model=self._model, waited_ms=self._config.max_queue_wait_ms))

    def _leave(self, item: StepItem) -> None:
        if item.patience is not None:
            item.patience.cancel()
        if item.queued:
            item.queued = False
            self._waiting[item.step].remove(item)

    def _pump(self) -> None:
        while self._under_way < self._processors and (batch := self._take()):
            self._under_way += 1
            call = asyncio.get_running_loop().create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(partial(self._called, batch))

    def _take(self) -> list[StepItem]:
        """The next requests that go together; those that nobody waits for any more are passed over."""
        batch: list[StepItem] = []
        for waiting in self._waiting.values():
            while waiting and not (batch and self._is_apart(batch, waiting[0])):
                item = waiting[0]
                self._leave(item)
                if not item.result.done():
                    batch.append(item)
            if batch:
                break
        return batch

    def _is_apart(self, batch: list[StepItem], item: StepItem) -> bool:
        rows = sum(each.rows for each in batch) + item.rows
        apart = item.alone or batch[0].alone or item.version != batch[0].version
        return apart or rows > self._config.max_batch_size

    def _called(self, batch: list[StepItem], call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._under_way -= 1
        error = None if call.cancelled() else call.exception()
        if error is not None:
            self._failed(batch, error)
        self._pump()

    async def _call(self, batch: list[StepItem]) -> None:
        step = batch[0].step
        message = BatchMessage(packed(step, [item.tensors for item in batch]), NO_EPOCH, version=batch[0].version)
        try:
            async with asyncio.timeout(self._config.timeout_ms / 1e3 + OTHERS_S):
                answer = await self._ask(message)
        except TimeoutError:
            raise TryAgain(detail=f"model '{self._model}': its processors are busy for others") from None
        for item, result in zip(batch, unpacked(answer.outputs)[1], strict=True):
            self._settle(item, result)

    def _settle(self, item: StepItem, result: HeldTensors | Failure) -> None:
        if item.result.done():
            return
        if not isinstance(result, Failure):
            item.result.set_result(result)
        elif result.client:
            item.result.set_exception(ProcessorRefused(model=self._model, detail=result.detail))
        else:
            item.result.set_exception(self._defect(item.step, result.raised, result.detail))

    def _failed(self, batch: list[StepItem], error: BaseException) -> None:
        """What has died or hung over several is tried one by one; what fails otherwise fails."""
        again = len(batch) > 1 and isinstance(error, ReplicaDied | ProcessorHung)
        for item in [item for item in reversed(batch) if not item.result.done()]:
            item.deaths += isinstance(error, ReplicaDied)
            if again or (isinstance(error, ReplicaDied) and item.deaths < 2):
                item.alone = True
                self._enter(item, again=True)
            else:
                item.result.set_exception(self._named(item.step, error))

    def _named(self, step: str, error: BaseException) -> AotiServeError:
        if isinstance(error, ReplicaDied):
            return ProcessorDied(model=self._model, step=step)
        return error if isinstance(error, AotiServeError) else self._defect(step, type(error).__name__, str(error))

    def _defect(self, step: str, raised: str, detail: str) -> ProcessorFailed:
        return ProcessorFailed(model=self._model, step=step, raised=raised, detail=detail)
