"""Requests on their way through processors: who goes with whom, who waits, who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aoti_serve.config import ProcessorConfig
from aoti_serve.errors import DeadlineExceeded, NoProcessor, ProcessorDied, QueueFull, ReplicaDied, TryAgain
from aoti_serve.gateway.processing.queue import ProcessorQueue
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.processor.packed import Failure, Held, packed, unpacked

CONFIG = {"class": "a:B", "max_batch_size": 4, "max_queue_wait_ms": 60_000}


class Processor:
    """Answers each request with itself once it is let go; dies over a 13."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.go = asyncio.Event()

    async def __call__(self, batch: BatchMessage) -> AnswerMessage:
        step, requests = unpacked(batch.arrays)
        values = [int(each["x"].array[0]) for each in requests if not isinstance(each, Failure)]
        self.calls.append((step, values))
        await self.go.wait()
        if 13 in values:
            raise ReplicaDied(model="m")
        return AnswerMessage(0, 0, packed(step, requests))


def queue_of(processor: Processor, processors: int = 1, **config: Any) -> ProcessorQueue:
    queue = ProcessorQueue("m", ProcessorConfig.model_validate(CONFIG | config), processor)
    queue.processors = processors
    return queue


def ask(queue: ProcessorQueue, value: int, *, rows: int = 1, step: str = "before", timeout: float | None = None) -> Any:
    tensors = {"x": Held("int64", np.full(rows, value))}
    return asyncio.get_running_loop().create_task(queue.run(step, tensors, rows, timeout))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def done(tasks: Sequence[Any]) -> list[Any]:
    return [found if isinstance(found, Exception) else int(found["x"].array[0]) for found in await _all(tasks)]


async def _all(tasks: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_free_processor_takes_what_is_there_and_then_as_much_as_fits() -> None:
    processor = Processor()
    queue = queue_of(processor)
    tasks = [ask(queue, value, rows=rows) for value, rows in ((1, 1), (2, 2), (3, 2), (4, 1), (5, 9), (6, 1))]
    await turns()
    processor.go.set()
    assert await done(tasks) == [1, 2, 3, 4, 5, 6]
    assert processor.calls == [("before", [1]), ("before", [2, 3]), ("before", [4]), ("before", [5]), ("before", [6])]


async def test_answers_go_first_and_steps_stay_apart() -> None:
    processor = Processor()
    queue = queue_of(processor)
    tasks = [ask(queue, 1), ask(queue, 2), ask(queue, 3, step="after"), ask(queue, 4)]
    await turns()
    processor.go.set()
    await done(tasks)
    assert processor.calls == [("before", [1]), ("after", [3]), ("before", [2, 4])]


async def test_of_those_over_which_one_dies_only_the_guilty_fails() -> None:
    processor = Processor()
    queue = queue_of(processor)
    tasks = [ask(queue, value) for value in (1, 2, 13, 4)]
    await turns()
    processor.go.set()
    one, two, guilty, four = await done(tasks)
    assert (one, two, four) == (1, 2, 4)
    assert isinstance(guilty, ProcessorDied)
    assert processor.calls[1:] == [("before", [2, 13, 4]), ("before", [2]), ("before", [13]), ("before", [4])]


async def test_one_that_goes_alone_is_asked_twice() -> None:
    processor = Processor()
    processor.go.set()
    [guilty] = await done([ask(queue_of(processor), 13)])
    assert isinstance(guilty, ProcessorDied)
    assert len(processor.calls) == 2


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param({"max_queued_rows": 2}, r"2 rows, the limit is 2 \(processor\.max_queued_rows\)", id="rows"),
        pytest.param({"max_queued_bytes": 20}, r"16 bytes, the limit is 20 \(processor\.max_queue", id="bytes"),
    ],
)
async def test_what_is_in_hand_is_bounded(config: dict[str, int], says: str) -> None:
    processor = Processor()
    queue = queue_of(processor, **config)
    tasks = [ask(queue, 1, rows=2), ask(queue, 2)]
    with pytest.raises(QueueFull, match=says):
        await tasks[1]
    processor.go.set()
    assert await done(tasks[:1]) == [1]
    assert await done([ask(queue, 3)]) == [3]


async def test_a_deadline_and_a_client_that_goes_cost_no_call() -> None:
    processor = Processor()
    queue = queue_of(processor)
    first, late, gone, last = ask(queue, 1), ask(queue, 2, timeout=0.01), ask(queue, 3), ask(queue, 4)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.01 s"):
        await late
    gone.cancel()
    await turns()
    processor.go.set()
    assert await done([first, last]) == [1, 4]
    assert processor.calls == [("before", [1]), ("before", [4])]


async def test_without_a_processor_requests_wait_for_a_while() -> None:
    processor = Processor()
    processor.go.set()
    queue = queue_of(processor, 0, max_queue_wait_ms=20)
    with pytest.raises(NoProcessor, match=r"no processor was free within 20 ms .* try again in 1 s"):
        await ask(queue, 1)
    waiting = ask(queue, 2)
    await turns()
    queue.processors = 1
    assert await done([waiting]) == [2]


async def test_what_the_link_raises_comes_out_as_it_is() -> None:
    async def away(batch: BatchMessage) -> AnswerMessage:
        raise TryAgain(detail="away")

    queue = ProcessorQueue("m", ProcessorConfig.model_validate(CONFIG), away)
    queue.processors = 1
    with pytest.raises(TryAgain, match="away"):
        await ask(queue, 1)
