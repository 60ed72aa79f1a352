"""The coordinator of the simulated cluster, with the product's own `Coordination`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aoti_serve.errors import NotSettled, Superseded
from aoti_serve.weights.swap.coordination import Coordination
from aoti_serve.weights.swap.orders import Commit, Expel, Order, Publish, Reroute
from aoti_serve.weights.swap.states import ChangeName, Phase, State
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Exposure, Report, Target
from aoti_serve.weights.swap.timeouts import SwapDeadlines
from aoti_serve.weights.version import Committed, Version
from tests.unit.weights.swap.simulated_members import Member
from tests.unit.weights.swap.simulated_memory import Candidate, Gate, Gone, Withdrawn

if TYPE_CHECKING:
    from tests.unit.weights.swap.simulated_processes import Processes

HALF = Exposure(share=0.5)
DEADLINES = SwapDeadlines(stage=3.0, abort=2.0, commit=2.0, confirm=2.0)


class Coordinator:
    """A process with the real `Coordination`, whose orders it carries out in the world."""

    def __init__(self, world: Processes) -> None:
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
        if out := world.store.candidate:
            self.rules.begin(out.version, exposure=HALF, name=ChangeName("swap", out.swap), resumed=True)

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

    @property
    def holds(self) -> bool:
        """A candidate is out, and nobody waits for anything."""
        return self.alive and not self.swapping and self.rules.swap is not None and self.rules.swap.held

    def hold(self, version: Version | None = None) -> asyncio.Future[Committed]:
        """A swap to a candidate; it ends with what stays committed, when all hold it."""
        self.phases = []
        self.task = asyncio.get_running_loop().create_future()
        self.rules.begin(version or self.world.new_version(), exposure=HALF)
        self.carry_out()
        return self.task

    def promote(self) -> asyncio.Future[Committed]:
        self.task = asyncio.get_running_loop().create_future()
        self.swap_under_way.promote()
        self.carry_out()
        return self.task

    def withdraw(self) -> asyncio.Future[Committed]:
        """Ends with `Withdrawn` when nobody answers with it any more."""
        self.task = asyncio.get_running_loop().create_future()
        try:
            self.world.store.hold(self.term, None)
        except Superseded as error:
            self.task.set_exception(error)
        else:
            self.swap_under_way.withdraw(Withdrawn())
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
            elif swap.held and self.swapping:
                self._remember(swap)

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

    def _remember(self, swap: Swap) -> None:
        assert self.task is not None
        committed = self.target.committed
        try:
            self.world.store.hold(self.term, Candidate(swap.id, swap.version, committed.epoch))
        except Superseded as error:
            self.task.set_exception(error)
        else:
            self.task.set_result(committed)

    def _tell_the_caller(self, swap: Swap) -> None:
        if isinstance(swap.error, Withdrawn) and not self.rules.table.ending:
            self.world.withdrawn.add(swap.version.number)
        if self.task is None or self.task.done():
            return  # a candidate that could not stay
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
