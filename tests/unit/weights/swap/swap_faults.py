"""Faults of the simulated cluster: what can befall a coordinator, and a member."""

from __future__ import annotations

from tests.unit.weights.swap.simulated_cluster import TICK, World
from tests.unit.weights.swap.simulated_members import Member, Replica
from tests.unit.weights.swap.swap_steps import FULL


def _crashes(world: World) -> None:
    world.coordinator.crash()


def _is_followed(world: World) -> None:
    """Another coordinator starts while the first goes on."""
    world.take_over()


def _is_followed_by_one_that_swaps(world: World) -> None:
    successor = world.take_over()
    if successor.rules.swap is None:  # else it goes on with a candidate
        successor.swap()


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
