"""A cluster in memory for the tests of the swap; `Swap`, `MemberTable`, `MemberSession` and `Follower` in it are real.

What carries and keeps is played: Ray by calls that lie about until they are delivered, memory by two slots that hold
garbage while they are written, the store by a term and an epoch. Nothing moves unless a test says so, one small step
at a time, so a test, or hypothesis, has the whole schedule in its hand. There is no clock: a deadline passes when the
test lets it.

A member's reports may arrive late, in any order, and more than once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from aoti_serve.errors import StoreFailed, Superseded
from aoti_serve.weights.swap.follower import Follower
from aoti_serve.weights.swap.members import UNHEARD_S, LagDetector, MemberTable
from aoti_serve.weights.swap.session import MemberSession
from aoti_serve.weights.swap.swap import Phase, Swap
from aoti_serve.weights.swap.target import NO_EPOCH, Receipt, Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed, Version

GARBAGE = Version(number=-1, digest="half written")
OLD = Committed(epoch=4, version=Version(number=7, digest="sha of 7"), previous=Version(number=6, digest="sha of 6"))
HOPS = 8  # turns of the event loop after which nothing moves by itself any more
FOREVER = 5000  # steps after which a cluster without faults must have come to rest


class Gone(Exception):
    """The coordinator that was called, or that calls, is dead."""


async def settled(hops: int = HOPS) -> None:
    for _ in range(hops):
        await asyncio.sleep(0)


class Gate:
    """Where a coroutine waits until the schedule lets it through."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    @property
    def occupied(self) -> bool:
        return self._waiting is not None and not self._waiting.done()

    async def passed(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def open(self, error: BaseException | None = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            if error is None:
                self._waiting.set_result(None)
            else:
                self._waiting.set_exception(error)


class Durable:
    """What the store keeps. Only the coordinator that opened it last may commit, and only the next epoch."""

    def __init__(self) -> None:
        self.term = 0
        self.history = {OLD.epoch: OLD}

    @property
    def committed(self) -> Committed:
        return self.history[max(self.history)]

    def open(self) -> int:
        self.term += 1
        return self.term

    def commit(self, term: int, committed: Committed) -> Committed:
        if term != self.term:
            raise Superseded(model="m", term=term, newer=self.term)
        if committed.epoch != self.committed.epoch + 1:
            raise StoreFailed(path="/store", detail=f"epoch {committed.epoch} after {self.committed.epoch}")
        self.history[committed.epoch] = committed
        return committed


class Slots:
    """A replica's memory: two slots, of which one answers. Every write takes as long as the schedule wants."""

    def __init__(self) -> None:
        self.active = 0
        self.slots: list[Version | None] = [None, None]
        self.staged: Version | None = None
        self.broken: Exception | None = None
        self.gate = Gate()
        self.writes = 0
        self.has_failed = False

    @property
    def answering(self) -> Version | None:
        return self.slots[self.active]

    async def stage(self, version: Version) -> None:
        if version in self.slots:
            return
        self._check()
        behind = 1 - self.active
        self.slots[behind], self.staged = GARBAGE, None
        self.writes += 1
        try:
            await self.gate.passed()
            self._check()
        except BaseException:
            self.slots[behind] = None
            raise
        self.slots[behind] = self.staged = version

    def _check(self) -> None:
        if self.broken is not None:
            self.has_failed = True
            raise self.broken

    async def activate(self, version: Version) -> None:
        if self.answering != version:
            assert self.slots[1 - self.active] == version, "what is to answer is not there"
            await self.gate.passed()
            self.active, self.staged = 1 - self.active, None

    async def abort(self) -> None:
        if self.staged is not None:
            self.slots[1 - self.active] = self.staged = None


@dataclass
class Call:
    """A `sync` under way: sent, then taken by a coordinator, then answered; `reply` lies about until delivered."""

    report: Report
    heard: int
    seen: TargetRevision | None
    answer: asyncio.Future[Target] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    at: Coordinator | None = None
    reply: Target | None = None


class Member:
    """A process that follows coordinators, with the real `MemberSession`."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.alive, self.paused, self.doomed, self.deaf = True, False, False, False
        self.ready = False
        self.conversation = MemberSession()
        self.settled = NO_EPOCH
        self.gate = Gate()
        self.call: Call | None = None
        self.task = asyncio.get_running_loop().create_task(self._live())

    @property
    def epoch(self) -> int:
        raise NotImplementedError

    @property
    def sick(self) -> bool:
        """Its following has ended with an error; it goes on answering until somebody ends it."""
        return self.task.done()

    def report(self) -> Report:
        raise NotImplementedError

    async def reconcile(self, target: Target) -> None:
        raise NotImplementedError

    async def _live(self) -> None:
        await self._join()
        assert self.epoch >= self.world.returned, "P5: a newcomer became ready with old weights"
        self.ready = True
        while True:
            await self._reconcile(await self._sync(self.conversation.seen))

    async def _join(self) -> None:
        while True:
            report = self._report()
            target = await self._sync(None)
            if not report.follows(target):
                await self._reconcile(target)
            elif self.conversation.joins():
                return

    async def _sync(self, seen: TargetRevision | None) -> Target:
        while True:
            self.call = Call(self._report(), self.conversation.seen.term, seen)
            try:
                target = await self.call.answer
            except (Gone, Superseded):
                continue
            if self.conversation.heeds(target):
                return target

    async def _reconcile(self, target: Target) -> None:
        await self.reconcile(target)
        self.conversation.followed(target, self.report())

    def _report(self) -> Report:
        return self.conversation.report(self.report())


class Replica(Member):
    def __init__(self, name: str, world: World) -> None:
        self.memory = Slots()
        self.follower = Follower(self.memory)
        self.receipt: Receipt | None = None
        super().__init__(name, world)
        self.gate = self.memory.gate

    @property
    def epoch(self) -> int:
        return self.follower.epoch

    def report(self) -> Report:
        follower = self.follower
        return Report(
            member=self.name,
            runners=1,
            epoch=follower.epoch,
            settled=self.settled,
            staged=follower.staged,
            failed=follower.failed,
            error=follower.error,
            receipt=self.receipt,
        )

    async def reconcile(self, target: Target) -> None:
        await self.follower.follow(target)
        self.settled = target.settled
        answering = self.memory.answering
        assert answering is not None
        self.receipt = receipt(self.name, self.follower.epoch, answering)


class Gateway(Member):
    """Holds the fence only; see gateway/data_plane.py."""

    def __init__(self, name: str, world: World) -> None:
        self._epoch = NO_EPOCH
        self._staging: str | None = None
        super().__init__(name, world)

    @property
    def epoch(self) -> int:
        return self._epoch

    def report(self) -> Report:
        return Report(member=self.name, epoch=self._epoch, settled=self.settled, staged=self._staging)

    async def reconcile(self, target: Target) -> None:
        self._epoch = target.committed.epoch
        self.settled = max(self.settled, target.settled)
        self._staging = target.staging.swap if target.staging else None


class Answer(NamedTuple):
    epoch: int
    version: Version


@dataclass(eq=False)
class Request:
    """On its way through a gateway, with that gateway's fence at the time."""

    gateway: Gateway
    fence: int
    answer: Answer | None = None


@dataclass(eq=False)
class Wait:
    enough: Callable[[list[Report]], bool]
    over: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Coordinator:
    """The `Members` of its swaps, with the real `MemberTable`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alive = True
        self.term = world.store.open()
        self.table = MemberTable(self.term, world.store.committed)
        self.table.expect(member.name for member in world.members.values() if member.alive)
        self._heard: list[Report] = []
        self._waits: list[Wait] = []
        self._parked: list[Call] = []
        self.writing = Gate()
        self.commit_error: Exception | None = None
        self.dies_after_commit = False
        self.task: asyncio.Task[Committed] | None = None
        self.phases: list[Phase] = []

    @property
    def target(self) -> Target:
        return self.table.target

    @property
    def reports(self) -> list[Report]:
        return self.table.reports

    @property
    def current(self) -> bool:
        return self.alive and self.term == self.world.store.term

    @property
    def swapping(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def waiting(self) -> bool:
        return bool(self._waits)

    # what a swap calls

    def publish(
        self, *, staging: Staging | None = None, committed: Committed | None = None, settled: int | None = None
    ) -> TargetRevision:
        if not self.alive:
            return TargetRevision(self.target.term, self.target.revision)
        published = self.table.publish(staging=staging, committed=committed, settled=settled)
        self._answer_parked()
        return published

    async def until(self, enough: Callable[[list[Report]], bool], timeout: float) -> list[Report]:
        if self.alive:
            wait = Wait(enough)
            self._waits.append(wait)
            self._look()
            try:
                await wait.over
            finally:
                self._waits.remove(wait)
        return self.reports

    async def expel(self, members: list[str]) -> None:
        """A replica that was stopped may wake up once more before it is dead; of gateways that is not allowed."""
        if self.alive and not self.current:
            raise Superseded(model="m", term=self.term, newer=self.world.store.term)
        self.table.remove(members if self.alive else [])
        for name in members if self.alive else []:
            member = self.world.members[name]
            member.doomed = True
            if isinstance(member, Gateway):
                self.world.kill(member)

    def swap(self, version: Version | None = None, *, without_replicas: bool = False) -> asyncio.Task[Committed]:
        before = self.target.committed
        version = version or self.world.new_version()

        async def commit() -> Committed:
            await self.writing.passed()
            if self.commit_error is not None:
                raise self.commit_error
            new = Committed(epoch=before.epoch + 1, version=version, previous=before.version)
            committed = self.world.store.commit(self.term, new)
            if self.dies_after_commit:
                self.crash()
            return committed

        self.phases = []
        self.task = asyncio.get_running_loop().create_task(
            Swap(version, self, commit, entered=self.phases.append, without_replicas=without_replicas).run()
        )
        self.task.add_done_callback(self._ended)
        return self.task

    # what the world does to it

    def take(self, call: Call) -> None:
        """A member's report arrives; the answer waits for news."""
        if (call.seen is None or call.heard > self.term) and not self.current:
            call.answer.set_exception(Superseded(model="m", term=self.term, newer=self.world.store.term))
            return
        call.at = self
        self._heard.append(call.report)
        self.hear(call.report)
        self._parked.append(call)
        self._answer_parked()

    def _answer_parked(self) -> None:
        for call in [call for call in self._parked if self.table.has_news(call.seen)]:
            self._parked.remove(call)
            call.reply = self.target

    def hear(self, report: Report) -> None:
        if self.table.hear(report):
            self._look()

    def poll(self, call: Call) -> None:
        """No news for so long that the member is answered all the same."""
        self._parked.remove(call)
        call.reply = self.target

    def hear_again(self, number: int) -> None:
        """An old report arrives once more, after newer ones, or after its sender's death."""
        if self._heard:
            self.hear(self._heard[number % len(self._heard)])

    def pass_time(self) -> bool:
        """All deadlines pass; whether there was one."""
        passed = [wait.over for wait in self._waits if not wait.over.done()]
        for over in passed:
            over.set_result(None)
        return bool(passed)

    def forget_the_dead(self) -> None:
        alive = {name for name, member in self.world.members.items() if member.alive}
        self.table.keep(alive, {report.member for report in self.reports})
        self._look()

    async def heal(self) -> None:
        """Between swaps: who is still behind is replaced; when nobody is, everybody may know."""
        if self.swapping or not self.alive:
            return
        late = LagDetector(patience=0.0, period=UNHEARD_S + 1).look(self.table)
        if late and self.current:
            await self.expel(late)
        if self.table.settle():
            self._answer_parked()

    def crash(self) -> None:
        self.alive = False
        self.pass_time()
        self.writing.open(Gone())
        if self.task is not None:
            self.task.cancel()

    def _look(self) -> None:
        for wait in self._waits:
            if not wait.over.done() and wait.enough(self.reports):
                wait.over.set_result(None)

    def _ended(self, task: asyncio.Task[Committed]) -> None:
        if not task.cancelled() and task.exception() is None and self.alive:
            self.world.returned = max(self.world.returned, task.result().epoch)


class World:
    """All processes and the store. `returned` is the epoch of the newest swap whose caller has been told of success."""

    def __init__(self) -> None:
        self.store = Durable()
        self.members: dict[str, Member] = {}
        self.coordinators: list[Coordinator] = []
        self.returned = OLD.epoch
        self._version = OLD.version.number
        self._turn = 0

    # who is there

    @property
    def coordinator(self) -> Coordinator:
        return self.coordinators[-1]

    @property
    def replicas(self) -> list[Replica]:
        return [member for member in self.members.values() if isinstance(member, Replica) and member.alive]

    @property
    def gateways(self) -> list[Gateway]:
        return [member for member in self.members.values() if isinstance(member, Gateway) and member.alive]

    @property
    def live(self) -> list[Member]:
        return [*self.replicas, *self.gateways]

    def replica(self, name: str) -> Replica:
        member = self.members[name]
        assert isinstance(member, Replica)
        return member

    def serving(self) -> set[int]:
        """The versions that the ready replicas would answer with."""
        return {
            replica.memory.answering.number for replica in self.replicas if replica.ready and replica.memory.answering
        }

    # what can happen

    def new_version(self) -> Version:
        self._version += 1
        return Version(number=self._version, digest=f"sha of {self._version}")

    def take_over(self) -> Coordinator:
        self.coordinators.append(Coordinator(self))
        return self.coordinator

    def add_replica(self, name: str = "") -> Replica:
        replica = Replica(name or f"replica-{len(self.members)}", self)
        self.members[replica.name] = replica
        return replica

    def add_gateway(self, name: str = "") -> Gateway:
        gateway = Gateway(name or f"gateway-{len(self.members)}", self)
        self.members[gateway.name] = gateway
        return gateway

    def leave(self, member: Member) -> None:
        """It says that it will end soon."""
        member.conversation.leaves()
        self.coordinator.hear(member._report())

    def kill(self, member: Member) -> None:
        member.alive = False
        member.task.cancel()

    def lose(self, member: Member) -> None:
        """Its call fails, on the way there or on the way back."""
        call = member.call
        if call is not None and not call.answer.done():
            call.answer.set_exception(Gone())

    def can_step(self, member: Member) -> bool:
        """Whether it has something to do or to hear."""
        if not member.alive or member.paused or member.sick:
            return False
        if member.gate.occupied:
            return not member.deaf
        call = member.call
        if call is None or call.answer.done():
            return False
        if call.at is None:
            return self._reachable() is not None
        return call.reply is not None or not call.at.alive or call.at.term < self._newest_term()

    def step(self, member: Member, at: Coordinator | None = None) -> None:
        """The next small thing that happens to it: its memory is written, its call arrives, its answer arrives."""
        call = member.call
        if member.gate.occupied:
            member.gate.open()
            return
        assert call is not None
        if call.at is None:
            coordinator = at or self._reachable()
            assert coordinator is not None
            coordinator.take(call)
        elif not call.at.alive:
            call.answer.set_exception(Gone())
        elif call.reply is None:
            call.at.poll(call)
        elif not call.answer.done():
            call.answer.set_result(call.reply)

    def _reachable(self) -> Coordinator | None:
        """Where Serve sends a call: to the newest coordinator that runs."""
        return max((each for each in self.coordinators if each.alive), key=lambda each: each.term, default=None)

    def _newest_term(self) -> int:
        newest = self._reachable()
        return newest.term if newest else 0

    # requests

    def ask(self, gateway: Gateway) -> Request:
        assert gateway.ready
        return Request(gateway, gateway.epoch)

    def answers(self, replica: Replica, request: Request) -> bool:
        """Whether it runs the request now: not before it has reached the fence."""
        return replica.alive and replica.ready and not replica.paused and replica.epoch >= request.fence

    def run(self, replica: Replica, request: Request) -> None:
        version = replica.memory.answering
        assert version is not None
        assert version != GARBAGE, "P1: an answer from a slot that is being written"
        later = [self.store.history[epoch].version for epoch in self.store.history if epoch >= replica.epoch]
        assert version in later, "P1: an answer that does not belong to its epoch"
        request.answer = Answer(replica.epoch, version)

    def let_out(self, request: Request) -> bool:
        """Whether the gateway passes the answer on; checks that it may."""
        gateway, answer = request.gateway, request.answer
        assert answer is not None
        if not gateway.alive or gateway.paused or answer.epoch < gateway.settled:
            return False
        assert answer.epoch >= self.returned, f"P3: epoch {answer.epoch} after swap {self.returned} has returned"
        return True

    # time

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
        """Everything that can happen without a deadline has happened."""
        for _ in range(FOREVER):
            if not await self.advance():
                return
        raise AssertionError("the cluster never comes to rest")

    async def finish(self, task: asyncio.Task[Committed]) -> Committed | BaseException:
        """How a swap ends when its deadlines pass as soon as nothing moves any more."""
        for _ in range(FOREVER):
            if task.done():
                break
            if not await self.advance():
                await self.time_passes()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        return outcome

    async def time_passes(self) -> None:
        """The dead are forgotten; where that helps nobody, deadlines pass."""
        for coordinator in self.coordinators:
            coordinator.forget_the_dead()
        await settled()
        if not any(True for _ in self.movable()):
            for coordinator in self.coordinators:
                coordinator.pass_time()
            await settled()

    def check(self) -> None:
        """What holds at any moment: whoever is ready answers with something whole that has been committed.

        And nobody ends but for a fault of its own.
        """
        known = [committed.version for committed in self.store.history.values()]
        for member in self.live:
            if member.sick and not (isinstance(member, Replica) and member.memory.has_failed):
                member.task.result()
        for replica in self.replicas:
            if replica.ready:
                assert replica.memory.answering in known, f"{replica.name} is ahead of the commit point, or torn"

    def mend(self) -> None:
        for member in self.live:
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
        for _ in range(10):
            await self.at_rest()
            await self._tend()
        await self.at_rest()
        return self.coordinator

    async def _tend(self) -> None:
        for member in self.live:
            if member.doomed or member.sick:
                self.kill(member)
        await self.time_passes()
        await self.coordinator.heal()
        await settled()

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

    async def close(self) -> None:
        tasks: list[asyncio.Task[Committed] | asyncio.Task[None]] = [member.task for member in self.members.values()]
        for coordinator in self.coordinators:
            coordinator.crash()
            tasks += [coordinator.task] if coordinator.task else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
    await world.coordinator.heal()
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


def receipt(replica: str, epoch: int, version: Version) -> Receipt:
    return Receipt(
        replica=replica,
        node="n",
        pid=1,
        device="cpu",
        gpu_ids=(),
        epoch=epoch,
        version=version.number,
        digest=version.digest,
        previous=None,
        nbytes=0,
        stage_milliseconds=0.0,
        commit_milliseconds=0.0,
    )
