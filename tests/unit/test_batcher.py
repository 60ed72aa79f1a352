"""Requests that share a run: when they leave, with whom, and what comes back to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import PoisonousRequest, QueueFull, ReplicaBehind, ReplicaDied
from aoti_serve.gateway.batcher import Arrays, Batcher, Rows

AN_HOUR_MS = 3_600_000.0


class Replica:
    """Doubles what it gets, one version per run. While it is held, runs begin and wait for `release`."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[Arrays] = []
        self.errors: dict[int, BaseException] = {}
        self.refused: set[float] = set()
        self.deadly: set[float] = set()
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

    async def run(self, arrays: Arrays) -> Rows:
        number = len(self.batches)
        self.batches.append(arrays)
        if self._turns is not None:
            await self._turns.acquire()
        if number in self.errors:
            raise self.errors[number]
        if self.deadly & set(arrays[0].reshape(-1).tolist()):
            raise ReplicaDied(model="m")
        if self.refused & set(arrays[0].reshape(-1).tolist()):
            raise ValueError("one of these rows is guilty")
        return Rows(number, [array * 2 for array in arrays])


def rows_of(value: float, rows: int = 1, width: int = 1) -> Arrays:
    return [np.full((rows, width), value, np.float32)]


def batcher(replica: Replica, *, runners: int = 1, batches: bool = True, **config: Any) -> Batcher:
    made = Batcher("m", BatchingConfig(**config), replica.run, batches=batches)
    made.runners = runners
    return made


def submitted(to: Batcher, *requests: Arrays) -> list[asyncio.Task[Rows]]:
    return [asyncio.create_task(to.submit(request)) for request in requests]


async def settled() -> None:
    """Let everything that can go on without the clock go on."""
    for _ in range(50):
        await asyncio.sleep(0)


def values_of(rows: Rows) -> list[float]:
    values: list[float] = rows.outputs[0].reshape(-1).tolist()
    return values


async def test_a_request_leaves_at_once_and_alone_while_a_runner_is_free() -> None:
    replica = Replica()
    answer = await batcher(replica).submit(rows_of(3, rows=2))
    assert (values_of(answer), replica.rows) == ([6, 6], [2])


async def test_with_free_runners_requests_do_not_wait_for_each_other() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, runners=3), *map(rows_of, range(3)))
    await settled()
    assert replica.rows == [1, 1, 1]
    replica.release(3)
    assert [values_of(rows) for rows in await asyncio.gather(*tasks)] == [[0], [2], [4]]


async def test_requests_that_waited_leave_together_when_a_runner_is_free() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    await settled()
    assert replica.values == [[0]]
    replica.release(2)
    answers = await asyncio.gather(*tasks)
    assert replica.values == [[0], [1, 2, 3]]
    assert [rows.version for rows in answers] == [0, 1, 1, 1]
    assert [values_of(rows) for rows in answers] == [[0], [2], [4], [6]]


async def test_no_more_runs_are_under_way_than_there_are_runners() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, runners=2, max_batch_size=1), *map(rows_of, range(5)))
    for finished in range(3):
        await settled()
        assert len(replica.batches) == finished + 2
        replica.release()
    replica.release(2)
    await asyncio.gather(*tasks)


async def test_rows_are_counted_not_requests() -> None:
    replica = Replica(held=True)
    sizes = [1, 3, 4, 1, 2]
    tasks = submitted(batcher(replica, max_batch_size=8), *(rows_of(size, rows=size) for size in sizes))
    replica.release(3)
    await asyncio.gather(*tasks)
    assert replica.rows == [1, 8, 2]


async def test_a_request_larger_than_a_batch_leaves_as_a_batch_of_its_own() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, max_batch_size=4), *(rows_of(1, rows=rows) for rows in (1, 1, 9, 1)))
    replica.release(4)
    await asyncio.gather(*tasks)
    assert replica.rows == [1, 1, 9, 1]


async def test_only_equal_trailing_shapes_share_a_run() -> None:
    replica = Replica(held=True)
    widths = [1, 2, 3, 2, 3, 2]
    tasks = submitted(batcher(replica), *(rows_of(number, width=width) for number, width in enumerate(widths)))
    replica.release(3)
    await asyncio.gather(*tasks)
    assert [batch[0].shape for batch in replica.batches] == [(1, 1), (3, 2), (2, 3)]


async def test_the_trailing_shapes_of_all_inputs_count() -> None:
    replica = Replica(held=True)
    requests: list[Arrays] = [
        [np.zeros((1, 2), np.float32), np.zeros((1, length), np.int64)] for length in (5, 5, 6, 5)
    ]
    tasks = submitted(batcher(replica), *requests)
    replica.release(3)
    await asyncio.gather(*tasks)
    assert [(batch[0].shape, batch[1].shape) for batch in replica.batches] == [
        ((1, 2), (1, 5)),
        ((2, 2), (2, 5)),
        ((1, 2), (1, 6)),
    ]


async def test_the_shapes_that_have_waited_longest_leave_first() -> None:
    replica = Replica(held=True)
    tasks = submitted(
        batcher(replica, max_batch_size=2),
        *(rows_of(number, width=width) for number, width in enumerate([9, 2, 1, 1, 1, 2, 2])),
    )
    replica.release(7)
    await asyncio.gather(*tasks)
    assert [batch[0][:, 0].tolist() for batch in replica.batches] == [[0], [1, 5], [2, 3], [4], [6]]


async def test_without_a_batch_dimension_every_request_runs_alone() -> None:
    replica = Replica(held=True)
    requests: list[Arrays] = [[np.array(value, np.float32)] for value in range(3)]
    tasks = submitted(batcher(replica, batches=False), *requests)
    replica.release(3)
    answers = await asyncio.gather(*tasks)
    assert [float(rows.outputs[0]) for rows in answers] == [0, 2, 4]
    assert len(replica.batches) == 3


async def test_more_rows_than_may_wait_are_refused() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_queued_rows=4)
    tasks = submitted(queue, rows_of(0, rows=9), rows_of(1, rows=3))
    await settled()
    with pytest.raises(QueueFull, match="3 rows are waiting already, the limit is 4"):
        await queue.submit(rows_of(2, rows=2))
    tasks += submitted(queue, rows_of(3))
    replica.release(2)
    assert [len(values_of(rows)) for rows in await asyncio.gather(*tasks)] == [9, 3, 1]


async def test_a_request_that_alone_is_more_than_may_wait_is_taken_when_nobody_waits() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, max_queued_rows=4), rows_of(0), rows_of(1, rows=50))
    replica.release(2)
    await asyncio.gather(*tasks)
    assert replica.rows == [1, 50]


async def test_the_queue_has_room_again_when_rows_have_left() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_queued_rows=2)
    for _ in range(5):
        tasks = submitted(queue, *map(rows_of, range(3)))
        replica.release(2)
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "gone", [pytest.param(1, id="first"), pytest.param(2, id="middle"), pytest.param(3, id="last")]
)
async def test_a_request_whose_caller_has_gone_is_not_run(gone: int) -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    await settled()
    tasks[gone].cancel()
    replica.release(2)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert replica.values == [[0], [value for value in (1, 2, 3) if value != gone]]
    assert isinstance(answers.pop(gone), asyncio.CancelledError)
    assert [values_of(rows) for rows in answers if isinstance(rows, Rows)] == [
        [2 * value] for value in range(4) if value != gone
    ]


async def test_nothing_runs_when_all_callers_have_gone() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica), *map(rows_of, range(3)))
    await settled()
    for task in tasks:
        task.cancel()
    replica.release(3)
    await settled()
    assert replica.values == [[0]]


async def test_a_request_whose_caller_has_gone_makes_room_in_the_queue() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_queued_rows=2)
    tasks = submitted(queue, *map(rows_of, range(3)))
    await settled()
    tasks[1].cancel()
    tasks[2].cancel()
    await settled()
    tasks += submitted(queue, *map(rows_of, (3, 4)))
    replica.release(2)
    await asyncio.gather(tasks[0], *tasks[3:])
    assert replica.values == [[0], [3, 4]]


async def test_only_the_guilty_request_fails() -> None:
    replica = Replica(held=True)
    replica.refused = {2.0}
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    replica.release(10)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers.pop(2), ValueError)
    assert [values_of(rows) for rows in answers if isinstance(rows, Rows)] == [[0], [2], [6]]


async def test_a_request_whose_caller_has_gone_is_not_run_again_after_a_failed_batch() -> None:
    replica = Replica(held=True)
    replica.refused = {1.0}
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    replica.release()
    await settled()
    assert replica.values == [[0], [1, 2, 3]]
    tasks[2].cancel()
    replica.release(10)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert replica.values == [[0], [1, 2, 3], [1], [3]]


async def test_a_replica_that_dies_once_fails_nobody_and_twice_only_the_request_that_it_died_over() -> None:
    replica = Replica(held=True)
    replica.errors = {0: ReplicaDied(model="m")}
    (alone,) = submitted(batcher(replica), rows_of(7))
    replica.release(10)
    assert values_of(await alone) == [14]

    replica = Replica(held=True)
    replica.deadly = {2.0}
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    replica.release(10)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers.pop(2), PoisonousRequest)
    assert [values_of(rows) for rows in answers if isinstance(rows, Rows)] == [[0], [2], [6]]
    assert replica.values == [[0], [1, 2, 3], [1], [2], [3]]


async def test_a_server_that_cannot_answer_is_asked_once_for_the_whole_batch() -> None:
    replica = Replica(held=True)
    replica.errors = {1: ReplicaBehind(replica="r", epoch=1, fence=2)}
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    replica.release(10)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Rows, ReplicaBehind, ReplicaBehind, ReplicaBehind]
    assert len(replica.batches) == 2


async def test_a_run_that_fails_gives_its_runner_back() -> None:
    replica = Replica()
    replica.errors = {0: ValueError("boom")}
    queue = batcher(replica)
    with pytest.raises(ValueError, match="boom"):
        await queue.submit(rows_of(1))
    assert values_of(await queue.submit(rows_of(1))) == [2]


async def test_nobody_waits_for_ever_for_a_run_that_was_cancelled() -> None:
    replica = Replica()
    replica.errors = {0: asyncio.CancelledError()}
    [task] = submitted(batcher(replica), rows_of(1))
    await settled()
    assert task.done()


async def test_runners_that_come_later_take_what_waits() -> None:
    replica = Replica()
    queue = batcher(replica, runners=0)
    tasks = submitted(queue, *map(rows_of, range(3)))
    await settled()
    assert replica.batches == []
    queue.runners = 1
    await asyncio.gather(*tasks)
    assert replica.values == [[0, 1, 2]]


async def test_with_fewer_runners_no_run_begins_until_enough_have_ended() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, runners=2)
    tasks = submitted(queue, *map(rows_of, range(3)))
    await settled()
    queue.runners = 1
    replica.release()
    await settled()
    assert replica.values == [[0], [1]]
    replica.release(2)
    await asyncio.gather(*tasks)
    assert replica.values == [[0], [1], [2]]


async def test_with_a_delay_rows_wait_for_company_while_a_runner_is_free() -> None:
    replica = Replica()
    tasks = submitted(batcher(replica, max_batch_size=3, max_queue_delay_ms=AN_HOUR_MS), *map(rows_of, range(2)))
    await settled()
    assert replica.batches == []
    for task in tasks:
        task.cancel()


async def test_a_full_batch_does_not_wait_for_more_company() -> None:
    replica = Replica()
    queue = batcher(replica, max_batch_size=3, max_queue_delay_ms=AN_HOUR_MS)
    tasks = submitted(queue, rows_of(1), rows_of(2, rows=2))
    await asyncio.gather(*tasks)
    assert replica.values == [[1, 2, 2]]


async def test_rows_leave_when_they_have_waited_long_enough() -> None:
    replica = Replica()
    tasks = submitted(batcher(replica, max_queue_delay_ms=5), *map(rows_of, range(2)))
    await asyncio.gather(*tasks)
    assert replica.values == [[0, 1]]


async def test_waiting_rows_set_one_timer_for_each_of_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that has fired sets others for what still waits: with more than one, they multiply."""
    loop, timers = asyncio.get_running_loop(), list[float]()
    call_later = loop.call_later

    def counted(delay: float, callback: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        timers.append(delay)
        return call_later(delay, callback, *arguments)

    monkeypatch.setattr(loop, "call_later", counted)
    queue = batcher(Replica(), max_queue_delay_ms=AN_HOUR_MS)
    tasks = submitted(queue, *(rows_of(0, width=number % 3 + 1) for number in range(30)))
    await settled()
    for task in tasks:
        task.cancel()
    assert 1 <= len(timers) <= 3


async def test_without_a_batch_dimension_nobody_waits_for_company_that_cannot_come() -> None:
    replica = Replica()
    [task] = submitted(batcher(replica, batches=False, max_queue_delay_ms=AN_HOUR_MS), rows_of(1))
    await settled()
    assert len(replica.batches) == 1
    assert task.done()


async def test_a_full_batch_does_not_wait_behind_one_that_waits_for_company() -> None:
    replica = Replica()
    queue = batcher(replica, runners=2, max_batch_size=2, max_queue_delay_ms=AN_HOUR_MS)
    tasks = submitted(queue, rows_of(1, width=1), *(rows_of(2, width=2) for _ in range(2)))
    await settled()
    assert [batch[0].shape for batch in replica.batches] == [(2, 2)]
    tasks[0].cancel()


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    widths=st.lists(st.integers(1, 2), min_size=12, max_size=12),
    max_batch_size=st.integers(1, 10),
    runners=st.integers(1, 3),
)
def test_every_request_gets_its_own_rows_in_order(
    sizes: list[int], widths: list[int], max_batch_size: int, runners: int
) -> None:
    async def scenario() -> None:
        replica = Replica(held=True)
        queue = batcher(replica, runners=runners, max_batch_size=max_batch_size)
        requests = [
            [np.arange(rows * width, dtype=np.float32).reshape(rows, width) + 100 * number]
            for number, (rows, width) in enumerate(zip(sizes, widths, strict=False))
        ]
        tasks = submitted(queue, *requests)
        replica.release(len(sizes))
        for request, answer in zip(requests, await asyncio.gather(*tasks), strict=True):
            np.testing.assert_array_equal(answer.outputs[0], request[0] * 2)
            # All of them were computed by the version that is named.
            ran = replica.batches[answer.version][0].reshape(-1).tolist()
            assert set(request[0].reshape(-1).tolist()) <= set(ran)
        assert all(rows <= max_batch_size or rows in sizes for rows in replica.rows)

    asyncio.run(scenario())
