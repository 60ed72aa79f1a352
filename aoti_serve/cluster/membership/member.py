"""A member's way to follow its coordinator: take its target, do what is missing, and report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from aoti_serve.address import Address
from aoti_serve.cluster.membership.line import CoordinatorLine, LineListener
from aoti_serve.cluster.membership.pauses import PauseDetector, boottime
from aoti_serve.weights.swap.follower import MemberSession
from aoti_serve.weights.swap.target import Report, Target

logger = logging.getLogger("ray.serve")
RETRY_S = 0.2


class Participant(Protocol):
    """A replica or a gateway, which can be brought to a target."""

    def report(self) -> Report:
        """Report what it holds now."""

    async def reconcile(self, target: Target) -> None:
        """Do what is missing. An error makes the process unhealthy, unless the coordinator is lost."""

    def withdraw(self, target: Target) -> None:
        """This target has come while another one was being reconciled: stop work that it no longer asks for."""

    def route(self, addresses: tuple[Address, ...]) -> None:
        """These are all replicas."""


class Finder(Protocol):
    """Knows the way to the newest coordinator; `CoordinatorFinder` asks Serve."""

    @property
    def member(self) -> str:
        """The name of this process."""

    def line(self, listener: LineListener) -> CoordinatorLine:
        """A new connection."""

    def is_lost(self, error: Exception) -> bool:
        """Whether the error says that the coordinator has gone: there may be another one by now."""


class _Announcement:
    """Reports over every connection that this process is joining, and ignores targets."""

    def __init__(self, finder: Finder) -> None:
        self._report = Report(finder.member, joining=True)
        self.line = finder.line(self)

    def connected(self) -> None:
        self.line.tell(self._report)

    def arrived(self, target: Target) -> bool:
        return True

    def routed(self, whole: bool, added: tuple[Address, ...], removed: tuple[str, ...]) -> None: ...


@asynccontextmanager
async def announce_loading(finder: Finder) -> AsyncIterator[None]:
    """While the block runs, every coordinator knows that this process is joining, and answers nothing yet.

    To load a package may take minutes. A coordinator waits for a process that it knows nothing of, then replaces it.
    """
    task = asyncio.get_running_loop().create_task(_Announcement(finder).line.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Membership:
    """Keeps one replica or gateway a member: it follows the target, and reports. Runs on its event loop."""

    def __init__(self, participant: Participant, finder: Finder, clock: Callable[[], float] = boottime) -> None:
        self._participant = participant
        self._finder = finder
        self._clock = clock
        self._session = MemberSession()
        self._line = finder.line(self)
        self._news = asyncio.Event()
        self.pauses = PauseDetector(self._news.set, clock)
        self.joined = False
        self._lost = False
        self._new = False  # a connection over which nothing was reported yet
        self._addresses: dict[str, Address] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Return once the coordinator counts this as a member that holds what is committed, and follow from then on.

        Awaited in a constructor, before Serve routes anything here: a newcomer answers with nothing older, and every
        swap from then on waits for it.
        """
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(work) for work in (self._line.run(), self.pauses.tick())]
        while True:
            report, target = await self._ask()
            if not report.follows(target):
                await self._reconcile(target)
            elif self._session.join():
                break
        self.joined = True
        self._news.set()
        self._tasks.append(loop.create_task(self._follow()))

    def check(self) -> None:
        """Raise the error that ended a task of this, if there is one: for Serve's health check."""
        for task in self._tasks:
            if task.done():
                task.result()

    def close(self) -> None:
        """Follow no longer, and end the connection."""
        for task in self._tasks:
            task.cancel()

    def leave(self) -> None:
        """Say that this process is about to end by itself."""
        self._session.leave()
        self.tell()

    def tell(self) -> None:
        """Report what this process holds now."""
        self._line.tell(self._report())

    def connected(self) -> None:
        self._new = True
        self._news.set()

    def arrived(self, target: Target) -> bool:
        newest = self._session.take(target)
        if newest:
            self._participant.withdraw(target)
            self._news.set()
        return newest

    def routed(self, whole: bool, added: tuple[Address, ...], removed: tuple[str, ...]) -> None:
        """Links stay to replicas that a new coordinator does not know yet."""
        if whole:
            self._addresses.clear()
        for member in removed:
            self._addresses.pop(member, None)
        self._addresses |= {address.replica: address for address in added}
        self._participant.route(tuple(self._addresses.values()))

    async def _ask(self) -> tuple[Report, Target]:
        """Ask; raises the error that ends the line, if one does."""
        asking = asyncio.get_running_loop().create_task(self._line.ask(self._report))
        try:
            await asyncio.wait([asking, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            self.check()
            return await asking
        finally:
            asking.cancel()

    async def _follow(self) -> None:
        """Follow one target after the other. Over a new connection, and after a pause, ask for it."""
        while True:
            await self._news.wait()
            self._news.clear()
            asked, new, self._new = self._clock(), self._new or not self.pauses.fresh, False
            target = (await self._line.ask(self._report))[1] if new else self._session.newest
            if target is not None and await self._reconcile(target):
                self.tell()
                if new:
                    self.pauses.learn(asked)

    async def _reconcile(self, target: Target) -> bool:
        """Returns whether it succeeded; if not, the coordinator that has the bytes is gone."""
        try:
            await self._participant.reconcile(target)
        except Exception as error:
            if not self._finder.is_lost(error):
                raise
            if not self._lost:
                logger.warning(f"the coordinator that has the bytes is gone, trying until there is another: {error!r}")
            self._lost = True
            await asyncio.sleep(RETRY_S)
            self._news.set()  # the next coordinator has them, too
            return False
        self._lost = False
        self._session.follow(target, self._participant.report())
        return True

    def _report(self) -> Report:
        return self._session.report(self._participant.report())
