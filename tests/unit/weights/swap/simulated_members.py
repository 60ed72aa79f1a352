"""The members of the simulated cluster, with the product's own `Membership` over played connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoti_serve.address import Address
from aoti_serve.cluster.membership.line import CoordinatorLine, LineListener
from aoti_serve.cluster.membership.member import Membership
from aoti_serve.errors import Superseded
from aoti_serve.weights.swap.follower import Fence, Follower
from aoti_serve.weights.swap.target import Receipt, Report, Target
from tests.unit.weights.swap.simulated_memory import Gate, Gone, Slots, receipt

if TYPE_CHECKING:
    from tests.unit.weights.swap.simulated_coordinator import Coordinator
    from tests.unit.weights.swap.simulated_processes import Processes


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

    def __init__(self, name: str, world: Processes) -> None:
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
    def __init__(self, name: str, world: Processes) -> None:
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

    def __init__(self, name: str, world: Processes) -> None:
        self.fence = Fence()
        super().__init__(name, world)

    def report(self) -> Report:
        return self.fence.report(self.name)

    async def reconcile(self, target: Target) -> None:
        self.fence.follow(target)
