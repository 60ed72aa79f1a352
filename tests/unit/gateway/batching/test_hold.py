"""When the last free runner waits for callers who were just answered, and when it does not."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoti_serve.gateway.batching.hold import HOLD_TICK_S
from aoti_serve.gateway.batching.measured.cost import Cost
from tests.unit.clock import in_simulated_time, now, settled, simulated
from tests.unit.gateway.batching.lab import Replica, batcher, outcomes, rows_of, submitted
from tests.unit.gateway.batching.traffic import FEATHER, FLAT, HEAVY, LIGHT, LINEAR, MS, Model, Pause, Traffic, closed

MODELS = [
    pytest.param(costs, id=name)
    for name, costs in [("light", LIGHT), ("heavy", HEAVY), ("linear", LINEAR), ("flat", FLAT), ("feather", FEATHER)]
]
ROUNDS = 120
Costs = list[tuple[int, float]]


def answered(
    costs: Costs, clients: int, *, today: bool, seed: int = 0, runners: int = 1, rounds: int = ROUNDS, **pause: float
) -> int:
    """How many requests of a closed loop, in the time of so many batches."""

    async def play() -> int:
        model = Model(costs, runners, noise=0.1)
        queue = model.batcher(never_holds=today)
        traffic = await closed(queue, clients, rounds * model.seconds(clients), seed, **pause)
        return len(traffic.waits)

    return simulated(play())


@pytest.mark.parametrize("seed", range(4))
def test_eight_clients_get_a_quarter_more_than_if_a_free_runner_never_waited(seed: int) -> None:
    today, held = [
        answered(LIGHT, 8, today=today, seed=seed, rounds=500, way=0.1 * MS, each=0.01 * MS) for today in (True, False)
    ]
    assert held >= 1.25 * today


@pytest.mark.parametrize("clients", [2, 4, 8, 16])
def test_where_a_batch_costs_little_more_than_a_row_the_clients_run_together(clients: int) -> None:
    assert answered(HEAVY, clients, today=False) >= 1.5 * answered(HEAVY, clients, today=True)


@pytest.mark.parametrize("runners", [1, 2])
@pytest.mark.parametrize("clients", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("costs", MODELS)
def test_no_closed_loop_loses_by_it(costs: Costs, clients: int, runners: int) -> None:
    today = answered(costs, clients, today=True, runners=runners)
    assert answered(costs, clients, today=False, runners=runners) >= 0.93 * today


@pytest.mark.parametrize("costs", MODELS)
@in_simulated_time
async def test_one_client_alone_is_never_delayed(costs: Costs) -> None:
    model = Model(costs)
    traffic = Traffic(model.batcher())
    await traffic.client(100 * model.seconds(1), Pause(Random(0)))
    assert traffic.waits == [pytest.approx(model.seconds(1))] * len(traffic.waits)


@in_simulated_time
async def test_who_stays_when_the_others_have_left_is_delayed_once_or_twice() -> None:
    model = Model(HEAVY)
    queue = model.batcher()
    await closed(queue, 4, 3.0)
    traffic = Traffic(queue)
    await traffic.client(3.0, Pause(Random(0)))
    assert sum(wait > 1.01 * model.seconds(1) for wait in traffic.waits) <= 2
    assert max(traffic.waits) <= 2 * model.seconds(1)


@pytest.mark.parametrize("load", [0.03, 0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("costs", MODELS)
def test_a_crowd_that_comes_whatever_happens_waits_hardly_longer(costs: Costs, load: float) -> None:
    async def play(today: bool) -> tuple[float, float]:
        model = Model(costs, noise=0.1)
        traffic = Traffic(model.batcher(never_holds=today))
        per_second = load * 64 / model.seconds(64)
        await traffic.crowd(2500 / per_second, per_second)
        return traffic.mean, sorted(traffic.waits)[int(0.99 * len(traffic.waits))]

    (mean, late), (mean_today, late_today) = simulated(play(today=False)), simulated(play(today=True))
    assert mean <= 1.1 * mean_today
    assert late <= 1.25 * late_today


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    fixed=st.sampled_from([0.1, 0.5, 2.0, 20.0]),
    each=st.sampled_from([0.0, 0.05, 0.5]),
    noise=st.sampled_from([0.0, 0.3, 3.0]),
    clients=st.lists(st.tuples(st.sampled_from([0.05, 0.2, 1.0, 7.0]), st.integers(1, 3)), min_size=1, max_size=12),
    crowd=st.sampled_from([0.0, 10.0, 500.0]),
    runners=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_nobody_waits_for_others_longer_than_two_runs_take(
    fixed: float,
    each: float,
    noise: float,
    clients: list[tuple[float, int]],
    crowd: float,
    runners: int,
    seed: int,
) -> None:
    """Whoever comes and goes: a run before it, a hold that is never longer than one, and its own."""

    async def play() -> None:
        model = Model([(1, fixed + each), (64, fixed + 64 * each)], runners, noise)
        traffic = Traffic(model.batcher())
        async with asyncio.TaskGroup() as group:
            for way, rows in clients:
                seconds = 0.1 * Random(seed).uniform(0.3, 1)
                group.create_task(traffic.client(seconds, Pause(Random(seed), way * MS), rows=rows))
            if crowd:
                group.create_task(traffic.crowd(0.05, crowd, seed))
        longest = (fixed + 64 * each) * MS * (1 + noise)
        assert max(traffic.waits) <= 3 * longest + 2 * HOLD_TICK_S

    simulated(play())


@in_simulated_time
async def test_a_hold_lets_no_deadline_pass() -> None:
    model = Model(FLAT)
    queue = model.batcher()
    await closed(queue, 4, 0.2)
    traffic = Traffic(queue)
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(traffic.client(0.2, Pause(Random(0)), timeout=2.1 * FLAT[0][1] * MS))
    assert len(traffic.waits) > 4 * 40


@in_simulated_time
async def test_rows_of_another_shape_end_a_hold() -> None:
    model = Model(FLAT)
    queue = model.batcher()
    await closed(queue, 2, 0.1)
    task = asyncio.create_task(Traffic(queue).client(0.1, Pause(Random(0))))
    other = asyncio.create_task(Traffic(queue).client(0.1, Pause(Random(1))))
    while queue._hold.plan is None:
        await asyncio.sleep(0.01 * MS)
    start = now()
    await queue.submit(rows_of(1, width=2))
    assert now() - start <= 2 * 2 * MS + 0.01 * MS
    await asyncio.gather(task, other)


def test_what_a_batch_costs_is_between_what_its_neighbours_have_cost() -> None:
    cost = Cost()
    assert cost.seconds(5) == 0
    for rows, seconds in [(2, 2.0), (6, 4.0)]:
        cost.note(rows, seconds)
    assert [cost.seconds(rows) for rows in (0, 1, 2, 4, 6, 60)] == [0, 1, 2, 3, 4, 4]


def test_what_takes_once_much_longer_changes_the_cost_little() -> None:
    cost = Cost()
    for _ in range(20):
        cost.note(4, 1.0)
    cost.note(4, 1000.0)
    assert cost.seconds(4) == pytest.approx(1.3)


@in_simulated_time
async def test_a_large_request_takes_turns_with_small_ones() -> None:
    replica = Replica(seconds=0.01, version=1)
    queue = batcher(replica, max_batch_size=4)
    [large] = submitted(queue, rows_of(1, rows=2000))
    waits = []
    for _ in range(50):
        await asyncio.sleep(0.05)
        start = now()
        await queue.submit(rows_of(2))
        waits.append(now() - start)
    assert not large.done()
    assert max(waits) <= 4 * 0.01 + 1 * MS
    await large
    assert now() <= 500 * 0.01 + 51 * 0.01


@in_simulated_time
async def test_behind_a_crowd_a_large_request_goes_on() -> None:
    """Every other batch is its own, whoever comes."""
    replica = Replica(seconds=0.01, version=1)
    queue = batcher(replica, max_batch_size=1, max_queue_wait_ms=None)
    [large] = submitted(queue, rows_of(1, rows=50))
    crowd = asyncio.create_task(Traffic(queue).crowd(3.0, 45.0))
    await large
    assert now() <= 2.2 * 50 * 0.01
    await crowd


@in_simulated_time
async def test_small_requests_are_not_refused_for_all_the_rows_of_a_large_one() -> None:
    replica = Replica(seconds=0.1, version=1)
    queue = batcher(replica, max_batch_size=4, max_queue_wait_ms=500)
    tasks = submitted(queue, rows_of(1, rows=400))
    await asyncio.sleep(2)
    tasks += submitted(queue, *map(rows_of, range(4)))
    await outcomes(tasks[1:])
    assert not tasks[0].done()
    assert [task.exception() for task in tasks[1:]] == [None] * 4
    tasks[0].cancel()


@in_simulated_time
async def test_a_large_request_is_cut_as_it_runs() -> None:
    replica = Replica(held=True, version=1)
    queue = batcher(replica)
    [task] = submitted(queue, rows_of(1, rows=65_536))
    await settled()
    assert (queue._backlog.rows, queue.rows, len(replica.batches)) == (256, 65_536, 2)
    task.cancel()
    await settled()
    assert (queue._backlog.rows, queue._backlog.later, queue._backlog.nbytes) == (0, 0, 0)
