"""Members that come while a swap is under way."""

from __future__ import annotations

import pytest

from aoti_serve.errors import (
    StageFailed,
    UnknownTensor,
)
from aoti_serve.weights.version import Committed
from tests.unit.weights.swap.simulated_cluster import world_of
from tests.unit.weights.swap.simulated_members import Member
from tests.unit.weights.swap.simulated_memory import OLD, settled
from tests.unit.weights.swap.swap_steps import failed, staging, until


async def test_a_newcomer_during_the_staging_stages_too_before_it_is_ready() -> None:
    async with world_of() as world:
        world.replica("r1").deaf = True
        task = await staging(world)
        newcomer = world.add_replica("new")
        await until(world, lambda: newcomer.ready)
        assert not task.done()
        assert newcomer.follower.staged is not None
        world.replica("r1").deaf = False
        assert await world.finish(task) == world.store.committed
        assert world.serving() == {8}


async def test_a_newcomer_that_cannot_stage_stops_the_swap() -> None:
    async with world_of() as world:
        world.replica("r1").paused = True
        task = await staging(world, steps=8)
        newcomer = world.add_replica("new")
        await until(world, lambda: newcomer.epoch == OLD.epoch)
        newcomer.memory.broken = UnknownTensor(name="w")
        with pytest.raises(StageFailed, match="replica new"):
            raise await failed(world, task)
        await world.check_recovers()


async def test_a_newcomer_that_never_gets_ready_holds_nobody_up() -> None:
    async with world_of() as world:
        newcomer = world.add_replica("new")
        newcomer.deaf = True
        await world.at_rest()
        assert await world.finish(world.coordinator.swap()) == world.store.committed
        assert newcomer.alive
        assert not newcomer.ready
        await world.check_recovers()


@pytest.mark.parametrize("steps", range(24))
@pytest.mark.parametrize("kind", ["replica", "gateway"])
async def test_a_newcomer_is_current_from_the_start(kind: str, steps: int) -> None:
    """Whenever it comes, and though it is slower than everybody else: each of its steps is the swap's whole rest."""
    async with world_of() as world:
        task = world.coordinator.swap()
        for _ in range(steps):
            await world.advance()
        newcomer: Member = world.add_replica("new") if kind == "replica" else world.add_gateway("new")
        for pace in range(12):
            newcomer.paused = False
            await settled()
            if world.can_step(newcomer):
                world.step(newcomer)
                await settled()
            newcomer.paused = not newcomer.ready
            for _ in range(pace):
                await world.advance()
        newcomer.paused = False
        assert await world.finish(task) == world.store.committed
        await world.check_recovers()
        assert newcomer.ready


@pytest.mark.parametrize("steps", range(14))
@pytest.mark.parametrize("kind", ["replica", "gateway"])
async def test_a_newcomer_that_stops_on_its_way_in_misses_no_swap(kind: str, steps: int) -> None:
    """A whole swap passes between two of its steps: it becomes ready with the new version, or the swap waits for it."""
    async with world_of() as world:
        newcomer: Member = world.add_replica("new") if kind == "replica" else world.add_gateway("new")
        for _ in range(steps):
            await settled()
            if world.can_step(newcomer):
                world.step(newcomer)
        await settled()
        newcomer.paused = True
        outcome = await world.finish(world.coordinator.swap())
        assert isinstance(outcome, Committed) or newcomer.name in str(outcome)
        newcomer.paused = False
        await world.at_rest()
        assert newcomer.epoch == world.store.committed.epoch
        await world.check_recovers()


async def test_a_superseded_coordinator_admits_nobody() -> None:
    """It still runs, and may know only what was committed before; a newcomer goes on to the next one."""
    async with world_of() as world:
        old, _ = world.coordinator, world.take_over()
        newcomer = world.add_replica("new")
        for _ in range(8):
            await settled()
            if world.can_step(newcomer):
                world.step(newcomer, at=old)
        assert old.alive
        assert not newcomer.ready
        await world.at_rest()
        assert newcomer.ready
