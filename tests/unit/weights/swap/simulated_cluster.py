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
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from aoti_serve.address import Address
from aoti_serve.cluster.membership.line import CoordinatorLine, LineListener
from aoti_serve.cluster.membership.member import Membership
from aoti_serve.errors import NotSettled, StoreFailed, Superseded
from aoti_serve.weights.swap.coordination import Coordination
from aoti_serve.weights.swap.follower import Fence, Follower
from aoti_serve.weights.swap.orders import Commit, Expel, Order, Publish, Reroute
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.swap import Phase, Swap, SwapDeadlines
from aoti_serve.weights.swap.target import Receipt, Report, Target
from aoti_serve.weights.swap.timeouts import HEARTBEAT_S
from aoti_serve.weights.version import Committed, Version

GARBAGE = Version(number=-1, digest="half written")
OLD = Committed(epoch=4, version=Version(number=7, digest="sha of 7"), previous=Version(number=6, digest="sha of 6"))
HOPS = 12  # turns of the event loop after which nothing moves by itself any more
FOREVER = 5000  # steps after which a cluster without faults must have come to rest
DEADLINES = SwapDeadlines(stage=3.0, abort=2.0, commit=2.0, confirm=2.0)
TICK = 0.5
DEAD_S = 4 * HEARTBEAT_S  # of silence, after which a member looks for another coordinator, see `link.control`
ISLAND_S = 60.0  # after which Ray ends a node that cannot reach the others


class Gone(Exception):
    """The coordinator that was called, or that calls, is dead."""


class Withdrawn(Exception):
    """A stage was cancelled."""


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
        self.withdrawn = False

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
        self.withdrawn = False
        try:
            await self.gate.passed()
            self._check()
            if self.withdrawn:
                raise Withdrawn
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

    def cancel_stage(self) -> None:
        """The write that is under way fails when it is done."""
        self.withdrawn = True

    async def abort(self) -> None:
        if self.staged is not None:
            self.slots[1 - self.active] = self.staged = None


@dataclass(eq=False)
class Wire:
    """One connection: what is on its way from a member to its coordinator, and back. `call` 0 asks for no answer."""

    at: Coordinator
    up: deque[tuple[Report, int]]
    down: deque[tuple[Target, int]]


class PlayedLine(CoordinatorLine):
    """A line whose every message waits until the schedule delivers it."""

    def __init__(self, listener: LineListener) -> None:
        self.listener = listener
        self.wire: Wire | None = None
        self._connected = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Target]] = {}
        self._number = 0

    async def run(self) -> None:
        await asyncio.Event().wait()

    def tell(self, report: Report) -> None:
        if self.wire is not None:
            self.wire.up.append((report, 0))

    async def ask(self, report: Callable[[], Report]) -> tuple[Report, Target]:
        while True:
            await self._connected.wait()
            assert self.wire is not None
            sent, self._number = report(), self._number + 1
            self._answers[self._number] = answer = asyncio.get_running_loop().create_future()
            self.wire.up.append((sent, self._number))
            try:
                return sent, await answer
            except Gone:
                continue

    def connect(self, coordinator: Coordinator) -> None:
        self.wire = Wire(coordinator, deque(), deque())
        self._connected.set()
        self.listener.connected()

    def cut(self) -> None:
        """The connection ends; what is on its way is lost."""
        self.wire = None
        self._connected.clear()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(Gone())

    def deliver(self) -> bool:
        """The next word of the coordinator arrives; returns whether the member goes on with this one."""
        assert self.wire is not None
        target, call = self.wire.down.popleft()
        if not self.listener.arrived(target):
            return False
        answer = self._answers.pop(call, None)
        if answer is not None and not answer.done():
            answer.set_result(target)
        return True


class PlayedFinder:
    """The way to the coordinator, for one member."""

    def __init__(self, member: str) -> None:
        self.member = member
        self.lines: list[PlayedLine] = []

    def line(self, listener: LineListener) -> CoordinatorLine:
        self.lines.append(PlayedLine(listener))
        return self.lines[-1]

    def is_lost(self, error: Exception) -> bool:
        return isinstance(error, Gone | Superseded)


class Member:
    """A process with the real `Membership`."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.alive, self.doomed, self.deaf = True, False, False
        self.cut_since: float | None = None
        self.ready = False
        self.gate = Gate()
        self._stopped_at: float | None = None
        self._frozen, self._behind = False, 0.0
        finder = PlayedFinder(name)
        self.membership = Membership(self, finder, self.clock)
        self.line = finder.lines[0]
        self.task = asyncio.get_running_loop().create_task(self._live())

    @property
    def epoch(self) -> int:
        return self.report().epoch

    @property
    def settled(self) -> int:
        return self.report().settled_epoch

    @property
    def paused(self) -> bool:
        return self._stopped_at is not None

    @paused.setter
    def paused(self, paused: bool) -> None:
        """Stopped by a signal: its clock goes on, and shows it a gap."""
        if self._frozen and not paused:
            assert self._stopped_at is not None
            self._behind += self.world.now - self._stopped_at
        self._frozen = self._frozen and paused
        self._stopped_at = self.world.now if paused else None

    def freeze(self) -> None:
        """Stopped together with its clock, as a virtual machine is: it will notice nothing."""
        self._frozen, self._stopped_at = True, self.world.now

    @property
    def cut(self) -> bool:
        """Neither words nor kills reach it."""
        return self.cut_since is not None

    @property
    def sick(self) -> bool:
        """Its following has ended with an error; it goes on answering until it is ended."""
        try:
            self.raise_what_ended_it()
        except Exception:
            return True
        return False

    def raise_what_ended_it(self) -> None:
        if self.task.done():
            self.task.result()
        self.membership.check()

    def clock(self) -> float:
        if self._frozen and self._stopped_at is not None:
            return self._stopped_at - self._behind
        return self.world.now - self._behind

    # what a `Participant` is asked

    def report(self) -> Report:
        raise NotImplementedError

    async def reconcile(self, target: Target) -> None:
        raise NotImplementedError

    def withdraw(self, target: Target) -> None: ...

    def route(self, addresses: tuple[Address, ...]) -> None: ...

    async def _live(self) -> None:
        await self.membership.join()
        assert self.epoch >= self.world.returned, "P5: a newcomer became ready with old weights"
        self.ready = True


class Replica(Member):
    def __init__(self, name: str, world: World) -> None:
        self.memory = Slots()
        self.follower = Follower(self.memory)
        self.receipt: Receipt | None = None
        self._settled = -1
        super().__init__(name, world)
        self.gate = self.memory.gate

    def report(self) -> Report:
        follower = self.follower
        return Report(
            member=self.name,
            runners=1,
            epoch=follower.epoch,
            settled_epoch=self._settled,
            staged=follower.staged,
            failed=follower.failed,
            error=follower.error,
            receipt=self.receipt,
        )

    async def reconcile(self, target: Target) -> None:
        await self.follower.follow(target)
        self._settled = target.settled_epoch
        answering = self.memory.answering
        assert answering is not None
        self.receipt = receipt(self.name, self.follower.epoch, answering)

    def withdraw(self, target: Target) -> None:
        self.follower.withdraw(target)


class Gateway(Member):
    """Holds the real `Fence` only."""

    def __init__(self, name: str, world: World) -> None:
        self.fence = Fence()
        super().__init__(name, world)

    def report(self) -> Report:
        return self.fence.report(self.name)

    async def reconcile(self, target: Target) -> None:
        self.fence.follow(target)


class Answer(NamedTuple):
    epoch: int
    version: Version


@dataclass(eq=False)
class Request:
    """On its way through a gateway, with that gateway's fence at the time."""

    gateway: Gateway
    fence: int
    answer: Answer | None = None


class Coordinator:
    """A process with the real `Coordination`, whose orders it carries out in the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alive, self.died = True, 0.0
        self.term = world.store.open()
        self.rules = Coordination(self.term, world.store.committed, DEADLINES, lambda: world.now)
        believed_dead = {member.name: member for member in world.live if member.doomed}
        self.rules.table.expect(member.name for member in world.live if not member.doomed)
        self.rules.doubt({name: world.now - (member.cut_since or world.now) for name, member in believed_dead.items()})
        self._heard: list[Report] = []
        self.writing = Gate()
        self.commit_error: Exception | None = None
        self.dies_after_commit = False
        self.task: asyncio.Future[Committed] | None = None
        self.phases: list[Phase] = []
        self._commit: asyncio.Task[None] | None = None

    @property
    def target(self) -> Target:
        return self.rules.table.target

    @property
    def reports(self) -> list[Report]:
        return self.rules.table.reports

    @property
    def swap_under_way(self) -> Swap:
        assert self.rules.swap is not None
        return self.rules.swap

    @property
    def current(self) -> bool:
        return self.alive and self.term == self.world.store.term

    @property
    def swapping(self) -> bool:
        return self.task is not None and not self.task.done()

    def swap(self, version: Version | None = None, *, without_replicas: bool = False) -> asyncio.Future[Committed]:
        self.phases = []
        self.task = asyncio.get_running_loop().create_future()
        self.rules.begin(version or self.world.new_version(), without_replicas=without_replicas)
        self.carry_out()
        return self.task

    # what reaches it

    def connect(self, member: Member) -> None:
        member.line.connect(self)
        self.rules.connect(member.name)
        self._push(member, self.target, 0)
        self.carry_out()

    def lose(self, member: Member) -> None:
        """A connection to it has ended."""
        if self.alive:
            self.rules.disconnect(member.name)
            self.carry_out()

    def take(self, member: Member) -> None:
        """A member's report arrives."""
        wire = member.line.wire
        assert wire is not None
        report, call = wire.up.popleft()
        self.hear(report)
        if call and not self.current:
            self.world.lose(member)
        elif call:
            self._push(member, self.target, call)

    def hear(self, report: Report) -> None:
        self._heard.append(report)
        self.rules.hear(report)
        self.carry_out()

    def hear_again(self, number: int) -> None:
        """An old report arrives once more, after newer ones, or after its sender's death."""
        if self._heard and self.alive:
            self.rules.hear(self._heard[number % len(self._heard)])
            self.carry_out()

    def tick(self) -> None:
        if self.alive:
            if any(self._connected(member) and not member.paused and not member.cut for member in self.world.live):
                self.rules.beat()
            self.rules.tick()
            self.carry_out()

    def forget_the_dead(self) -> None:
        """What Ray says: a node that it cannot reach is dead, and ends its processes when it hears of that."""
        for member in self.world.live:
            member.doomed = member.doomed or member.cut
        alive = {member.name for member in self.world.live if not member.cut}
        if self.alive:
            self.rules.remove_ended(alive, [report.member for report in self.reports], self.world.unreachable)
            self.carry_out()

    def crash(self) -> None:
        self.vanish()
        for member in self.world.members.values():
            if self._connected(member):
                member.line.cut()

    def vanish(self) -> None:
        """Its machine has lost its power: no member's connection ends by that."""
        self.alive, self.died = False, self.world.now
        self.writing.open(Gone())
        if self.task is not None and not self.task.done():
            self.task.set_exception(Gone())

    # what it does

    def carry_out(self) -> None:
        while self.alive and (orders := self.rules.orders()):
            for order in orders:
                self._do(order)
        swap = self.rules.swap
        if swap is not None and self.alive:
            if swap.phase not in self.phases[-1:]:
                self.phases.append(swap.phase)
            if swap.ended:
                self.rules.finish()
                self._tell_the_caller(swap)

    def _do(self, order: Order) -> None:
        match order:
            case Publish(target):
                for member in self.world.live:
                    if self._connected(member):
                        self._push(member, target, 0)
            case Commit(version):
                self._commit = asyncio.get_running_loop().create_task(self._write(version))
            case Expel(members):
                self._expel(members)
            case Reroute():
                pass

    async def _write(self, version: Version) -> None:
        before = self.target.committed
        try:
            await self.writing.passed()
            if self.commit_error is not None:
                raise self.commit_error
            new = Committed(epoch=before.epoch + 1, version=version, previous=before.version)
            committed = self.world.store.commit(self.term, new)
        except Exception as error:
            if self.alive:
                self.swap_under_way.refused(error)
        else:
            if self.dies_after_commit:
                self.crash()
            if self.alive:
                self.swap_under_way.stored(committed)
        self.carry_out()

    def _expel(self, members: tuple[str, ...]) -> None:
        if not self.current:
            self.rules.superseded(Superseded(model="m", term=self.term, newer=self.world.store.term))
            return
        for name in members:
            self.world.members[name].doomed = True
        self.rules.killed(members)

    def _tell_the_caller(self, swap: Swap) -> None:
        assert self.task is not None
        if swap.state is State.SETTLED:
            assert swap.committed is not None
            self.world.returned = max(self.world.returned, swap.committed.epoch)
            self.task.set_result(swap.committed)
        elif swap.state is State.ABORTED:
            self.task.set_exception(swap.error or AssertionError("it aborts without a reason"))
        else:
            self.task.set_exception(
                NotSettled(model="m", version=swap.version.number, reason=str(swap.error or "not confirmed"))
            )

    def _connected(self, member: Member) -> bool:
        return member.line.wire is not None and member.line.wire.at is self

    def _push(self, member: Member, target: Target, call: int) -> None:
        assert member.line.wire is not None
        member.line.wire.down.append((target, call))


class World:
    """All processes and the store. `returned` is the epoch of the newest swap whose caller has been told of success."""

    def __init__(self) -> None:
        self.now = 0.0
        self.store = Durable()
        self.members: dict[str, Member] = {}
        self.coordinators: list[Coordinator] = []
        self.returned = OLD.epoch
        self._version = OLD.version.number
        self._turn = 0
        self._unseen: list[tuple[Coordinator, Member]] = []

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

    @property
    def unreachable(self) -> set[str]:
        return {member.name for member in self.members.values() if member.cut}

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
        member.membership.leave()
        self.hear_all(member)

    def hear_all(self, member: Member) -> None:
        """What it has said arrives."""
        while member.line.wire is not None and member.line.wire.up:
            member.line.wire.at.take(member)

    def kill(self, member: Member) -> None:
        member.alive = False
        member.task.cancel()
        member.membership.close()
        self.lose(member)

    def lose(self, member: Member) -> None:
        """Its connection ends; the coordinator sees that, unless they are cut off from each other."""
        wire = member.line.wire
        if wire is None:
            return
        member.line.cut()
        if not wire.at.alive:
            return
        if member.cut:
            self._unseen.append((wire.at, member))
        else:
            wire.at.lose(member)

    def cut_off(self, member: Member) -> None:
        """Neither words nor kills reach it, nor does anything of it reach the others."""
        member.cut_since = self.now

    def join_up(self, member: Member) -> None:
        """The network is whole again: what has ended meanwhile is seen."""
        member.cut_since = None
        unseen, self._unseen = self._unseen, []
        for coordinator, ended in unseen:
            if ended is member:
                coordinator.lose(member)
            else:
                self._unseen.append((coordinator, ended))

    def can_step(self, member: Member) -> bool:
        """It has something to do or to hear."""
        if not member.alive or member.paused or member.sick:
            return False
        if member.gate.occupied and not member.deaf:
            return True
        wire = member.line.wire
        if member.cut:
            return False
        if wire is None:
            return self._reachable() is not None
        return wire.at.alive and bool(wire.up or wire.down)

    def step(self, member: Member, at: Coordinator | None = None) -> None:
        """The next small thing that happens to it: a write ends, it connects, a word of it or to it arrives."""
        wire = member.line.wire
        writes = member.gate.occupied and not member.deaf
        if writes and (self._turn % 2 or wire is None or not (wire.up or wire.down)):
            member.gate.open()
        elif wire is None:
            coordinator = at or self._reachable()
            assert coordinator is not None
            coordinator.connect(member)
        elif wire.up:
            wire.at.take(member)
        elif not member.line.deliver():
            self.lose(member)

    def _reachable(self) -> Coordinator | None:
        """Where Serve sends a call: to the newest coordinator that runs."""
        return max((each for each in self.coordinators if each.alive), key=lambda each: each.term, default=None)

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
        if not gateway.alive or gateway.paused or not gateway.membership.pauses.fresh:
            return False
        if not gateway.fence.lets_out(answer.epoch):
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
