"""Candidates: staged everywhere, committed nowhere, until they are promoted or withdrawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aoti_serve.errors import StageFailed, UnknownTensor
from aoti_serve.weights.swap.states import Phase
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.version import Committed
from tests.unit.weights.swap.simulated_cluster import World, world_of
from tests.unit.weights.swap.simulated_members import Member
from tests.unit.weights.swap.simulated_memory import OLD, Withdrawn
from tests.unit.weights.swap.swap_faults import AT_A_MEMBER, AT_THE_COORDINATOR
from tests.unit.weights.swap.swap_steps import FULL, until


async def held(world: World) -> None:
    """A candidate is out: version 8."""
    assert await world.finish(world.coordinator.hold()) == OLD
    await world.at_rest()
    world.check_held()


async def test_a_candidate_is_staged_everywhere_and_committed_nowhere() -> None:
    async with world_of(replicas=3, gateways=2) as world:
        await held(world)
        assert world.coordinator.phases == [Phase.STAGING, Phase.CANDIDATE]
        assert (world.store.committed, world.serving()) == (OLD, {7})
        assert {gateway.fence.candidate.version.number for gateway in world.gateways if gateway.fence.candidate} == {8}


async def test_gateways_hear_of_it_only_when_all_replicas_hold_it() -> None:
    async with world_of(replicas=2, gateways=1) as world:
        world.replica("r1").deaf = True
        world.coordinator.hold()
        await world.at_rest()
        assert [gateway.fence.candidate for gateway in world.gateways] == [None]
        world.replica("r1").deaf = False
        await world.at_rest()
        world.check_held()


async def test_a_promotion_moves_no_data() -> None:
    async with world_of(replicas=3) as world:
        await held(world)
        writes = [replica.memory.writes for replica in world.replicas]
        new = await world.finish(world.coordinator.promote())
        assert isinstance(new, Committed)
        assert (new.epoch, new.version.number) == (5, 8)
        world.check_whole()
        assert [replica.memory.writes for replica in world.replicas] == writes


async def test_a_withdrawal_frees_it_everywhere() -> None:
    async with world_of(replicas=3) as world:
        await held(world)
        assert isinstance(await world.finish(world.coordinator.withdraw()), Withdrawn)
        world.check_whole()
        assert (world.store.committed, world.serving()) == (OLD, {7})


async def test_a_withdrawal_ends_a_gateway_that_does_not_hear_of_it() -> None:
    async with world_of(replicas=2, gateways=2) as world:
        await held(world)
        world.members["g1"].paused = True
        await world.finish(world.coordinator.withdraw())
        assert world.members["g1"].doomed


async def test_exposures_reach_the_gateways_and_no_replica_does_anything() -> None:
    async with world_of() as world:
        await held(world)
        writes = [replica.memory.writes for replica in world.replicas]
        world.coordinator.swap_under_way.expose(Exposure(share=0.25, shadow=0.1))
        world.coordinator.carry_out()
        await world.at_rest()
        for gateway in world.gateways:
            assert gateway.fence.candidate is not None
            assert gateway.fence.candidate.exposure == Exposure(share=0.25, shadow=0.1)
        assert [replica.memory.writes for replica in world.replicas] == writes


async def test_a_replica_that_dies_leaves_the_candidate_out() -> None:
    async with world_of(replicas=2) as world:
        await held(world)
        world.kill(world.members["r1"])
        await world.time_passes()
        await world.at_rest()
        world.check_held()


async def test_a_newcomer_holds_the_candidate_before_it_takes_part() -> None:
    async with world_of() as world:
        await held(world)
        newcomer = world.add_replica()
        await until(world, lambda: newcomer.ready)
        assert (newcomer.memory.answering, newcomer.memory.staged) == (
            OLD.version,
            world.coordinator.swap_under_way.version,
        )


async def test_a_newcomer_that_cannot_stage_it_withdraws_it_everywhere() -> None:
    cause = UnknownTensor(name="w")
    async with world_of() as world:
        await held(world)
        newcomer = world.add_replica()
        await until(world, lambda: newcomer.memory.answering == OLD.version)
        newcomer.memory.broken = cause
        swap = world.coordinator.swap_under_way
        await until(world, lambda: world.coordinator.rules.swap is None)
        assert isinstance(swap.error, StageFailed)
        assert swap.error.facts["cause"] is cause
        await world.at_rest()
        assert world.serving() == {7}


async def test_a_promotion_that_cannot_be_stored_changes_nothing() -> None:
    async with world_of() as world:
        await held(world)
        world.coordinator.commit_error = FULL
        assert await world.finish(world.coordinator.promote()) == FULL
        world.check_whole()
        assert world.serving() == {7}


async def test_the_next_coordinator_goes_on_and_no_replica_stages_again() -> None:
    async with world_of() as world:
        await held(world)
        writes = [replica.memory.writes for replica in world.replicas]
        world.coordinator.crash()
        world.take_over()
        await world.at_rest()
        world.check_held()
        assert [replica.memory.writes for replica in world.replicas] == writes
        assert isinstance(await world.finish(world.coordinator.promote()), Committed)
        world.check_whole()


async def test_a_coordinator_that_dies_right_after_the_commit_leaves_no_candidate() -> None:
    async with world_of() as world:
        await held(world)
        world.coordinator.dies_after_commit = True
        world.coordinator.promote()
        await until(world, lambda: not world.coordinator.alive)
        world.take_over()
        await world.ends_well()
        world.check_whole()
        assert world.serving() == {8}


@pytest.mark.parametrize("decision", ["none", "promote", "withdraw"])
@pytest.mark.parametrize("fault", AT_THE_COORDINATOR)
async def test_whatever_befalls_the_coordinator_the_cluster_recovers(
    fault: Callable[[World], None], decision: str
) -> None:
    async with world_of(replicas=2, gateways=2) as world:
        await decided(world, decision)
        fault(world)
        await recovers(world)


@pytest.mark.parametrize("decision", ["none", "promote", "withdraw"])
@pytest.mark.parametrize("fault", AT_A_MEMBER)
@pytest.mark.parametrize("member", ["r1", "g1"])
async def test_whatever_befalls_a_member_the_cluster_recovers(
    fault: Callable[[World, Member], None], member: str, decision: str
) -> None:
    async with world_of(replicas=2, gateways=2) as world:
        await decided(world, decision)
        fault(world, world.members[member])
        await recovers(world)


async def decided(world: World, decision: str) -> None:
    await held(world)
    if decision == "promote":
        world.coordinator.promote()
    elif decision == "withdraw":
        world.coordinator.withdraw()
    await world.advance()


async def recovers(world: World) -> None:
    for _ in range(20):
        await world.advance()
    await world.time_passes()
    await world.check_recovers()
