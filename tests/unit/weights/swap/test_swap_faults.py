"""All new or all old, whatever goes wrong, at every step, at whomever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aoti_serve.errors import (
    AotiServeError,
    NotSettled,
)
from aoti_serve.weights.version import Committed
from tests.unit.weights.swap.simulated_cluster import World, world_of
from tests.unit.weights.swap.simulated_coordinator import Coordinator
from tests.unit.weights.swap.simulated_members import Member
from tests.unit.weights.swap.simulated_memory import Gone
from tests.unit.weights.swap.simulated_processes import Request
from tests.unit.weights.swap.swap_faults import AT_A_MEMBER, AT_THE_COORDINATOR


async def _with_fault_after(steps: int, fault: Callable[[World], None]) -> bool:
    """Run a swap into the fault and what follows into the end; False if the swap had ended before."""
    async with world_of() as world:
        coordinator, early = world.coordinator, [world.ask(gateway) for gateway in world.gateways]
        task = coordinator.swap()
        for _ in range(steps):
            await world.advance()
        ended = task.done()
        requests = _answered(world, early)
        fault(world)
        outcome = await world.finish(task)
        _check_outcome(world, coordinator, outcome)
        for member in world.live:
            member.paused = False
        requests += _answered(world, early)
        for request in requests:
            world.let_out(request)
        await world.check_recovers()
        return not ended


def _answered(world: World, asked: list[Request]) -> list[Request]:
    """The same requests at every replica that takes them."""
    copies = [(replica, Request(each.gateway, each.fence)) for each in asked for replica in world.replicas]
    able = [(replica, request) for replica, request in copies if world.answers(replica, request)]
    for replica, request in able:
        world.run(replica, request)
    return [request for _, request in able]


def _check_outcome(world: World, coordinator: Coordinator, outcome: Committed | BaseException) -> None:
    """Success means committed by this swap; an error means that it has not, unless another coordinator goes on."""
    if isinstance(outcome, Committed):
        assert outcome == world.store.history[5]
        assert outcome.version.number == 8
    else:
        assert isinstance(outcome, AotiServeError | Gone), repr(outcome)
        by_it = [each for each in world.store.history.values() if each.version.number == 8]
        assert isinstance(outcome, NotSettled) or not by_it or not coordinator.current
        assert by_it or not isinstance(outcome, NotSettled)


async def _at_every_step(fault: Callable[[World], None]) -> None:
    steps = 0
    while await _with_fault_after(steps, fault):
        steps += 1
    assert steps > 20, "there was no swap to disturb"


@pytest.mark.parametrize("fault", AT_THE_COORDINATOR)
async def test_all_new_or_all_old_whatever_befalls_the_coordinator(fault: Callable[[World], None]) -> None:
    await _at_every_step(fault)


@pytest.mark.parametrize("name", ["r0", "r1", "g0"])
@pytest.mark.parametrize("fault", AT_A_MEMBER)
async def test_all_new_or_all_old_whatever_befalls_a_member(fault: Callable[[World, Member], None], name: str) -> None:
    await _at_every_step(lambda world: fault(world, world.members[name]))
