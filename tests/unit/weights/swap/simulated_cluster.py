"""A cluster in memory for the tests of the swap. All rules in it are the product's own.

Real are `Coordination` with its table, swap, timeouts and fence, and each member's `Membership`, `MemberSession`,
`Follower` or `Fence`. What carries and keeps is played: a connection by two queues, memory by two slots that hold
garbage while they are written, the store by a term and an epoch, Ray by a kill that is delivered or not. Nothing moves
unless a test says so, one small step at a time, so a test, or hypothesis, has the whole schedule in its hand.

What can go wrong: processes end, stop, hang, or are frozen together with their clocks; connections break and lose what
is on the way; members are cut off, so that neither words nor kills reach them; reports arrive late and more than once;
coordinators die, or go on beside their successors; stores refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from aoti_serve.weights.swap.timeouts import HEARTBEAT_S
from aoti_serve.weights.version import Committed
from tests.unit.weights.swap.simulated_coordinator import Coordinator
from tests.unit.weights.swap.simulated_members import Replica
from tests.unit.weights.swap.simulated_memory import GARBAGE, HOPS, settled
from tests.unit.weights.swap.simulated_processes import Processes

FOREVER = 5000  # steps after which a cluster without faults must have come to rest
TICK = 0.5
DEAD_S = 4 * HEARTBEAT_S  # of silence, after which a member looks for another coordinator, see `link.control`
ISLAND_S = 60.0  # after which Ray ends a node that cannot reach the others


class World(Processes):
    """All processes, time, and what must hold at any moment."""

    def movable(self) -> Iterator[Callable[[], None]]:
        """What could happen next, if nothing goes wrong."""
        for member in self.members.values():
            if self.can_step(member):
                yield lambda member=member: self.step(member)  # type: ignore[misc]
        for coordinator in self.coordinators:
            if coordinator.alive and coordinator.writing.occupied:
                yield coordinator.writing.open

    async def advance(self) -> bool:
        """One small step, each participant in its turn; whether there was one."""
        moves = list(self.movable())
        if not moves:
            await settled()
            moves = list(self.movable())
        if moves:
            self._turn += 1
            moves[self._turn % len(moves)]()
            await settled(HOPS // 2)
            self.check()
        return bool(moves)

    async def at_rest(self) -> None:
        """Everything has happened that needs no time."""
        for _ in range(FOREVER):
            if not await self.advance():
                return
        raise AssertionError("the cluster never comes to rest")

    async def finish(self, task: asyncio.Future[Committed]) -> Committed | BaseException:
        """How a swap ends when time passes as soon as nothing moves any more."""
        for turn in range(FOREVER):
            if task.done():
                break
            if turn == FOREVER // 2:  # no member was heard all the time, so no deadline has passed
                self.mend()
            if not await self.advance():
                await self.time_passes()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        return outcome

    async def time_passes(self) -> None:
        """Half a second, in which nothing else happens than what time brings."""
        self.now += TICK
        for member in self.live:
            wire = member.line.wire
            if not member.paused:
                member.membership.pauses.check()
                if wire is not None and not wire.at.alive and self.now - wire.at.died >= DEAD_S:
                    member.line.cut()
            islanded = member.cut_since is not None and self.now - member.cut_since >= ISLAND_S
            if islanded or (member.doomed and not member.cut):
                self.kill(member)
        for coordinator in self.coordinators:
            coordinator.forget_the_dead()
            coordinator.tick()
        await settled()
        if not any(True for _ in self.movable()):
            self._end_the_superseded()

    def _end_the_superseded(self) -> None:
        """Serve asks every coordinator for its health."""
        for coordinator in self.coordinators:
            if coordinator.alive and not coordinator.current and not coordinator.swapping:
                coordinator.crash()

    def check(self) -> None:
        """What holds at any moment: whoever is ready answers with something whole that has been committed.

        And nobody ends but for a fault of its own.
        """
        known = [committed.version for committed in self.store.history.values()]
        for member in self.live:
            if not (isinstance(member, Replica) and member.memory.has_failed):
                member.raise_what_ended_it()
        for replica in self.replicas:
            if replica.ready:
                assert replica.memory.answering in known, f"{replica.name} is ahead of the commit point, or torn"

    def mend(self) -> None:
        for member in self.members.values():
            self.join_up(member)
            member.paused = member.deaf = False
            if isinstance(member, Replica):
                member.memory.broken = None
        self.coordinator.commit_error, self.coordinator.dies_after_commit = None, False

    async def ends_well(self) -> Coordinator:
        """Faults end, and what Ray and Serve do about them is done: the broken are ended, one coordinator is left."""
        self.mend()
        for coordinator in self.coordinators:
            if not coordinator.current:
                coordinator.crash()
        if not self.coordinator.current:
            self.take_over()
        await settled()
        for turn in range(FOREVER):
            await self.at_rest()
            for member in self.live:
                if member.sick:
                    self.kill(member)
            await self.time_passes()
            if turn > 40 and self.coordinator.rules.settled:  # members of which nothing is known get 15 s
                break
        await self.at_rest()
        return self.coordinator

    def check_whole(self) -> None:
        """When all is quiet: all new or all old, nobody holds anything besides."""
        committed = self.store.committed
        assert self.coordinator.target.committed == committed
        assert self.coordinator.target.staging is None
        for member in self.live:
            assert member.ready, f"{member.name} never became ready"
            assert member.epoch == committed.epoch
            assert member.settled == committed.epoch
        for replica in self.replicas:
            assert replica.memory.answering == committed.version
            assert replica.memory.staged is None, "P2: something is still staged"
            assert GARBAGE not in replica.memory.slots
            assert (replica.follower.staged, replica.follower.failed) == (None, None)

    async def check_recovers(self) -> None:
        """After all faults everybody is at what was committed last, and the next swap succeeds everywhere."""
        coordinator = await self.ends_well()
        if coordinator.holds:
            self.check_held()
            await self.finish(coordinator.withdraw())
        if not self.replicas:
            self.add_replica()  # as Serve does
            await self.at_rest()
        self.check_whole()
        before, crew = self.store.committed, self.live
        new = await self.finish(coordinator.swap())
        assert isinstance(new, Committed), f"a swap without faults failed: {new!r}"
        assert new.epoch == before.epoch + 1
        await self.at_rest()
        self.check_whole()
        assert self.live == crew

    def check_held(self) -> None:
        """When all is quiet with a candidate out: everybody holds it, and answers with what is committed."""
        candidate = self.coordinator.swap_under_way
        for member in self.live:
            assert member.ready, f"{member.name} never became ready"
            assert member.report().staged == candidate.id
        for replica in self.replicas:
            assert replica.memory.answering == self.store.committed.version
            assert replica.memory.staged == candidate.version

    async def close(self) -> None:
        for member in self.members.values():
            member.task.cancel()
            member.membership.close()
        for coordinator in self.coordinators:
            coordinator.crash()
        futures = [coordinator.task for coordinator in self.coordinators if coordinator.task]
        await asyncio.gather(*futures, *[member.task for member in self.members.values()], return_exceptions=True)
        await settled()


async def a_world(replicas: int = 2, gateways: int = 1) -> World:
    """At rest: one coordinator, replicas r0, r1, ... and gateways g0, g1, ..., all ready."""
    world = World()
    world.take_over()
    for number in range(replicas):
        world.add_replica(f"r{number}")
    for number in range(gateways):
        world.add_gateway(f"g{number}")
    await settled()
    await world.at_rest()
    await world.time_passes()
    await world.at_rest()
    world.check_whole()
    return world


@asynccontextmanager
async def world_of(replicas: int = 2, gateways: int = 1) -> AsyncIterator[World]:
    world = await a_world(replicas, gateways)
    try:
        yield world
    finally:
        await world.close()
