"""The commit of a swap: who is late is ended, and another coordinator completes it."""

from __future__ import annotations

import pytest

from aoti_serve.errors import (
    NotSettled,
    StageFailed,
    Superseded,
    UnknownTensor,
)
from aoti_serve.weights.swap.states import Phase
from tests.unit.weights.swap.simulated_cluster import world_of
from tests.unit.weights.swap.simulated_memory import OLD
from tests.unit.weights.swap.simulated_processes import Answer
from tests.unit.weights.swap.swap_steps import FULL, committing, failed, staged_once, until


async def test_a_commit_that_cannot_be_written_aborts_everywhere() -> None:
    async with world_of(replicas=3) as world:
        task = await committing(world)
        world.coordinator.commit_error = FULL
        assert await failed(world, task) is FULL
        assert staged_once(world) == [True, True, True]
        assert [replica.memory.staged for replica in world.replicas] == [None, None, None]


async def test_one_that_does_not_follow_the_commit_is_expelled() -> None:
    async with world_of(replicas=3) as world:
        task = await committing(world)
        sleeper = world.replica("r2")
        sleeper.paused = True
        assert await world.finish(task) == world.store.committed
        assert (sleeper.doomed, sleeper.alive) == (True, False), "the swap returns when its end is certain"
        assert {replica.epoch for replica in world.replicas} == {5}


@pytest.mark.parametrize("kind", ["r1", "g1"])
async def test_where_the_end_of_one_is_not_certain_the_swap_says_so(kind: str) -> None:
    """Cut off, it answers with the old version on; neither the coordinator nor the kill reaches it."""
    async with world_of(gateways=2) as world:
        early = [world.ask(gateway) for gateway in world.gateways]
        task = await committing(world)
        world.cut_off(world.members[kind])
        outcome = await world.finish(task)
        assert isinstance(outcome, NotSettled)
        assert (world.store.committed.epoch, world.returned) == (5, 4)
        world.run(world.replica("r0"), world.ask(world.gateways[0]))
        if kind == "r1":
            world.run(world.replica("r1"), early[0])
            assert not world.let_out(early[0]), "the gateways that follow keep its answers in"
        else:
            early[1].answer = Answer(OLD.epoch, OLD.version)
            assert world.let_out(early[1]), "which is why the swap has not returned"
        assert not world.coordinator.rules.settled
        world.join_up(world.members[kind])
        await world.time_passes()
        assert world.coordinator.rules.settled
        await world.check_recovers()


async def test_one_that_is_cut_off_for_good_counts_as_ended_after_two_minutes() -> None:
    """Its node has ended it by then: it hears nothing of the others either."""
    async with world_of() as world:
        task = await committing(world)
        world.cut_off(world.replica("r1"))
        assert isinstance(await world.finish(task), NotSettled)
        while not world.coordinator.rules.settled:
            await world.time_passes()
        assert not world.members["r1"].alive
        assert 60 < world.now < 150


async def test_members_of_a_coordinator_that_has_vanished_are_not_expelled() -> None:
    """They answer as they should all the while, and notice its silence before the next one loses its patience."""
    async with world_of() as world:
        crew = world.live
        world.coordinator.vanish()
        world.take_over()
        world.add_replica("new")
        for _ in range(400):
            await world.at_rest()
            await world.time_passes()
        assert all(member.alive and not member.doomed for member in crew)
        await world.check_recovers()


async def test_the_next_coordinator_knows_of_ends_that_are_not_certain() -> None:
    async with world_of(gateways=2) as world:
        task = await committing(world)
        world.cut_off(world.gateways[1])
        assert isinstance(await world.finish(task), NotSettled)
        world.coordinator.crash()
        world.take_over()
        assert isinstance(await world.finish(world.coordinator.swap()), NotSettled)
        await world.check_recovers()


async def test_a_frozen_gateway_that_notices_nothing_is_ended_before_the_swap_returns() -> None:
    async with world_of(gateways=2) as world:
        task = await committing(world)
        frozen = world.gateways[1]
        frozen.freeze()
        assert await world.finish(task) == world.store.committed
        assert not frozen.alive


async def test_a_gateway_that_was_stopped_holds_its_answers_until_it_knows_what_stands() -> None:
    async with world_of(gateways=1) as world:
        [gateway] = world.gateways
        request = world.ask(gateway)
        world.run(world.replica("r0"), request)
        gateway.paused = True
        for _ in range(4):
            await world.time_passes()
        gateway.paused = False
        assert not world.let_out(request)
        await world.at_rest()
        assert world.let_out(request)


async def test_a_stage_that_was_withdrawn_is_cancelled() -> None:
    """One replica refuses at once; the other need not write to the end what is not wanted any more."""
    async with world_of() as world:
        task = world.coordinator.swap()
        world.replica("r0").memory.broken = UnknownTensor(name="w")
        slow = world.replica("r1")
        await until(world, lambda: slow.gate.occupied)
        slow.deaf = True
        await until(world, lambda: world.coordinator.phases[-1] == Phase.ABORTING)
        await until(world, lambda: slow.memory.withdrawn)
        slow.deaf = False
        assert isinstance(await failed(world, task), StageFailed)
        await world.check_recovers()


async def test_a_gateway_that_does_not_hear_of_the_commit_is_ended() -> None:
    async with world_of(gateways=2) as world:
        task = await committing(world)
        gateway = world.gateways[1]
        gateway.paused = True
        await world.finish(task)
        assert not gateway.alive


async def test_what_two_have_staged_only_the_newest_coordinator_commits() -> None:
    async with world_of() as world:
        task = await committing(world)
        world.take_over()
        assert isinstance(await failed(world, task), Superseded)
        await world.check_recovers()


async def test_one_that_was_followed_ends_nobody() -> None:
    """Its members report to the next coordinator; to it they only seem to be silent."""
    async with world_of() as world:
        task = await committing(world)
        old, crew = world.coordinator, world.live
        for member in crew:
            member.paused = True
        await until(world, lambda: Phase.COMMITTING in old.phases)
        world.take_over()
        for member in crew:
            world.lose(member)
            member.paused = False
        outcome = await world.finish(task)
        assert isinstance(outcome, NotSettled)
        assert "followed" in str(outcome)
        assert (world.store.committed.epoch, world.serving(), world.returned) == (5, {8}, 4)
        assert not any(member.doomed for member in crew)
        await world.check_recovers()
        assert world.live == crew


async def test_a_commit_is_completed_by_the_next_coordinator() -> None:
    """Between the commit point and the first that hears of it the coordinator dies."""
    async with world_of() as world:
        task = await committing(world)
        world.coordinator.dies_after_commit = True
        await world.finish(task)
        assert (world.store.committed.epoch, world.serving(), world.returned) == (5, {7}, 4)
        world.take_over()
        await world.at_rest()
        assert world.serving() == {8}
        await world.time_passes()
        await world.check_recovers()


async def test_of_whom_a_new_coordinator_has_heard_nothing_is_waited_for() -> None:
    async with world_of() as world:
        world.replica("r1").paused = True
        world.coordinator.crash()
        world.take_over()
        with pytest.raises(StageFailed, match="replica r1"):
            raise await failed(world, world.coordinator.swap())
