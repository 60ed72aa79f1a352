"""Requests that share a run: when they leave, and with whom. More: test_batcher_limits, _failures, _properties."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aoti_serve.errors import DeadlineExceeded, VersionsDiffer
from aoti_serve.gateway.batching.backlog import MANY_WAITING
from aoti_serve.gateway.batching.work_item import Arrays
from aoti_serve.link.messages import AnswerMessage
from tests.unit.clock import in_simulated_time, settled
from tests.unit.gateway.batching.lab import AN_HOUR_MS, Replica, batcher, rows_of, submitted, values_of


@in_simulated_time
async def test_a_request_leaves_at_once_and_alone_while_a_runner_is_free() -> None:
    replica = Replica()
    answer = await batcher(replica).submit(rows_of(3, rows=2))
    assert (values_of(answer), replica.rows) == ([6, 6], [2])


@in_simulated_time
async def test_with_free_runners_requests_do_not_wait_for_each_other() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, runners=3), *map(rows_of, range(3)))
    await settled()
    assert replica.rows == [1, 1, 1]
    replica.release(3)
    assert [values_of(rows) for rows in await asyncio.gather(*tasks)] == [[0], [2], [4]]


@in_simulated_time
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


@in_simulated_time
async def test_rows_are_counted_not_requests() -> None:
    replica = Replica(held=True)
    sizes = [1, 3, 4, 1, 2]
    tasks = submitted(batcher(replica, max_batch_size=8), *(rows_of(size, rows=size) for size in sizes))
    replica.release(3)
    await asyncio.gather(*tasks)
    assert replica.rows == [1, 7, 3]


@in_simulated_time
async def test_only_equal_trailing_shapes_share_a_run() -> None:
    replica = Replica(held=True)
    widths = [1, 2, 3, 2, 3, 2]
    tasks = submitted(batcher(replica), *(rows_of(number, width=width) for number, width in enumerate(widths)))
    replica.release(3)
    await asyncio.gather(*tasks)
    assert [batch[0].shape for batch in replica.batches] == [(1, 1), (3, 2), (2, 3)]


@in_simulated_time
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


@in_simulated_time
async def test_the_shapes_that_have_waited_longest_leave_first() -> None:
    replica = Replica(held=True)
    tasks = submitted(
        batcher(replica, max_batch_size=2),
        *(rows_of(number, width=width) for number, width in enumerate([9, 2, 1, 1, 1, 2, 2])),
    )
    replica.release(7)
    await asyncio.gather(*tasks)
    assert [batch[0][:, 0].tolist() for batch in replica.batches] == [[0], [1], [2, 3], [4], [5, 6]]


@in_simulated_time
async def test_without_a_batch_dimension_every_request_runs_alone() -> None:
    replica = Replica(held=True)
    requests: list[Arrays] = [[np.array(value, np.float32)] for value in range(3)]
    tasks = submitted(batcher(replica, batches=False), *requests)
    replica.release(3)
    answers = await asyncio.gather(*tasks)
    assert [float(rows.outputs[0]) for rows in answers] == [0, 2, 4]
    assert len(replica.batches) == 3


@in_simulated_time
async def test_runners_that_come_later_take_what_waits() -> None:
    replica = Replica()
    queue = batcher(replica, runners=0)
    tasks = submitted(queue, *map(rows_of, range(3)))
    await settled()
    assert replica.batches == []
    queue.runners = 1
    await asyncio.gather(*tasks)
    assert replica.values == [[0, 1, 2]]


@in_simulated_time
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


@in_simulated_time
async def test_with_a_delay_rows_wait_for_company_while_a_runner_is_free() -> None:
    replica = Replica()
    tasks = submitted(batcher(replica, max_batch_size=3, max_queue_delay_ms=AN_HOUR_MS), *map(rows_of, range(2)))
    await settled()
    assert replica.batches == []
    for task in tasks:
        task.cancel()


@in_simulated_time
async def test_a_full_batch_does_not_wait_for_more_company() -> None:
    replica = Replica()
    queue = batcher(replica, max_batch_size=3, max_queue_delay_ms=AN_HOUR_MS)
    tasks = submitted(queue, rows_of(1), rows_of(2, rows=2))
    await asyncio.gather(*tasks)
    assert replica.values == [[1, 2, 2]]


@in_simulated_time
async def test_rows_leave_when_they_have_waited_long_enough() -> None:
    replica = Replica()
    tasks = submitted(batcher(replica, max_queue_delay_ms=5), *map(rows_of, range(2)))
    await asyncio.gather(*tasks)
    assert replica.values == [[0, 1]]


@in_simulated_time
async def test_rows_that_a_full_batch_left_behind_do_not_begin_to_wait_anew() -> None:
    replica = Replica()
    queue = batcher(replica, runners=0, max_batch_size=2, max_queue_delay_ms=5)
    tasks = submitted(queue, *map(rows_of, range(3)))
    await asyncio.sleep(0.003)
    queue.runners = 1
    await asyncio.gather(*tasks)
    assert replica.values == [[0, 1], [2]]
    assert replica.times[1] == pytest.approx(0.005)


@in_simulated_time
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


@in_simulated_time
async def test_without_a_batch_dimension_nobody_waits_for_company_that_cannot_come() -> None:
    replica = Replica()
    [task] = submitted(batcher(replica, batches=False, max_queue_delay_ms=AN_HOUR_MS), rows_of(1))
    await settled()
    assert len(replica.batches) == 1
    assert task.done()


@in_simulated_time
async def test_a_full_batch_does_not_wait_behind_one_that_waits_for_company() -> None:
    replica = Replica()
    queue = batcher(replica, runners=2, max_batch_size=2, max_queue_delay_ms=AN_HOUR_MS)
    tasks = submitted(queue, rows_of(1, width=1), *(rows_of(2, width=2) for _ in range(2)))
    await settled()
    assert [batch[0].shape for batch in replica.batches] == [(2, 2)]
    tasks[0].cancel()


@in_simulated_time
async def test_as_many_batches_leave_ahead_as_there_are_runners() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, runners=2, max_batch_size=3), *map(rows_of, range(20)))
    for ended in range(3):
        await settled()
        assert len(replica.batches) == 4 + ended
        replica.release()
    replica.release(20)
    await asyncio.gather(*tasks)
    assert replica.values[:5] == [[0], [1], [2, 3], [4, 5], [6, 7, 8]]


@pytest.mark.parametrize(("waiting", "ahead"), [(2, []), (3, [[1, 2, 3]]), (4, [[1, 2, 3]])])
@in_simulated_time
async def test_half_a_batch_does_not_leave_ahead_but_more_does(waiting: int, ahead: list[list[int]]) -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, max_batch_size=4), *map(rows_of, range(1 + waiting)))
    await settled()
    assert replica.values == [[0], *ahead]
    replica.release(3)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(("waiting", "ahead"), [(MANY_WAITING, 0), (MANY_WAITING + 1, 1)])
@in_simulated_time
async def test_many_requests_leave_ahead_however_few_rows_they_are(waiting: int, ahead: int) -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, max_batch_size=1000), *map(rows_of, range(1 + waiting)))
    await settled()
    assert len(replica.batches) == 1 + ahead
    replica.release(2)
    await asyncio.gather(*tasks)


@in_simulated_time
async def test_without_a_batch_dimension_one_request_leaves_ahead_for_each_runner() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, runners=2, batches=False), *[[np.array(float(n))] for n in range(6)])
    await settled()
    assert len(replica.batches) == 4
    replica.release(6)
    await asyncio.gather(*tasks)


@in_simulated_time
async def test_rows_of_another_shape_are_not_passed_over_by_full_batches() -> None:
    """Batches of one shape leave ahead for ever; a row of another one has its turn among them."""
    replica = Replica(seconds=1)
    queue = batcher(replica, max_batch_size=2, max_queue_wait_ms=None)
    tasks = submitted(queue, *(rows_of(number) for number in range(9)))
    tasks += submitted(queue, rows_of(-1, width=2))
    tasks += submitted(queue, *(rows_of(number) for number in range(9, 99)))
    await tasks[9]
    assert replica.values[:6] == [[0], [1, 2], [3, 4], [5, 6], [7, 8], [-1, -1]]
    await asyncio.gather(*tasks)


@in_simulated_time
async def test_nobody_is_told_to_run_longer_than_somebody_waits() -> None:
    replica = Replica(held=True)
    queue = batcher(replica)
    tasks = submitted(queue, rows_of(0))
    for timeout in (3, 5, 4):
        tasks += submitted(queue, rows_of(timeout), timeout=timeout)
    await asyncio.sleep(1)
    replica.release()
    await settled()
    tasks += submitted(queue, rows_of(3)) + submitted(queue, rows_of(4), timeout=1)
    replica.release(2)
    await asyncio.gather(*tasks)
    assert replica.timeouts == [None, pytest.approx(4, abs=1e-4), None]


@in_simulated_time
async def test_a_large_request_runs_in_equal_pieces_and_is_rejoined() -> None:
    replica = Replica(version=7)
    request: Arrays = [np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20, dtype=np.int64)]
    answer = await batcher(replica, max_batch_size=8).submit(request)
    assert (answer.version, replica.rows) == (7, [6, 7, 7])
    for output, given in zip(answer.outputs, request, strict=True):
        np.testing.assert_array_equal(output, given * 2)
    for batch in replica.batches:
        assert all(np.shares_memory(ran, given) for ran, given in zip(batch, request, strict=True))


@in_simulated_time
async def test_pieces_share_batches_with_other_requests() -> None:
    replica = Replica(held=True, version=1)
    tasks = submitted(batcher(replica, max_batch_size=4), *(rows_of(n, rows=n) for n in (1, 1, 6, 1, 3)))
    replica.release(9)
    answers = await asyncio.gather(*tasks)
    assert replica.values == [[1], [1, 6, 6, 6], [6, 6, 6, 1], [3, 3, 3]]
    assert [values_of(answer) for answer in answers] == [[2], [2], [12] * 6, [2], [6] * 3]


@pytest.mark.parametrize(
    ("rows", "smallest", "expected"),
    [
        pytest.param(9, 0, [(0, 4), (4, 9)], id="nearly-equal"),
        pytest.param(16, 0, [(0, 8), (8, 16)], id="exactly"),
        pytest.param(17, 5, [(0, 5), (5, 11), (11, 17)], id="not-below-the-smallest"),
        pytest.param(9, 6, [(0, 6), (3, 9)], id="overlapping"),
        pytest.param(17, 8, [(0, 8), (8, 16), (9, 17)], id="overlapping-by-all-but-one"),
    ],
)
@in_simulated_time
async def test_pieces_are_of_a_size_that_the_model_takes(
    rows: int, smallest: int, expected: list[tuple[int, int]]
) -> None:
    replica = Replica(version=1)
    request: Arrays = [np.arange(rows, dtype=np.float32)[:, None]]
    answer = await batcher(replica, max_batch_size=8, smallest=smallest).submit(request)
    assert [(int(values[0]), int(values[-1]) + 1) for values in replica.values] == expected
    np.testing.assert_array_equal(answer.outputs[0], request[0] * 2)


@in_simulated_time
async def test_a_batch_is_never_below_what_the_model_takes_whatever_is_configured() -> None:
    replica = Replica(version=1)
    await batcher(replica, max_batch_size=1, smallest=4).submit(rows_of(1, rows=5))
    assert replica.rows == [4, 4]


class Swapped(Replica):
    """Its weights change with every run that is named in `swaps`, before it: to an epoch and a version."""

    def __init__(self, swaps: dict[int, tuple[int, int]]) -> None:
        super().__init__(version=1)
        self.swaps = swaps

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        if len(self.batches) in self.swaps:
            self.epoch, self.version = self.swaps[len(self.batches)]
        return await super().run(arrays, timeout)


@pytest.mark.parametrize(
    ("swaps", "version", "runs"),
    [
        pytest.param({1: (1, 2)}, 2, [0, 1, 2, 0], id="swap"),
        pytest.param({0: (1, 5), 2: (2, 4)}, 4, [0, 1, 2, 0, 1], id="rollback"),
        pytest.param({1: (1, 2), 3: (2, 3)}, 3, [0, 1, 2, 0, 1, 2], id="again"),
        pytest.param({2: (0, 2)}, 2, [0, 1, 2, 0, 1], id="in-one-epoch"),
    ],
)
@in_simulated_time
async def test_pieces_that_older_weights_answered_run_again(
    swaps: dict[int, tuple[int, int]], version: int, runs: list[int]
) -> None:
    replica = Swapped(swaps)
    queue = batcher(replica, max_batch_size=2)
    request: Arrays = [np.repeat(np.arange(3, dtype=np.float32), 2)[:, None]]
    answer = await queue.submit(request)
    ran = [int(value) for values in replica.values for value in dict.fromkeys(values)]
    assert (answer.version, ran) == (version, runs)
    np.testing.assert_array_equal(answer.outputs[0], request[0] * 2)


@in_simulated_time
async def test_a_request_whose_pieces_never_agree_is_given_up() -> None:
    replica = Swapped({number: (number, number) for number in range(99)})
    with pytest.raises(VersionsDiffer, match="changed 5 times"):
        await batcher(replica, max_batch_size=2).submit(rows_of(1, rows=4))
    assert len(replica.batches) == 2 + 5
    assert values_of(await batcher(replica, max_batch_size=2).submit(rows_of(1))) == [2]


@in_simulated_time
async def test_the_next_batch_leaves_before_the_answers_of_the_last_go_out() -> None:
    replica = Replica(held=True)
    queue = batcher(replica)
    begun = []

    async def ask(number: int) -> None:
        await queue.submit(rows_of(number))
        begun.append(len(replica.batches))

    tasks = [asyncio.ensure_future(ask(number)) for number in range(4)]
    await settled()
    replica.release()
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert begun == [2]
    replica.release()
    await asyncio.gather(*tasks)


@in_simulated_time
async def test_an_error_does_not_keep_the_request_alive() -> None:
    """Else what refused requests have sent would stay until the collector comes by, which it does seldom."""
    queue = batcher(Replica(held=True))
    running = submitted(queue, rows_of(0))
    arrays = rows_of(1)
    sent = weakref.ref(arrays[0])
    gc.disable()
    try:
        waiting = submitted(queue, arrays, timeout=1)
        del arrays
        with pytest.raises(DeadlineExceeded):
            await waiting.pop()
        await settled()
        assert sent() is None
    finally:
        gc.enable()
    running[0].cancel()
