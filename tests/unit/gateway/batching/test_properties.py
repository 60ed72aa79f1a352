"""What holds whatever comes: sizes, shapes, priorities, deadlines, callers that go, swaps, failures, scaling."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import DeadlineExceeded, NoReplica, PoisonRequest, QueueFull, ReplicaDied, TryAgain
from aoti_serve.gateway.batching import absence, deadlines
from aoti_serve.gateway.batching.backlog import MANY_WAITING
from aoti_serve.gateway.batching.batcher import DEFAULT_PRIORITY, Batcher
from aoti_serve.gateway.batching.hold import HOLD_TICK_S
from aoti_serve.gateway.batching.work_item import Arrays, Rows, WorkItem
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.link.messages import AnswerMessage
from tests.unit.clock import SimulatedLoop, now, simulated

MS = 1e-3
AGEING_MS = 10.0
LARGEST_REQUEST = 100
SOON = 1e-6
ENOUGH = 1 - 1 / absence.LOOKS  # of the time for which a request may wait without a replica
EARLY = deadlines.DEADLINE_TICK_S + SOON  # a deadline that is so near another one is answered with it


class Guilty(Exception):
    pass


@dataclass
class Request:
    """One that comes `gap` ms after the one before. Its rows are numbers that no other request has."""

    gap: int
    rows: int
    width: int = 1
    priority: int = 0
    timeout: int | None = None
    cancel_after: int | None = None
    kind: str = "plain"
    number: int = 0
    arrival: float = -1.0
    left: bool = False  # the queue, at least in part
    outcome: object = None
    ended: float = math.inf
    met: list[BaseException] = field(default_factory=list)

    @property
    def arrays(self) -> Arrays:
        values = self.number * LARGEST_REQUEST + np.arange(self.rows, dtype=np.int64)
        return [np.repeat(values[:, None], self.width, axis=1)]

    @property
    def rank(self) -> float:
        return self.arrival + (self.priority or DEFAULT_PRIORITY) * AGEING_MS * MS

    @property
    def deadline(self) -> float:
        return math.inf if self.timeout is None else self.arrival + self.timeout * MS

    @property
    def leaves(self) -> float:
        """When it is given up, if it is not answered before."""
        return min(
            self.deadline - EARLY, math.inf if self.cancel_after is None else self.arrival + self.cancel_after * MS
        )


@dataclass
class World:
    """The cluster that the batcher sees, and all that happens to it; checks every run when it begins."""

    requests: list[Request]
    services: list[int]
    scaling: list[tuple[int, int]]
    swaps: list[int]
    errors: dict[int, str]
    config: dict[str, Any]
    smallest: int
    queue: Batcher = field(init=False)
    runners: dict[float, int] = field(default_factory=dict)  # the most at a moment in which they changed
    absences: list[list[float]] = field(default_factory=lambda: [[0.0, math.inf]])  # from when to when there was none
    running: int = 0
    runs: int = 0
    version: int = 1
    broken: list[AssertionError] = field(default_factory=list)
    figures: ModelFigures = field(default_factory=lambda: ModelFigures("m"))
    answered: list[tuple[int, int]] = field(default_factory=list)  # version and rows of a run

    async def play(self) -> None:
        config = BatchingConfig(priority_ageing_ms=AGEING_MS, **self.config)
        self.queue = Batcher(self.figures, config, self.run, batches=True, smallest=self.smallest)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.before_every_jump(self.check)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.scale())
            group.create_task(self.swap())
            for number, request in enumerate(self.requests):
                request.number = number
                await asyncio.sleep(request.gap * MS)
                group.create_task(self.submit(request))
        self.check_nothing_is_left()
        self.check_figures()
        if self.broken:
            raise self.broken[0]
        for request in self.requests:
            self.check_outcome(request)

    async def submit(self, request: Request) -> None:
        request.arrival = now()
        timeout = None if request.timeout is None else request.timeout * MS
        task = asyncio.create_task(self.queue.submit(request.arrays, priority=request.priority, timeout=timeout))
        if request.cancel_after is not None:
            asyncio.get_running_loop().call_later(request.cancel_after * MS, task.cancel)
        [request.outcome] = await asyncio.gather(task, return_exceptions=True)
        request.ended = now()

    async def scale(self) -> None:
        for gap, runners in self.scaling:
            await asyncio.sleep(gap * MS)
            self.resize(runners)
        self.resize(max(1, self.queue.runners))

    def resize(self, runners: int) -> None:
        self.runners[now()] = max(self.runners.get(now(), self.queue.runners), runners)
        if not runners and self.queue.runners:
            self.absences.append([now(), math.inf])
        elif runners and not self.queue.runners:
            self.absences[-1][1] = now()
        self.queue.runners = runners

    @property
    def longest_wait(self) -> float:
        return math.inf if self.config["max_queue_wait_ms"] is None else self.config["max_queue_wait_ms"] * MS

    def refused_from(self, request: Request) -> float:
        """When it may be told that there is no replica, if there is none now or was none until this moment."""
        since, until = self.absences[-1]
        return max(request.arrival, since) + ENOUGH * self.longest_wait if until >= now() else math.inf

    async def swap(self) -> None:
        for gap in self.swaps:
            await asyncio.sleep(gap * MS)
            self.version += 1

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        number, version, values = self.runs, self.version, arrays[0][:, 0]
        requests = [self.requests[index] for index in dict.fromkeys((values // LARGEST_REQUEST).tolist())]
        self.runs += 1
        self.running += 1
        try:
            self.check_run(arrays, requests, timeout)
        except AssertionError as error:  # the batcher would take it for a failed run
            self.broken.append(error)
        try:
            await asyncio.sleep(self.services[number % len(self.services)] * MS)
            self.fail(number, requests)
        finally:
            self.running -= 1
        self.answered.append((version, len(values)))
        return AnswerMessage(version, version, [arrays[0] * 2, np.full(len(values), version)])

    def fail(self, number: int, requests: list[Request]) -> None:
        kinds = {request.kind for request in requests} | {self.errors.get(number, "plain")}
        error: Exception | None = None
        if "deadly" in kinds:
            error = ReplicaDied(model="m")
        elif "unavailable" in kinds:
            error = TryAgain(detail="not now")
        elif "guilty" in kinds:
            error = Guilty()
        if error:
            for request in requests:
                request.met.append(error)
            raise error

    def check_run(self, arrays: Arrays, requests: list[Request], timeout: float | None) -> None:
        largest = max(self.config["max_batch_size"], self.smallest)
        rows = len(arrays[0])
        assert rows <= largest
        assert all(request.ended >= now() for request in requests), "it runs for nobody"
        assert (timeout is None) == any(request.timeout is None for request in requests)
        if timeout is not None:
            assert abs(now() + timeout - max(request.deadline for request in requests)) <= SOON
        fresh = [request for request in requests if not request.left]
        if fresh:
            assert self.running <= 2 * self.runners.get(now(), self.queue.runners)
            self.check_order(requests)
        for request in requests:
            request.left = True

    def check_order(self, requests: list[Request]) -> None:
        """Nobody who waits should have gone before all of these: so it is known who waits longest, and how long."""
        if self.config["max_queue_delay_ms"]:
            return
        first = min(request.rank for request in requests)
        for other in self.requests:
            leaves = min(other.leaves, self.refused_from(other))
            waits = 0 <= other.arrival < now() < min(other.ended, leaves - SOON) and not other.left
            assert not waits or other.rank >= first - SOON

    def check(self) -> None:
        """At the end of every moment."""
        backlog, runners = self.queue._backlog, self.queue.runners
        assert self.queue._under_way == self.running
        live = [entry[2] for queue in backlog._queues.values() for entry in queue.heap if entry[2].queue is queue]
        assert backlog.rows == sum(piece.rows for piece in live) == sum(backlog._rows_at)
        splits = {piece.split for piece in live if piece.split}
        assert len(splits) == sum(piece.split is not None for piece in live), "of a large request one piece waits"
        assert backlog.later == sum(split.rest for split in splits)
        assert backlog.nbytes == sum(piece.nbytes for piece in live) + sum(s.rest * s.row_bytes for s in splits)
        assert not any(piece.future.done() for piece in live)
        delay = self.config["max_queue_delay_ms"] * MS
        same = len({piece.level for piece in live}) == 1  # else the first to leave may not be the first that came
        due = [piece for piece in live if not delay or (same and piece.arrival + delay < now() - SOON)]
        held = self.queue._hold.plan
        since = max(self.absences[-1][0], min((piece.arrival for piece in live), default=0.0))
        assert runners or not live or now() <= since + self.longest_wait + SOON
        assert self.running >= runners or not due or held, "a runner idles"
        if held and live:
            self.check_held(live)
        widths: Counter[object] = Counter()
        requests: Counter[object] = Counter()
        for piece in live:
            widths[piece.shape] += piece.rows
            requests[piece.shape] += 1
        largest = max(self.config["max_batch_size"], self.smallest)
        ample = [rows for shape, rows in widths.items() if 2 * rows > largest or requests[shape] > MANY_WAITING]
        assert backlog.ample == len(ample)
        assert self.running >= 2 * runners or held or not [rows for rows in ample if rows >= largest or not delay]

    def check_held(self, live: list[WorkItem]) -> None:
        """It is the last free runner that waits, not for long, and nobody's deadline passes meanwhile."""
        hold, plan = self.queue._hold, self.queue._hold.plan
        assert plan is not None
        longest = max(*self.services, 0) * MS
        assert self.queue._returns.out or self.running < self.queue.runners
        assert now() <= hold._began + plan.seconds + HOLD_TICK_S + SOON
        assert plan.seconds <= longest + SOON
        if self.running == self.queue.runners - 1 and len({piece.shape for piece in live}) == 1:
            assert not [piece for piece in live if piece.deadline and piece.deadline < hold._began + plan.seconds]

    def check_nothing_is_left(self) -> None:
        backlog = self.queue._backlog
        assert (backlog.rows, backlog.later, backlog.nbytes, backlog.ample, self.queue._under_way) == (0, 0, 0, 0, 0)
        assert (backlog._queues, set(backlog._rows_at), self.running) == ({}, {0}, 0)

    def check_figures(self) -> None:
        """Every answered run is counted, and every answered request has waited once, or again after a swap."""
        counted = [
            (version, rows)
            for version, row in self.figures.versions.items()
            for rows, numbers in row.batches.items()
            for _ in range(numbers[0])
        ]
        assert sorted(counted) == sorted(self.answered)
        assert self.figures.batch_rows().sum == sum(rows for _, rows in self.answered)
        waits, answers = self.figures.queued.count, sum(isinstance(each.outcome, Rows) for each in self.requests)
        assert waits >= answers
        if answers == len(self.requests) and not self.swaps:
            assert waits == answers

    def check_outcome(self, request: Request) -> None:
        outcome = request.outcome
        assert request.ended <= request.deadline + SOON
        if isinstance(outcome, Rows):
            assert request.kind == "plain"
            np.testing.assert_array_equal(outcome.outputs[0], request.arrays[0] * 2)
            assert set(outcome.outputs[1].tolist()) <= {outcome.version}
            assert 1 <= outcome.version <= self.version
        elif isinstance(outcome, DeadlineExceeded):
            assert request.ended >= request.deadline - EARLY
        elif isinstance(outcome, asyncio.CancelledError):
            assert request.cancel_after is not None
        elif isinstance(outcome, QueueFull):
            assert request.ended == request.arrival
        elif isinstance(outcome, NoReplica):
            waited_from = request.ended - ENOUGH * self.longest_wait + SOON
            assert request.arrival <= waited_from
            assert any(since <= waited_from and request.ended <= end + SOON for since, end in self.absences)
        elif isinstance(outcome, PoisonRequest):
            assert sum(isinstance(error, ReplicaDied) for error in request.met) >= 2
        elif isinstance(outcome, Guilty):
            assert request.kind == "guilty"
        else:
            assert isinstance(outcome, TryAgain)
            assert not isinstance(outcome, ReplicaDied)
            assert any(type(error) is TryAgain for error in request.met)
        if request.kind == "deadly" and request.rows <= max(self.config["max_batch_size"], self.smallest):
            assert sum(isinstance(error, ReplicaDied) for error in request.met) <= 2


def sometimes(usual: Any, others: Sequence[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(usual), st.just(usual), st.sampled_from(others))


requests = st.builds(
    Request,
    gap=st.sampled_from([0, 0, 0, 1, 2, 5, 40]),
    rows=st.sampled_from([1, 1, 1, 2, 3, 7, 20]),
    width=sometimes(1, [2, 3]),
    priority=sometimes(0, [1, 4, 5, 9]),
    timeout=sometimes(None, [1, 3, 8, 20]),
    cancel_after=sometimes(None, [0, 1, 4, 10]),
    kind=sometimes("plain", ["plain", "plain", "guilty", "deadly"]),
)
configs = st.fixed_dictionaries(
    {
        "max_batch_size": st.integers(1, 8),
        "max_queue_delay_ms": sometimes(0.0, [2.0]),
        "max_queued_rows": sometimes(4096, [20]),
        "max_queued_bytes": sometimes(2**28, [200]),
        "max_queue_wait_ms": sometimes(None, [5.0]),
    }
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(requests, min_size=1, max_size=30),
    services=st.lists(st.sampled_from([0, 1, 2, 3, 10]), min_size=1, max_size=5),
    scaling=st.lists(st.tuples(st.sampled_from([0, 1, 5, 20]), st.integers(0, 3)), max_size=5),
    swaps=st.lists(st.sampled_from([0, 1, 3, 9]), max_size=4),
    errors=st.dictionaries(st.integers(0, 20), st.sampled_from(["unavailable", "deadly"]), max_size=2),
    config=configs,
    smallest=sometimes(0, [2, 5]),
)
@example(  # pieces that come back to the queue while their batch runs again in parts
    requests=[Request(0, 20), Request(0, 1), Request(0, 1), Request(0, 1)],
    services=[1],
    scaling=[],
    swaps=[1],
    errors={2: "deadly"},
    config={"max_batch_size": 8, "max_queue_delay_ms": 0.0, "max_queue_wait_ms": None},
    smallest=0,
)
def test_whatever_comes(
    requests: list[Request],
    services: list[int],
    scaling: list[tuple[int, int]],
    swaps: list[int],
    errors: dict[int, str],
    config: dict[str, Any],
    smallest: int,
) -> None:
    for request in requests:
        request.rows = max(request.rows, smallest)
    simulated(World(requests, services, scaling, swaps, errors, config, smallest).play())
