"""A coordinator's server and members of it in one event loop, over real Unix sockets; Ray is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from aoti_serve.address import Address
from aoti_serve.cluster.membership.line import CoordinatorLine, LineListener
from aoti_serve.cluster.membership.liveness import LiveActors
from aoti_serve.cluster.membership.member import Membership
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.errors import AotiServeError, Superseded, TryAgain, Unavailable
from aoti_serve.weights.swap.follower import Fence
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.swap import Swap
from aoti_serve.weights.swap.target import Report, Target
from aoti_serve.weights.swap.timeouts import SwapDeadlines
from aoti_serve.weights.version import Committed, Version

NODE = "node"
COMMITTED = Committed(epoch=4, version=Version(number=7, digest="sha of 7"))
NEXT = Version(number=8, digest="sha of 8")
PATIENCE_S = 20.0


class PlayedRay(LiveActors):
    """Which processes live is what the test says."""

    def __init__(self) -> None:
        super().__init__("app", ())
        self.living: set[str] = set()
        self.dead_lately: dict[str, float] = {}
        self.kills: list[set[str]] = []
        self.away = False
        self.looks = 0

    def alive(self) -> dict[str, str]:
        self.looks += 1
        return dict.fromkeys(self.living, NODE)

    def doubtful(self, seconds: float) -> dict[str, float]:
        return dict(self.dead_lately)

    def kill(self, members: Iterable[str]) -> None:
        self.kills.append(set(members))
        if self.away:
            raise RuntimeError("the control store does not answer")

    def unreachable(self, members: Mapping[str, str]) -> set[str]:
        return set()


class Cluster:
    """The newest coordinator, and the members that were made for it."""

    def __init__(self) -> None:
        self.ray = PlayedRay()
        self.newest: MemberServer | None = None
        self.members: dict[str, Process] = {}
        self.terms = 0
        self._running: list[asyncio.Task[None]] = []

    @property
    def server(self) -> MemberServer:
        assert self.newest is not None
        return self.newest

    async def start(self, committed: Committed = COMMITTED, deadlines: SwapDeadlines | None = None) -> MemberServer:
        self.terms += 1
        term = self.terms

        async def check_term() -> None:
            if term != self.terms:
                raise Superseded(model="m", term=term, newer=self.terms)

        made = MemberServer(term, committed, deadlines or SwapDeadlines(), self.ray, check_term)
        await made.open()
        self.newest = made
        self._running = [asyncio.create_task(made.run()), asyncio.create_task(made.liveness.run())]
        return made

    async def stop(self) -> None:
        """The coordinator's process ends."""
        self.server._server.close()
        self.newest = None
        for task in self._running:
            task.cancel()

    async def add(self, name: str, runners: int = 0) -> Process:
        made = Process(name, runners, self)
        self.members[name] = made
        self.ray.living.add(name)
        await made.membership.join()
        return made

    def end(self, name: str) -> None:
        self.ray.living.discard(name)
        self.members.pop(name).membership.close()

    async def swap(self, version: Version = NEXT) -> Swap:
        server = self.server
        before = server.table.target.committed

        async def commit(version: Version) -> Committed:
            return Committed(epoch=before.epoch + 1, version=version, previous=before.version)

        swap = server.begin(version, commit)
        async with asyncio.timeout(PATIENCE_S):
            await server.finish()
        return swap

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not happened():
                await self.server.changed(0.05)

    async def close(self) -> None:
        for member in self.members.values():
            member.membership.close()
        if self.newest is not None:
            await self.stop()


class Process:
    """A member: a gateway, or with runners a replica that holds whatever it is told to at once. Also its `Finder`."""

    def __init__(self, member: str, runners: int, cluster: Cluster) -> None:
        self.member = member
        self.runners = runners
        self.addresses: tuple[Address, ...] = ()
        self.fence = Fence()
        self.broken: AotiServeError | None = None
        self.lost, self.tries = False, 0
        self._cluster = cluster
        self.membership = Membership(self, self)

    def line(self, listener: LineListener) -> CoordinatorLine:
        return CoordinatorLine(self.member, NODE, self._find, (Unavailable, Superseded), listener)

    def is_lost(self, error: Exception) -> bool:
        return isinstance(error, Unavailable)

    def report(self) -> Report:
        address = Address(self.member, NODE, f"/{self.member}", self.runners, b"key") if self.runners else None
        report = self.fence.report(self.member, NODE)
        if self.broken is not None:
            report = replace(report, staged=None, failed=report.staged, error=self.broken)
        return replace(report, runners=self.runners, address=address)

    async def reconcile(self, target: Target) -> None:
        self.tries += 1
        if self.lost:
            raise TryAgain(detail="the one that has the bytes is gone")
        self.fence.follow(target)

    def withdraw(self, target: Target) -> None:
        """Nothing here takes long."""

    def route(self, addresses: tuple[Address, ...]) -> None:
        self.addresses = addresses

    async def _find(self) -> Address:
        if self._cluster.newest is None:
            raise TryAgain(detail="there is no coordinator")
        return await self._cluster.newest.address(NODE, "127.0.0.1", NODE)


@asynccontextmanager
async def a_cluster(
    replicas: int = 2, gateways: int = 1, deadlines: SwapDeadlines | None = None
) -> AsyncIterator[Cluster]:
    cluster = Cluster()
    await cluster.start(deadlines=deadlines)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*[cluster.add(f"r{number}", runners=1) for number in range(replicas)])
            await asyncio.gather(*[cluster.add(f"g{number}") for number in range(gateways)])
        yield cluster
    finally:
        await cluster.close()


def is_settled(swap: Swap) -> bool:
    return swap.state is State.SETTLED
