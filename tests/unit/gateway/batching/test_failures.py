"""Runs that fail: nobody fails with somebody else, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from aoti_serve.errors import DeadlineExceeded, PoisonRequest, ReplicaBehind, ReplicaDied, RuntimeFailed, Unavailable
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.link.messages import AnswerMessage
from tests.unit.clock import in_simulated_time, settled
from tests.unit.gateway.batching.lab import Replica, batcher, outcomes, rows_of, submitted, values_of


@in_simulated_time
async def test_only_the_guilty_request_fails() -> None:
    replica = Replica(held=True)
    replica.refused = {2.0}
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    replica.release(10)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers.pop(2), ValueError)
    assert [values_of(rows) for rows in answers if isinstance(rows, Rows)] == [[0], [2], [6]]


@in_simulated_time
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


@in_simulated_time
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
    assert isinstance(answers.pop(2), PoisonRequest)
    assert [values_of(rows) for rows in answers if isinstance(rows, Rows)] == [[0], [2], [6]]
    assert replica.values == [[0], [1, 2, 3], [1], [2], [3]]


@in_simulated_time
async def test_a_server_that_cannot_answer_is_asked_once_for_the_whole_batch() -> None:
    replica = Replica(held=True)
    replica.errors = {1: ReplicaBehind(model="m", epoch=1, fence=2)}
    tasks = submitted(batcher(replica), *map(rows_of, range(4)))
    replica.release(10)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Rows, ReplicaBehind, ReplicaBehind, ReplicaBehind]
    assert len(replica.batches) == 2


@in_simulated_time
async def test_a_run_that_fails_gives_its_runner_back() -> None:
    replica = Replica()
    replica.errors = {0: ValueError("boom")}
    queue = batcher(replica)
    with pytest.raises(ValueError, match="boom"):
        await queue.submit(rows_of(1))
    assert values_of(await queue.submit(rows_of(1))) == [2]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 64])
@in_simulated_time
async def test_the_guilty_one_is_found_by_halving(size: int) -> None:
    for guilty in {0, size // 2, size - 1}:
        replica = Replica(held=True, version=1)
        replica.refused = {float(guilty)}
        queue = batcher(replica, runners=0)
        tasks = submitted(queue, *map(rows_of, range(size)))
        await settled()
        queue.runners = 1
        replica.release(999)
        answers = await outcomes(tasks)
        assert isinstance(answers.pop(guilty), ValueError)
        assert [values_of(answer) for answer in answers] == [[2 * n] for n in range(size) if n != guilty]
        assert len(replica.batches) <= 2 * math.ceil(math.log2(size)) + 1


@in_simulated_time
async def test_what_runs_again_holds_its_runner() -> None:
    replica = Replica(held=True)
    replica.refused = {2.0}
    tasks = submitted(batcher(replica, max_batch_size=4), *map(rows_of, range(5)))
    await settled()
    for _ in range(9):
        begun = len(replica.batches)
        replica.release()
        await settled()
        assert len(replica.batches) <= begun + 1
    await outcomes(tasks)
    assert replica.values == [[0], [1, 2, 3], [1], [2, 3], [2], [3], [4]]


@in_simulated_time
async def test_a_run_that_was_cancelled_by_somebody_else_may_be_tried_again() -> None:
    replica = Replica()
    replica.errors = {0: asyncio.CancelledError()}
    with pytest.raises(Unavailable, match="the run was cancelled"):
        await batcher(replica).submit(rows_of(1))


@in_simulated_time
async def test_what_expires_while_others_run_again_is_not_run_and_its_run_is_cancelled() -> None:
    replica = Replica(held=True)
    replica.errors = {1: ReplicaDied(model="m")}
    queue = batcher(replica)
    tasks = (
        submitted(queue, rows_of(0))
        + submitted(queue, rows_of(1), rows_of(2), timeout=1)
        + submitted(queue, rows_of(3))
    )
    replica.release(2)
    await asyncio.sleep(2)
    replica.release(9)
    answers = await outcomes(tasks)
    assert [type(answer) for answer in answers] == [Rows, DeadlineExceeded, DeadlineExceeded, Rows]
    assert (replica.values, replica.cancelled) == ([[0], [1, 2, 3], [1], [3]], 1)


@in_simulated_time
async def test_a_replica_may_die_over_a_request_alone_once() -> None:
    replica = Replica(held=True)
    replica.errors = {1: ReplicaDied(model="m"), 5: ReplicaDied(model="m")}
    queue = batcher(replica)
    tasks = submitted(queue, *map(rows_of, range(3)))
    replica.release(4)
    await outcomes(tasks)
    tasks = submitted(queue, rows_of(1), rows_of(2))
    replica.release(9)
    assert [values_of(answer) for answer in await outcomes(tasks)] == [[2], [4]]
    assert replica.values == [[0], [1, 2], [1], [2], [1], [2], [2]]


@in_simulated_time
async def test_no_third_replica_dies_over_a_request_in_pieces() -> None:
    replica = Replica(held=True, version=1)
    replica.deadly = {6.0}
    tasks = submitted(batcher(replica, max_batch_size=2), rows_of(0), rows_of(6, rows=9), rows_of(1))
    await settled()
    replica.release(99)
    answers = await outcomes(tasks)
    assert [type(answer) for answer in answers] == [Rows, PoisonRequest, Rows]
    assert sum(6.0 in values for values in replica.values) <= 3  # one had left ahead, when the first died


class Timed(Replica):
    """Each run takes its own time."""

    def __init__(self, *seconds: float) -> None:
        super().__init__(runners=99, version=1)
        self.each = seconds

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        self.seconds = self.each[len(self.batches)]
        return await super().run(arrays, timeout)


@in_simulated_time
async def test_pieces_do_not_leave_while_a_replica_may_have_died_over_another() -> None:
    replica = Timed(5, 1, *[9] * 6)
    replica.deadly = {6.0}
    tasks = submitted(batcher(replica, runners=2, max_batch_size=2), rows_of(0), rows_of(6, rows=12), rows_of(1))
    await asyncio.sleep(0.5)
    assert replica.values == [[0], [6, 6], [6, 6], [6, 6]]
    await asyncio.sleep(6)  # at 1 it dies, at 5 a runner is free
    assert replica.values[4:] == [[6, 6]]
    assert [type(answer) for answer in await outcomes(tasks)] == [Rows, PoisonRequest, Rows]


@in_simulated_time
async def test_a_piece_that_fails_fails_its_request_and_the_others_leave_the_queue() -> None:
    replica = Replica(held=True, version=1)
    replica.refused = {3.0}
    queue = batcher(replica, max_batch_size=2)
    tasks = submitted(queue, [np.arange(20, dtype=np.float32)[:, None]], rows_of(1))
    await settled()
    replica.release(99)
    answers = await outcomes(tasks)
    assert [type(answer) for answer in answers] == [ValueError, Rows]
    assert sum(len(values) for values in replica.values) <= 2 * 3 + 2


class Odd(Replica):
    """Its output has one row, whatever it gets."""

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        answer = await super().run(arrays, timeout)
        return answer._replace(outputs=[array[:1] for array in answer.outputs])


@in_simulated_time
async def test_an_output_that_cannot_be_shared_is_not_shared() -> None:
    replica = Odd(held=True, version=1)
    queue = batcher(replica, max_batch_size=4)
    tasks = submitted(queue, *map(rows_of, range(4)))
    replica.release(99)
    assert [values_of(answer) for answer in await outcomes(tasks)] == [[0], [2], [4], [6]]
    with pytest.raises(RuntimeFailed, match=r"output 0 of a batch of 3 rows has the shape \[1, 1\]"):
        await queue.submit(rows_of(1, rows=6))


@in_simulated_time
async def test_arrays_that_cannot_be_joined_fail_nobody() -> None:
    replica = Replica(held=True, version=1)
    odd = np.array([[object()]])
    queue = batcher(replica)
    tasks = submitted(queue, rows_of(0), [np.zeros((1, 1), "M8[s]")], rows_of(2), [odd])
    replica.release(99)
    answers = await outcomes(tasks)
    assert [type(answer) for answer in (answers[0], answers[2])] == [Rows, Rows]


@in_simulated_time
async def test_a_request_that_a_replica_gives_up_is_told_of_its_own_timeout() -> None:
    replica = Replica(held=True)
    replica.errors = {1: DeadlineExceeded(model="m", timeout=0.003)}  # what was left of the longest
    queue = batcher(replica)
    tasks = submitted(queue, rows_of(0)) + submitted(queue, rows_of(1), timeout=2) + submitted(queue, rows_of(2))
    replica.release(9)
    _, late, other = await outcomes(tasks)
    assert str(late) == "model 'm': no answer within 2 s"
    assert isinstance(other, DeadlineExceeded)
