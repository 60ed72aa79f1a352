"""The swap: all members hold the new version, or all hold the old one, whatever goes wrong, whenever, at whomever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aoti_serve.errors import (
    AotiServeError,
    NotSettled,
    StageFailed,
    StoreFailed,
    Superseded,
    Unavailable,
    UnknownTensor,
)
from aoti_serve.weights.swap.swap import Phase
from aoti_serve.weights.version import Committed
from tests.unit.weights.swap.simulated_cluster import (
    OLD,
    TICK,
    Answer,
    Coordinator,
    Gone,
    Member,
    Replica,
    Request,
    World,
    a_world,
    settled,
    world_of,
)

T = TypeVar("T")
P = ParamSpec("P")
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


async def staging_missed_by(world: World, name: str) -> None:
    """A swap that everybody has staged and that was aborted; one member never hears of the abort."""
    task = await committing(world)
    world.members[name].paused = True
    world.coordinator.commit_error = FULL
    await failed(world, task)
    world.lose(world.members[name])
    world.coordinator.commit_error = None


# --- the commit --------------------------------------------------------------------------------------------------


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


# --- newcomers ---------------------------------------------------------------------------------------------------


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


async def test_one_that_dies_after_it_has_staged_is_not_waited_for() -> None:
    async with world_of(replicas=3) as world:
        task = world.coordinator.swap()
        await until(world, lambda: "r2" in [report.member for report in world.coordinator.reports if report.staged])
        world.kill(world.replica("r2"))
        assert await world.finish(task) == world.store.committed
        assert world.serving() == {8}


# --- every step, every participant -------------------------------------------------------------------------------


def _crashes(world: World) -> None:
    world.coordinator.crash()


def _is_followed(world: World) -> None:
    """Another coordinator starts while the first goes on."""
    world.take_over()


def _is_followed_by_one_that_swaps(world: World) -> None:
    world.take_over().swap()


def _crashes_and_is_followed(world: World) -> None:
    world.coordinator.crash()
    world.take_over()


def _vanishes_and_is_followed(world: World) -> None:
    """Its machine has lost its power: members' connections to it do not end."""
    world.coordinator.vanish()
    world.take_over()


def _dies_after_commit(world: World) -> None:
    world.coordinator.dies_after_commit = True


def _cannot_commit(world: World) -> None:
    world.coordinator.commit_error = FULL


def _time_passes(world: World) -> None:
    for _ in range(8):
        world.now += TICK
        world.coordinator.tick()


def _hears_old_reports(world: World) -> None:
    for number in range(3):
        world.coordinator.hear_again(number)


AT_THE_COORDINATOR = [
    _crashes,
    _is_followed,
    _is_followed_by_one_that_swaps,
    _crashes_and_is_followed,
    _vanishes_and_is_followed,
    _dies_after_commit,
    _cannot_commit,
    _time_passes,
    _hears_old_reports,
]


def _cannot_stage(world: World, member: Member) -> None:
    if isinstance(member, Replica):
        member.memory.broken = RuntimeError("out of memory")


def _hangs(world: World, member: Member) -> None:
    member.deaf = True


def _is_stopped(world: World, member: Member) -> None:
    member.paused = True


def _dies(world: World, member: Member) -> None:
    world.kill(member)


def _is_replaced(world: World, member: Member) -> None:
    world.kill(member)
    if isinstance(member, Replica):
        world.add_replica()
    else:
        world.add_gateway()


def _loses_its_call(world: World, member: Member) -> None:
    world.lose(member)


def _is_stopped_and_the_coordinator_dies(world: World, member: Member) -> None:
    member.paused = True
    _crashes_and_is_followed(world)


def _dies_with_the_coordinator(world: World, member: Member) -> None:
    world.kill(member)
    _crashes(world)


def _is_frozen(world: World, member: Member) -> None:
    member.freeze()


def _is_cut_off(world: World, member: Member) -> None:
    world.cut_off(member)


def _is_cut_off_and_the_coordinator_dies(world: World, member: Member) -> None:
    world.cut_off(member)
    _crashes_and_is_followed(world)


def _gets_company(world: World, member: Member) -> None:
    newcomer: Member = world.add_replica() if isinstance(member, Replica) else world.add_gateway()
    newcomer.deaf = True


AT_A_MEMBER = [
    _cannot_stage,
    _hangs,
    _is_stopped,
    _dies,
    _is_replaced,
    _loses_its_call,
    _is_stopped_and_the_coordinator_dies,
    _dies_with_the_coordinator,
    _is_frozen,
    _is_cut_off,
    _is_cut_off_and_the_coordinator_dies,
    _gets_company,
]


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


# --- every order -------------------------------------------------------------------------------------------------

INDEX = st.integers(0, 5)
STEPS = st.integers(0, 40)
MOST = 5  # processes of a kind


def _pick(among: Sequence[T], number: int) -> T:
    return among[number % len(among)]


def played(
    method: Callable[Concatenate[AnyOrder, P], Coroutine[None, None, None]],
) -> Callable[Concatenate[AnyOrder, P], None]:
    """A rule that happens in the world's event loop, which has its way then, as far as nothing waits for a turn."""

    async def then_settled(machine: AnyOrder, *args: P.args, **kwargs: P.kwargs) -> None:
        await method(machine, *args, **kwargs)
        await settled()
        machine.world.check()

    def in_loop(machine: AnyOrder, /, *args: P.args, **kwargs: P.kwargs) -> None:
        machine.runner.run(then_settled(machine, *args, **kwargs))

    return wraps(method)(in_loop)


class AnyOrder(RuleBasedStateMachine):
    """Hypothesis chooses what happens next; the world checks P1, P3, P5 as it goes, P2, P6 and progress at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = self.runner.run(a_world(replicas=0, gateways=0))
        self.requests: list[Request] = []

    def teardown(self) -> None:
        try:
            self.runner.run(self._the_end())
        finally:
            self.runner.run(self.world.close())
            self.runner.close()

    async def _the_end(self) -> None:
        self._let_all_out()
        await self.world.check_recovers()
        self._let_all_out()

    def _let_all_out(self) -> None:
        for request in self.requests:
            if request.answer is not None:
                self.world.let_out(request)

    @property
    def _running(self) -> list[Coordinator]:
        return [each for each in self.world.coordinators if each.alive]

    @initialize(steps=STEPS, slow=st.none() | INDEX, replicas=st.integers(1, 3), gateways=st.integers(1, 2))
    def begins(self, steps: int, slow: int | None, replicas: int, gateways: int) -> None:
        """With a swap under way, and answers of before it."""
        self.world = self.runner.run(a_world(replicas, gateways))
        self.is_asked(answered=True)
        self.swaps(coordinator=0, back=False, steps=steps, slow=slow)

    # the ordinary course

    @rule(steps=STEPS, slow=st.none() | INDEX)
    @played
    async def goes_on(self, steps: int, slow: int | None) -> None:
        await self._go_on(steps, slow)

    @rule(coordinator=INDEX, back=st.booleans(), steps=STEPS, slow=st.none() | INDEX)
    @played
    async def swaps(self, coordinator: int, back: bool, steps: int, slow: int | None) -> None:
        idle = [each for each in self._running if not each.swapping]
        if idle:
            chosen = _pick(idle, coordinator)
            chosen.swap(chosen.target.committed.previous if back else None)
            await self._go_on(steps, slow)

    async def _go_on(self, steps: int, slow: int | None) -> None:
        """All but the slow one take steps, and every answer is let out as soon as a gateway can."""
        held = [] if slow is None or not self.world.live else [_pick(self.world.live, slow)]
        held = [member for member in held if not member.paused]
        for member in held:
            member.paused = True
        for _ in range(steps):
            await self.world.advance()
            self._let_all_out()
        for member in held:
            member.paused = False

    @rule(member=INDEX, coordinator=INDEX)
    @played
    async def steps(self, member: int, coordinator: int) -> None:
        """One member alone; its call may reach any coordinator that runs."""
        able = [each for each in self.world.live if self.world.can_step(each)]
        if able and self._running:
            self.world.step(_pick(able, member), at=_pick(self._running, coordinator))

    @rule(gateway=st.booleans())
    @played
    async def joins(self, gateway: bool) -> None:
        if gateway and len(self.world.gateways) < MOST:
            self.world.add_gateway()
        elif not gateway and len(self.world.replicas) < MOST:
            self.world.add_replica()

    @rule()
    @played
    async def watches(self) -> None:
        """Ray restarts what is dead; each coordinator looks after its members."""
        if not self._running:
            self.world.take_over()
        for coordinator in self._running:
            coordinator.forget_the_dead()
            coordinator.tick()

    # requests

    @rule(answered=st.booleans())
    @played
    async def is_asked(self, answered: bool) -> None:
        """A request to each gateway for each replica, which may run it at once; the answer is on its way then."""
        ready = [each for each in self.world.gateways if each.ready and not each.paused]
        for request, replica in [(self.world.ask(each), replica) for each in ready for replica in self.world.replicas]:
            self.requests.append(request)
            if answered and self.world.answers(replica, request):
                self.world.run(replica, request)

    @precondition(lambda self: self.requests)
    @rule(replica=INDEX)
    @played
    async def answers(self, replica: int) -> None:
        """One replica runs all that it takes."""
        if self.world.replicas:
            chosen = _pick(self.world.replicas, replica)
            for request in self.requests:
                if request.answer is None and self.world.answers(chosen, request):
                    self.world.run(chosen, request)
        self._let_all_out()

    # faults

    @rule(fault=st.sampled_from(AT_THE_COORDINATOR))
    @played
    async def befalls_the_coordinator(self, fault: Callable[[World], None]) -> None:
        if len(self.world.coordinators) < MOST:
            fault(self.world)

    @rule(fault=st.sampled_from(AT_A_MEMBER), member=INDEX)
    @played
    async def befalls_a_member(self, fault: Callable[[World, Member], None], member: int) -> None:
        if 1 < len(self.world.live) < 2 * MOST:
            fault(self.world, _pick(self.world.live, member))

    @rule(number=st.integers(0, 100))
    @played
    async def is_heard_again(self, number: int) -> None:
        _pick(self.world.coordinators, number).hear_again(number)

    @rule()
    @played
    async def recovers(self) -> None:
        """What was stopped goes on, what was broken is mended."""
        self.world.mend()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
