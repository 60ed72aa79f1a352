"""No replica lives: requests wait for one as long as for a place in the queue, and then hear that there is none."""

from __future__ import annotations

import asyncio

import pytest

from aoti_serve.errors import DeadlineExceeded, NoReplica
from aoti_serve.gateway.batching.batcher import Batcher
from tests.unit.clock import in_simulated_time, now, settled
from tests.unit.gateway.batching.lab import Replica, batcher, outcomes, rows_of, submitted, values_of


async def refused_after(queue: Batcher, value: float = 1, priority: int = 0) -> float:
    """The seconds after which such a request is refused."""
    began = now()
    with pytest.raises(NoReplica):
        await queue.submit(rows_of(value), priority=priority)
    return now() - began


def assert_nothing_waits(queue: Batcher) -> None:
    assert (queue.rows, queue.load.nbytes, list(queue._backlog.waiting())) == (0, 0, [])


@in_simulated_time
async def test_who_comes_while_no_replica_lives_waits_no_longer_than_in_a_queue() -> None:
    queue = batcher(Replica(), runners=0, max_queue_wait_ms=500)
    with pytest.raises(NoReplica, match=r"^model 'm': no replica of it lives; try again in 1 s") as refused:
        await queue.submit(rows_of(1))
    assert now() == pytest.approx(0.5)
    assert (refused.value.http_status, refused.value.grpc_status) == (503, "UNAVAILABLE")
    assert_nothing_waits(queue)


@in_simulated_time
async def test_a_replica_that_comes_back_within_the_wait_answers() -> None:
    replica = Replica(version=1)
    queue = batcher(replica, runners=0, max_queue_wait_ms=500)
    tasks = submitted(queue, rows_of(1), rows_of(2, rows=600))
    await asyncio.sleep(0.49)
    queue.runners = 1
    assert [values_of(rows)[0] for rows in await asyncio.gather(*tasks)] == [2, 4]
    await asyncio.sleep(10)
    assert values_of(await queue.submit(rows_of(3))) == [6]


@in_simulated_time
async def test_each_waits_from_its_own_arrival() -> None:
    queue = batcher(Replica(), runners=0, max_queue_wait_ms=500)
    tasks = []
    for number in range(99):
        tasks.append(asyncio.create_task(refused_after(queue, priority=number % 10)))
        await asyncio.sleep(0.01)
    assert all(0.47 < wait < 0.501 for wait in await asyncio.gather(*tasks))


@in_simulated_time
async def test_who_was_in_the_queue_when_the_last_replica_went_waits_from_then() -> None:
    queue = batcher(Replica(held=True), max_batch_size=1, max_queue_wait_ms=500)
    left = submitted(queue, rows_of(0), rows_of(0))
    await settled()
    waiting = [asyncio.create_task(refused_after(queue)) for _ in range(3)]
    await asyncio.sleep(3)
    queue.runners = 0
    assert await asyncio.gather(*waiting) == [pytest.approx(3.5)] * 3
    assert not any(task.done() for task in left), "the link says when the replica has died that has them"
    for task in left:
        task.cancel()


@in_simulated_time
async def test_a_request_in_pieces_is_refused_whole() -> None:
    queue = batcher(Replica(held=True), max_batch_size=2, max_queue_wait_ms=500)
    (whole,) = submitted(queue, rows_of(1, rows=9))
    await settled()
    queue.runners = 0
    with pytest.raises(NoReplica):
        await whole
    await settled()
    assert (queue._backlog.rows, queue._backlog.later) == (0, 0)


@in_simulated_time
async def test_the_longer_none_has_lived_the_later_another_try() -> None:
    queue = batcher(Replica(), max_queue_wait_ms=500)
    queue.runners = 0
    found = []
    for pause in (0, 5, 5, 3600):
        await asyncio.sleep(pause)
        with pytest.raises(NoReplica) as refused:
            await queue.submit(rows_of(1))
        found.append(refused.value.retry_after)
    assert found == [1, 6, 12, 30]


@in_simulated_time
async def test_ones_own_deadline_may_be_sooner() -> None:
    queue = batcher(Replica(), runners=0, max_queue_wait_ms=500)
    with pytest.raises(DeadlineExceeded):
        await queue.submit(rows_of(1), timeout=0.2)
    with pytest.raises(NoReplica):
        await queue.submit(rows_of(1), timeout=60)
    assert now() == pytest.approx(0.7)


@in_simulated_time
async def test_null_is_however_long() -> None:
    queue = batcher(Replica(), runners=0, max_queue_wait_ms=None)
    (task,) = submitted(queue, rows_of(1))
    await asyncio.sleep(86_400)
    queue.runners = 1
    assert values_of(await task) == [2]


@in_simulated_time
async def test_a_crowd_is_looked_at_a_few_times_and_not_one_by_one() -> None:
    queue = batcher(Replica(), runners=0, max_queue_wait_ms=500)
    looks = 0
    waiting = queue._backlog.waiting

    def counted() -> object:
        nonlocal looks
        looks += 1
        return waiting()

    queue._backlog.waiting = counted  # type: ignore[method-assign, assignment]
    tasks = []
    for _ in range(2000):
        tasks += submitted(queue, rows_of(1))
        await asyncio.sleep(0.0005)
    assert {type(outcome) for outcome in await outcomes(tasks)} == {NoReplica}
    assert looks < 150
