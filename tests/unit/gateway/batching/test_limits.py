"""Requests that are refused, expire, or are given up by their callers; and who goes before whom."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np
import pytest

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import DeadlineExceeded, QueueFull
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.link.messages import AnswerMessage
from tests.unit.clock import in_simulated_time, now, settled
from tests.unit.gateway.batching.lab import Replica, batcher, outcomes, rows_of, submitted, values_of

REQUEST = ContextVar("REQUEST", default="nobody's")


@in_simulated_time
async def test_more_rows_than_may_wait_are_refused() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_queued_rows=4)
    tasks = submitted(queue, rows_of(0, rows=9), rows_of(1, rows=3))
    await settled()
    with pytest.raises(QueueFull, match=r"full: 3 rows, the limit is 4 \(batching.max_queued_rows\); try again in 1 s"):
        await queue.submit(rows_of(2, rows=2))
    tasks += submitted(queue, rows_of(3))
    replica.release(2)
    assert [len(values_of(rows)) for rows in await asyncio.gather(*tasks)] == [9, 3, 1]


@in_simulated_time
async def test_a_request_that_alone_is_more_than_may_wait_is_taken_when_nobody_waits() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica, max_queued_rows=4), rows_of(0), rows_of(1, rows=50))
    replica.release(2)
    await asyncio.gather(*tasks)
    assert replica.rows == [1, 50]


@in_simulated_time
async def test_a_large_request_keeps_no_small_one_out() -> None:
    replica = Replica(held=True, version=1)
    queue = batcher(replica, max_batch_size=2, max_queued_rows=2)
    tasks = submitted(queue, rows_of(0, rows=50), rows_of(1), rows_of(2))
    await settled()
    with pytest.raises(QueueFull, match=r"full: 2 rows, the limit is 2 \(batching.max_queued_rows\)"):
        await queue.submit(rows_of(3))
    replica.release(99)
    assert [len(values_of(rows)) for rows in await asyncio.gather(*tasks)] == [50, 1, 1]


@in_simulated_time
async def test_rows_of_less_urgent_levels_take_no_room_from_the_urgent() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_queued_rows=2)
    tasks = submitted(queue, *map(rows_of, range(3)))
    await settled()
    tasks += submitted(queue, rows_of(4), priority=1)
    with pytest.raises(QueueFull):
        await queue.submit(rows_of(5))
    replica.release(9)
    await asyncio.gather(*tasks)


@in_simulated_time
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
@in_simulated_time
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


@in_simulated_time
async def test_nothing_runs_when_all_callers_have_gone() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica), *map(rows_of, range(3)))
    await settled()
    for task in tasks:
        task.cancel()
    replica.release(3)
    await settled()
    assert replica.values == [[0]]


@in_simulated_time
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


@in_simulated_time
async def test_more_bytes_than_may_wait_are_refused() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_queued_bytes=2**20)
    tasks = submitted(queue, rows_of(0), rows_of(1, width=2**18 - 1), rows_of(2))
    await settled()
    with pytest.raises(QueueFull, match=r"the queue is full: 1 MB, the limit is 1 MB \(batching.max_queued_bytes\)"):
        await queue.submit(rows_of(3))
    replica.release(3)
    await asyncio.gather(*tasks)
    tasks = submitted(queue, rows_of(0), rows_of(1, width=2**19))
    replica.release(2)
    await asyncio.gather(*tasks)


@in_simulated_time
async def test_requests_without_rows_are_counted_as_well() -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_queued_rows=2, max_batch_size=2)
    tasks = submitted(queue, *(rows_of(0, rows=0) for _ in range(6)))
    replica.release(6)
    assert [type(outcome) for outcome in await outcomes(tasks)] == [Rows] * 5 + [QueueFull]
    assert replica.rows == [0, 0, 0]


@in_simulated_time
async def test_who_would_wait_too_long_is_refused_at_once() -> None:
    """100 rows a second, half a second of patience: 50 rows may wait, and no more."""
    replica = Replica(seconds=0.1, version=1)
    queue = batcher(replica, max_batch_size=10, max_queue_wait_ms=500)
    first = submitted(queue, *map(rows_of, range(100)))
    await asyncio.sleep(1.01)  # enough to know the pace
    tasks = submitted(queue, *map(rows_of, range(200)))
    await settled()
    refused = [task for task in tasks if task.done()]
    assert 200 - len(refused) - 3 == pytest.approx(50, abs=2)  # 3 have left ahead, with the last 3 of the first
    with pytest.raises(QueueFull, match=r"wait 5\d\d ms, the limit is 500 ms .batching.max_queue_wait_ms.; try"):
        await refused[0]
    await outcomes(first + tasks)


@in_simulated_time
async def test_when_to_come_again_follows_from_the_pace() -> None:
    replica = Replica(seconds=1, version=1)
    queue = batcher(replica, max_batch_size=10, max_queue_wait_ms=None, max_queued_rows=75)
    tasks = submitted(queue, *map(rows_of, range(75)))
    await asyncio.sleep(6.5)
    tasks += submitted(queue, *map(rows_of, range(75)))
    with pytest.raises(QueueFull) as caught:
        await asyncio.gather(*tasks[-5:], queue.submit(rows_of(1)))
    assert caught.value.facts["retry_after"] == 8
    await outcomes(tasks)


@in_simulated_time
async def test_a_batch_for_each_runner_may_wait_however_slow_the_model_is() -> None:
    replica = Replica(seconds=60, runners=2, version=1)
    queue = batcher(replica, runners=2, max_batch_size=4)
    tasks = submitted(queue, *map(rows_of, range(50)))
    await asyncio.sleep(500)
    assert all(task.done() for task in tasks)  # nothing was known, all were let in
    tasks = submitted(queue, *map(rows_of, range(50)))
    answers = await outcomes(tasks)
    assert 2 + 2 * 3 + 8 <= sum(isinstance(answer, Rows) for answer in answers) <= 2 + 2 * 3 + 8 + 2


@in_simulated_time
async def test_a_batch_of_the_urgent_may_wait_whoever_else_waits() -> None:
    replica = Replica(seconds=60, version=1)
    queue = batcher(replica, max_batch_size=4)
    tasks = submitted(queue, *map(rows_of, range(50)))
    await asyncio.sleep(500)
    urgent = submitted(queue, *map(rows_of, range(4)), priority=1)
    await settled()
    assert queue._backlog.rows > 4
    assert not any(task.done() for task in urgent)
    await outcomes(tasks + urgent)


@in_simulated_time
async def test_while_there_is_no_runner_only_the_hard_limits_hold() -> None:
    replica = Replica(seconds=0.1, version=1)
    queue = batcher(replica, max_batch_size=2, max_queued_rows=100)
    await outcomes(submitted(queue, *map(rows_of, range(50))))
    queue.runners = 0
    tasks = submitted(queue, *map(rows_of, range(101)))
    await settled()
    assert [task.done() for task in tasks] == [False] * 100 + [True]
    queue.runners = 1
    await outcomes(tasks)


@in_simulated_time
async def test_the_urgent_get_in_when_the_queue_is_full_of_others() -> None:
    replica = Replica(seconds=0.1, version=1)
    queue = batcher(replica, max_batch_size=10, max_queue_wait_ms=500)
    tasks = submitted(queue, *map(rows_of, range(100)))
    await asyncio.sleep(1.01)
    tasks += submitted(queue, *map(rows_of, range(200)))
    await settled()
    urgent = submitted(queue, *(rows_of(1000 + number) for number in range(100)), priority=4)
    patient = submitted(queue, rows_of(2000), priority=6)
    await settled()
    assert sum(task.done() for task in urgent) == pytest.approx(50, abs=2)
    assert patient[0].done()
    await outcomes(tasks + urgent + patient)


@dataclass
class Crowd:
    """Clients that come whatever happens, `per_second`, one row each."""

    queue: Batcher
    refused: int = 0
    waits: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    async def one(self) -> None:
        start = now()
        try:
            await self.queue.submit(rows_of(1))
        except QueueFull:
            assert now() == start
            self.refused += 1
        else:
            self.waits.append(now() - start)
            self.ends.append(now())

    async def come(self, per_second: float, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(round(per_second * seconds)):
                group.create_task(self.one())
                await asyncio.sleep(1 / per_second)


SERVICE_S = 0.004


class Uneven(Replica):
    """Batches take from 0.5 to 1.5 times 4 ms."""

    def __init__(self, runners: int) -> None:
        super().__init__(runners=runners, version=1)
        self.random = np.random.default_rng(1)

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        self.seconds = SERVICE_S * self.random.uniform(0.5, 1.5)
        return await super().run(arrays, timeout)


@pytest.mark.parametrize("runners", [1, 4])
@in_simulated_time
async def test_overload_costs_those_who_come_too_much_and_nobody_else(runners: int) -> None:
    queue = batcher(Uneven(runners), runners=runners, max_batch_size=8, max_queue_wait_ms=50)
    capacity = 8 * runners / SERVICE_S
    crowd = Crowd(queue)
    await crowd.come(10 * capacity, 0.4)
    # Once the pace is known, to a tenth or two: 50 ms in the queue, then at the door and in the run as everybody.
    assert max(crowd.waits[len(crowd.waits) // 2 :]) <= 1.25 * 0.050 + 3 * 1.5 * SERVICE_S
    assert max(crowd.waits[len(crowd.waits) // 2 :]) >= 0.050
    assert len(crowd.ends) >= 0.95 * 0.4 * capacity
    assert crowd.refused >= 8 * 0.4 * capacity
    after = Crowd(queue)
    await after.come(capacity / 4, 0.5)
    assert after.refused == 0
    assert max(after.waits[5:]) <= 3 * 1.5 * SERVICE_S


@in_simulated_time
async def test_a_pause_does_not_pass_for_a_slow_model() -> None:
    replica = Replica(seconds=0.01, version=1)
    queue = batcher(replica, max_batch_size=10, max_queue_wait_ms=200)
    await Crowd(queue).come(2000, 0.5)
    came = asyncio.create_task(Crowd(queue).come(2000, 0.2))
    await asyncio.sleep(0.1)
    replica.seconds = 5.0
    await asyncio.sleep(0.02)  # one batch meets it
    replica.seconds = 0.01
    await came
    assert now() > 5
    crowd = Crowd(queue)
    await crowd.come(5000, 0.02)
    assert crowd.refused == 0


@in_simulated_time
async def test_a_model_that_has_become_slow_is_believed_in() -> None:
    replica = Replica(seconds=0.01, version=1)
    queue = batcher(replica, max_batch_size=10, max_queue_wait_ms=200)
    await Crowd(queue).come(2000, 0.5)
    replica.seconds = 0.1
    crowd = Crowd(queue)
    await crowd.come(200, 20)
    late = crowd.waits[len(crowd.waits) // 2 :]
    assert max(late) <= 0.25 + 0.2 + 0.1
    assert len(crowd.ends) >= 0.95 * 100 * 20


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
@in_simulated_time
async def test_no_time_at_all_is_too_little(timeout: float) -> None:
    replica = Replica()
    with pytest.raises(DeadlineExceeded, match="model 'm': no answer within"):
        await batcher(replica).submit(rows_of(1), timeout=timeout)
    assert replica.batches == []


@pytest.mark.parametrize("rows", [1, 5])
@in_simulated_time
async def test_a_deadline_is_answered_in_time_wherever_the_request_is(rows: int) -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_batch_size=2)
    running = submitted(queue, rows_of(1, rows=rows), timeout=2.5)
    waiting = submitted(queue, rows_of(2, rows=rows), timeout=1.5)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 1\.5 s") as caught:
        await waiting[0]
    assert now() == pytest.approx(1.5)
    assert caught.value.http_status == 504
    with pytest.raises(DeadlineExceeded, match=r"no answer within 2\.5 s"):
        await running[0]
    assert now() == pytest.approx(2.5)
    await settled()
    assert {value for values in replica.values for value in values} == {1}
    assert replica.cancelled == len(replica.batches)
    assert_nothing_is_left(queue)


@in_simulated_time
async def test_a_run_goes_on_while_one_of_its_requests_is_wanted() -> None:
    replica = Replica(held=True)
    queue = batcher(replica)
    tasks = submitted(queue, rows_of(0), rows_of(1)) + submitted(queue, rows_of(2), timeout=1)
    await settled()
    replica.release()
    await asyncio.sleep(2)
    assert isinstance((await outcomes(tasks[2:]))[0], DeadlineExceeded)
    assert replica.cancelled == 0
    replica.release()
    assert [values_of(answer) for answer in await asyncio.gather(*tasks[:2])] == [[0], [2]]


@in_simulated_time
async def test_a_run_belongs_to_none_of_its_requests() -> None:
    """Serve keeps in a context which calls belong to a request, and cancels them with it."""
    seen: list[str] = []
    replica = Replica(held=True)

    async def run(arrays: Arrays, timeout: float | None) -> AnswerMessage:
        seen.append(REQUEST.get())
        return await replica.run(arrays, timeout)

    async def ask(value: float) -> Rows:
        REQUEST.set(f"request {value}")
        return await queue.submit(rows_of(value))

    queue = Batcher(ModelFigures("m"), BatchingConfig(max_batch_size=2), run, batches=True)
    queue.runners = 1
    tasks = [asyncio.create_task(ask(value)) for value in range(5)]
    await settled()
    replica.release(9)
    await asyncio.gather(*tasks)
    assert (replica.rows, seen) == ([1, 2, 2], ["nobody's"] * 3)


@pytest.mark.parametrize("rows", [1, 5])
@in_simulated_time
async def test_a_run_that_nobody_waits_for_is_cancelled(rows: int) -> None:
    replica = Replica(held=True)
    queue = batcher(replica, runners=2, max_batch_size=2)
    tasks = submitted(queue, rows_of(0, rows=rows), rows_of(1))
    await settled()
    begun = len(replica.batches)
    tasks[0].cancel()
    await settled()
    assert replica.cancelled == begun - (rows == 1)
    replica.release(9)
    assert values_of((await outcomes(tasks))[1]) == [2]
    assert_nothing_is_left(queue)


@in_simulated_time
async def test_deadlines_share_a_timer_and_keep_nobody_in_memory() -> None:
    queue = batcher(Replica(), max_batch_size=8)
    for timeout in range(1000, 500, -1):
        await queue.submit(rows_of(1), timeout=timeout)
    handles: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert sum(not handle.cancelled() for handle in handles) == 1
    assert len(queue._deadlines._heap) <= 100
    assert queue._deadlines._pieces == {}


@in_simulated_time
async def test_deadlines_come_in_their_own_order() -> None:
    queue = batcher(Replica(held=True))
    tasks = [*submitted(queue, rows_of(0))]
    for timeout in (5, 2, 8, 3):
        tasks += submitted(queue, rows_of(timeout), timeout=timeout)
    ends: dict[int, float] = {}
    for task in tasks[1:]:
        task.add_done_callback(lambda task: ends.update({tasks.index(task): now()}))
    await asyncio.gather(*tasks[1:], return_exceptions=True)
    assert ends == {2: pytest.approx(2), 4: pytest.approx(3), 1: pytest.approx(5), 3: pytest.approx(8)}
    tasks[0].cancel()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("rows", [1, 5])
@in_simulated_time
async def test_memory_is_free_when_the_answer_is_out(rows: int) -> None:
    """And not when the garbage collector comes by: these are most of a gateway's bytes."""

    async def run(arrays: Arrays, timeout: float | None) -> AnswerMessage:
        return AnswerMessage(1, 1, [array * 2 for array in arrays])

    queue = Batcher(ModelFigures("m"), BatchingConfig(max_batch_size=2), run, batches=True)
    queue.runners = 1
    [array] = rows_of(1, rows=rows)
    seen = weakref.ref(array)
    await queue.submit([array], timeout=60)
    del array
    await settled()
    assert seen() is None


@in_simulated_time
async def test_those_who_come_and_go_leave_nothing_behind() -> None:
    """However long there is no runner."""
    queue = batcher(Replica(), runners=0, max_queue_wait_ms=None)
    stays = submitted(queue, rows_of(1))
    for _ in range(50):
        tasks = submitted(queue, *map(rows_of, range(50)), timeout=1)
        await asyncio.sleep(2)
        assert all(isinstance(outcome, DeadlineExceeded) for outcome in await outcomes(tasks))
    [waiting] = queue._backlog._queues.values()
    assert len(waiting.heap) < 200
    queue.runners = 1
    await outcomes(stays)
    assert_nothing_is_left(queue)


@in_simulated_time
async def test_who_goes_at_the_last_moment_is_not_run() -> None:
    replica = Replica()
    queue = batcher(replica, runners=0, max_batch_size=2)
    tasks = submitted(queue, *map(rows_of, range(5)))
    await settled()
    for task in tasks[:3]:
        task.cancel()
    queue.runners = 1  # before they could say so
    await outcomes(tasks)
    assert replica.values == [[3], [4]]
    assert_nothing_is_left(queue)


@in_simulated_time
async def test_who_has_gone_does_not_hold_a_place_for_others() -> None:
    replica = Replica(held=True)
    tasks = submitted(batcher(replica), rows_of(0), rows_of(1), rows_of(2, width=2), rows_of(3))
    await settled()
    tasks[1].cancel()
    replica.release(9)
    await outcomes(tasks)
    assert replica.values == [[0], [2, 2], [3]]


async def order(queue: Batcher, replica: Replica, arrivals: Iterable[tuple[float, int]]) -> list[int]:
    """In which order requests run, one by one, that came at these times with these priorities."""
    tasks = submitted(queue, rows_of(-1), rows_of(-1))  # one runs, one lies ahead
    await settled()
    start = now()
    for number, (time, priority) in enumerate(arrivals):
        await asyncio.sleep(start + time - now())
        tasks += submitted(queue, rows_of(number), priority=priority)
    await settled()
    replica.release(len(tasks))
    await outcomes(tasks)
    return [int(values[0]) for values in replica.values if values[0] >= 0]


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        pytest.param([(0, 0), (1, 0), (2, 0)], [0, 1, 2], id="equal"),
        pytest.param([(0, 5), (0, 0), (0, 5)], [0, 1, 2], id="zero-is-the-default"),
        pytest.param([(0, 9), (0, 5), (0, 1)], [2, 1, 0], id="urgent-first"),
        pytest.param([(0, 5), (0.09, 4)], [1, 0], id="a-level-is-worth-100-ms"),
        pytest.param([(0, 5), (0.11, 4)], [0, 1], id="and-no-more"),
        pytest.param([(0, 9), (0.79, 1)], [1, 0], id="eight-levels"),
        pytest.param([(0, 9), (0.81, 1)], [0, 1], id="nobody-waits-for-ever"),
        pytest.param([(0, 1), (0, 1), (0, 1)], [0, 1, 2], id="in-order-within-a-level"),
    ],
)
@in_simulated_time
async def test_the_urgent_go_first_until_the_others_have_waited_enough(
    arrivals: list[tuple[float, int]], expected: list[int]
) -> None:
    replica = Replica(held=True)
    queue = batcher(replica, max_batch_size=1)
    assert await order(queue, replica, arrivals) == expected


@in_simulated_time
async def test_the_urgent_of_another_shape_go_first_too() -> None:
    replica = Replica(held=True)
    queue = batcher(replica)
    tasks = submitted(queue, rows_of(0), rows_of(1)) + submitted(queue, rows_of(2, width=2), priority=1)
    replica.release(3)
    await outcomes(tasks)
    assert replica.values == [[0], [2, 2], [1]]


def assert_nothing_is_left(queue: Batcher) -> None:
    backlog = queue._backlog
    assert (backlog.rows, backlog.nbytes, backlog.ample, queue._under_way) == (0, 0, 0, 0)
    assert (backlog._queues, set(backlog._rows_at)) == ({}, {0})
