"""The swap: all members hold the new version, or all hold the old one. Its course, and what stops it."""

from __future__ import annotations

import pytest

from aoti_serve.errors import (
    StageFailed,
    Unavailable,
    UnknownTensor,
)
from aoti_serve.weights.swap.states import Phase
from tests.unit.weights.swap.simulated_cluster import world_of
from tests.unit.weights.swap.simulated_memory import OLD
from tests.unit.weights.swap.swap_steps import FULL, committing, failed, staged_once, staging, staging_missed_by, until

# --- the ordinary course -----------------------------------------------------------------------------------------


async def test_all_members_change_when_all_are_good() -> None:
    async with world_of(replicas=3, gateways=2) as world:
        crew = world.live
        new = await world.finish(world.coordinator.swap())
        assert new == world.store.committed
        assert (world.store.committed.epoch, world.store.committed.version.number) == (5, 8)
        assert world.coordinator.phases == [Phase.STAGING, Phase.COMMITTING]
        assert world.returned == 5
        world.check_whole()
        assert world.live == crew


async def test_when_a_swap_returns_everybody_is_there_already() -> None:
    async with world_of(replicas=3, gateways=2) as world:
        task = world.coordinator.swap()
        await until(world, task.done)
        assert {replica.epoch for replica in world.replicas} == {5}
        assert {gateway.settled for gateway in world.gateways} == {5}


async def test_nobody_commits_before_everybody_has_staged() -> None:
    async with world_of(replicas=3) as world:
        await committing(world)
        assert staged_once(world) == [True, True, True]
        assert world.serving() == {7}


@pytest.mark.parametrize("gateways", [0, 1])
async def test_without_replicas_nothing_is_committed_but_the_way_back(gateways: int) -> None:
    """Weights that end every replica must be left again, though nobody is there to stage others."""
    async with world_of(replicas=0, gateways=gateways) as world:
        error = await failed(world, world.coordinator.swap())
        assert isinstance(error, Unavailable)
        assert world.store.committed == OLD
        assert await world.finish(world.coordinator.swap(without_replicas=True)) == world.store.committed
        assert world.store.committed.epoch == 5


async def test_a_rollback_moves_no_data() -> None:
    async with world_of() as world:
        await world.finish(world.coordinator.swap())
        writes = [replica.memory.writes for replica in world.replicas]
        await world.finish(world.coordinator.swap(OLD.version))
        assert world.serving() == {7}
        assert world.store.committed.epoch == 6
        assert [replica.memory.writes for replica in world.replicas] == writes


# --- somebody cannot stage ---------------------------------------------------------------------------------------


async def test_one_that_cannot_stage_stops_the_swap_and_is_named() -> None:
    cause = UnknownTensor(name="w")
    async with world_of(replicas=3) as world:
        task = world.coordinator.swap()
        await until(world, lambda: staged_once(world)[:2] == [True, True])
        world.replica("r2").memory.broken = cause
        error = await failed(world, task)
        assert isinstance(error, StageFailed)
        assert (error.facts["replica"], error.facts["version"], error.facts["cause"]) == ("r2", 8, cause)
        assert error.http_status == 400
        assert world.coordinator.phases == [Phase.STAGING, Phase.ABORTING]
        assert [replica.memory.staged for replica in world.replicas] == [None, None, None]


async def test_one_that_never_answers_is_late() -> None:
    async with world_of(replicas=3) as world:
        world.replica("r2").deaf = True
        error = await failed(world, world.coordinator.swap())
        with pytest.raises(StageFailed, match=r"replica r2 .*no answer within 3 s"):
            raise error


async def test_one_that_failed_is_named_before_one_that_is_late() -> None:
    async with world_of(replicas=3) as world:
        world.replica("r0").paused = True
        world.replica("r2").memory.broken = UnknownTensor(name="w")
        with pytest.raises(StageFailed, match="replica r2"):
            raise await failed(world, world.coordinator.swap())


async def test_a_gateway_that_does_not_answer_stops_the_swap_too() -> None:
    """It could let out old answers afterwards."""
    async with world_of() as world:
        world.gateways[0].paused = True
        with pytest.raises(StageFailed, match="replica g0"):
            raise await failed(world, world.coordinator.swap())


async def test_one_that_does_not_free_its_buffer_does_not_hold_up_the_others() -> None:
    async with world_of(replicas=3) as world:
        task = await committing(world)
        world.replica("r2").paused = True
        world.coordinator.commit_error = FULL
        assert await failed(world, task) is FULL
        assert [replica.memory.staged for replica in world.replicas[:2]] == [None, None]
        assert world.replica("r2").memory.staged is not None
        await world.check_recovers()


# --- what is left of earlier swaps -------------------------------------------------------------------------------


async def test_one_that_failed_an_earlier_swap_is_not_taken_for_failing_this_one() -> None:
    async with world_of() as world:
        world.replica("r1").follower.failed = "an earlier swap"
        world.replica("r1").membership.tell()
        world.hear_all(world.replica("r1"))
        assert await world.finish(world.coordinator.swap()) == world.store.committed


async def test_an_earlier_failure_is_not_the_cause_of_this_one() -> None:
    async with world_of() as world:
        replica = world.replica("r1")
        replica.follower.failed, replica.follower.error = "an earlier swap", UnknownTensor(name="w")
        replica.membership.tell()
        world.hear_all(replica)
        replica.paused = True
        with pytest.raises(StageFailed, match="no answer"):
            raise await failed(world, world.coordinator.swap())


async def test_one_that_still_holds_an_earlier_swap_stages_this_one() -> None:
    async with world_of() as world:
        await staging_missed_by(world, "r1")
        world.replica("r1").paused = False
        assert await world.finish(world.coordinator.swap()) == world.store.committed
        assert world.serving() == {9}


async def test_one_that_holds_only_an_earlier_swap_has_not_staged_this_one() -> None:
    async with world_of() as world:
        await staging_missed_by(world, "r1")
        assert [report.staged is not None for report in world.coordinator.reports if report.member == "r1"] == [True]
        with pytest.raises(StageFailed, match=r"replica r1 could not stage version 9.*no answer"):
            raise await failed(world, world.coordinator.swap())


async def test_one_that_failed_this_swap_frees_what_it_had_staged_for_the_last() -> None:
    """Its abort it has not seen; what was staged must not stay when the new one is refused before a byte moves."""
    async with world_of() as world:
        await staging_missed_by(world, "r1")
        replica = world.replica("r1")
        replica.paused, replica.memory.broken = False, UnknownTensor(name="w")
        with pytest.raises(StageFailed, match="replica r1"):
            raise await failed(world, world.coordinator.swap())
        await world.check_recovers()


# --- death and cancellation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [["r2"], ["r0", "r1", "r2"]], ids=["one", "all"])
async def test_weights_that_end_a_replica_while_it_stages_are_not_committed(dead: list[str]) -> None:
    async with world_of(replicas=3) as world:
        task = await staging(world)
        for name in dead:
            world.kill(world.replica(name))
        error = await failed(world, task)
        assert isinstance(error, StageFailed)
        assert error.facts["replica"] in dead
        assert "its process has ended" in str(error)
        assert world.store.committed == OLD
        await world.check_recovers()


async def test_one_that_leaves_in_peace_while_it_stages_is_not_waited_for() -> None:
    async with world_of(replicas=3) as world:
        task = await staging(world)
        world.leave(world.replica("r2"))
        world.kill(world.replica("r2"))
        assert await world.finish(task) == world.store.committed
        assert world.serving() == {8}


async def test_one_that_leaves_already_when_a_swap_begins_does_not_fail_it_by_its_end() -> None:
    async with world_of(replicas=3) as world:
        world.leave(world.replica("r2"))
        task = await staging(world)
        world.kill(world.replica("r2"))
        assert await world.finish(task) == world.store.committed
        assert world.serving() == {8}


async def test_one_that_dies_after_it_has_staged_is_not_waited_for() -> None:
    async with world_of(replicas=3) as world:
        task = world.coordinator.swap()
        await until(world, lambda: "r2" in [report.member for report in world.coordinator.reports if report.staged])
        world.kill(world.replica("r2"))
        assert await world.finish(task) == world.store.committed
        assert world.serving() == {8}
