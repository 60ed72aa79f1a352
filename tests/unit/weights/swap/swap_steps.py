"""Steps of a swap that its tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aoti_serve.errors import (
    StoreFailed,
)
from aoti_serve.weights.swap.states import Phase
from aoti_serve.weights.version import Committed
from tests.unit.weights.swap.simulated_cluster import World
from tests.unit.weights.swap.simulated_memory import OLD, settled

FULL = StoreFailed(path="/store", detail="No space left on device")


def staged_once(world: World) -> list[bool]:
    """For each replica, whether it has written anything since it became ready."""
    return [replica.memory.writes > 1 for replica in world.replicas]


async def until(world: World, happened: Callable[[], bool]) -> None:
    await settled()
    while not happened():
        assert await world.advance(), "it never happens"


async def staging(world: World, steps: int = 4) -> asyncio.Future[Committed]:
    """A swap under way, a few steps into its staging."""
    task = world.coordinator.swap()
    for _ in range(steps):
        await world.advance()
    assert world.coordinator.phases == [Phase.STAGING]
    return task


async def committing(world: World) -> asyncio.Future[Committed]:
    """A swap whose commit is being written: everybody has staged."""
    task = world.coordinator.swap()
    await until(world, lambda: world.coordinator.writing.occupied)
    return task


async def failed(world: World, task: asyncio.Future[Committed]) -> BaseException:
    """How it failed; nothing has changed."""
    outcome = await world.finish(task)
    assert isinstance(outcome, BaseException)
    assert (world.store.committed, world.serving()) == (OLD, {7} if world.replicas else set())
    return outcome


async def staging_missed_by(world: World, name: str) -> None:
    """A swap that everybody has staged and that was aborted; one member never hears of the abort."""
    task = await committing(world)
    world.members[name].paused = True
    world.coordinator.commit_error = FULL
    await failed(world, task)
    world.lose(world.members[name])
    world.coordinator.commit_error = None
