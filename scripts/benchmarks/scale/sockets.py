"""Swaps of hundreds of members over real Unix sockets: the coordinator's server in a process of its own.

Members are the product's `Membership` with its lines, all in this process; each does at once what a target asks for.
Which processes live is played: there is no Ray.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from aoti_serve.address import Address
from aoti_serve.cluster.membership.line import CoordinatorLine, LineListener
from aoti_serve.cluster.membership.liveness import LiveActors
from aoti_serve.cluster.membership.member import Membership
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.errors import Unavailable
from aoti_serve.weights.swap.follower import Fence
from aoti_serve.weights.swap.states import State
from aoti_serve.weights.swap.target import Report, Target
from aoti_serve.weights.swap.timeouts import SwapDeadlines
from aoti_serve.weights.version import Committed, Version

SIZES = (10, 100, 300, 1_000)
SWAPS, IDLE_S = 5, 10.0
NODE = "node"


@dataclass(frozen=True)
class SocketRun:
    """Seconds of a swap (median), CPU of the coordinator per member and swap, share of a core while nothing happens.

    `join_s` is how long all members took to join, `recovery_s` to be with a coordinator that has just replaced the one
    before.
    """

    members: int
    join_s: float
    swap_s: float
    cpu_us: float
    idle_cpu: float
    recovery_s: float


class NoRay(LiveActors):
    """All processes live."""

    def __init__(self) -> None:
        super().__init__("app", ())

    def alive(self) -> dict[str, str]:
        return {}

    def doubtful(self, seconds: float) -> dict[str, float]:
        return {}


def coordinate(orders: Connection, term: int) -> None:
    """The process of a coordinator: does what it is told, and answers."""
    uvloop.run(_coordinate(orders, term))  # as in Ray's processes


async def _coordinate(orders: Connection, term: int) -> None:
    async def newest() -> None: ...

    first = Committed(epoch=1, version=Version(number=1, digest="1" * 64))
    server = MemberServer(term, first, SwapDeadlines(), NoRay(), newest)
    await server.open()
    running = asyncio.create_task(server.run())
    orders.send(await server.address(NODE, "127.0.0.1", NODE))
    while (order := await asyncio.to_thread(orders.recv)) != "end":
        started, used = time.perf_counter(), time.process_time()
        if order == "swap":
            await _swap(server)
        elif order == "rest":
            await asyncio.sleep(IDLE_S)
        else:
            while len(server.table.heard) < int(order) or server.table.behind:
                await server.changed(1.0)
        orders.send((time.perf_counter() - started, time.process_time() - used))
    running.cancel()
    server._server.close()


async def _swap(server: MemberServer) -> None:
    before = server.table.target.committed

    async def commit(version: Version) -> Committed:
        return Committed(epoch=before.epoch + 1, version=version, previous=before.version)

    swap = server.begin(Version(number=before.version.number + 1, digest="f" * 64), commit)
    await server.finish()
    assert swap.state is State.SETTLED, swap.error


class Process:
    """One member, and the way from it to the coordinator."""

    def __init__(self, number: int, address: list[Address]) -> None:
        self.member = f"member-{number}"
        self._runners = int(number % 10 > 0)
        self._address = address
        self._fence = Fence()
        self.membership = Membership(self, self)

    def line(self, listener: LineListener) -> CoordinatorLine:
        return CoordinatorLine(self.member, NODE, self._find, (Unavailable,), listener)

    def is_lost(self, error: Exception) -> bool:
        return isinstance(error, Unavailable)

    def report(self) -> Report:
        return replace(self._fence.report(self.member, NODE), runners=self._runners)

    async def reconcile(self, target: Target) -> None:
        self._fence.follow(target)

    def withdraw(self, target: Target) -> None: ...

    def route(self, addresses: tuple[Address, ...]) -> None: ...

    async def _find(self) -> Address:
        return self._address[-1]


class Coordinator:
    """The other process, from here."""

    def __init__(self, term: int) -> None:
        spawn: Any = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        self._process = spawn.Process(target=coordinate, args=(there, term), daemon=True)
        self._process.start()
        self.address: Address = self._here.recv()

    async def do(self, order: str) -> tuple[float, float]:
        self._here.send(order)
        done: tuple[float, float] = await asyncio.to_thread(self._here.recv)
        return done

    def end(self) -> None:
        self._here.send("end")
        self._process.join(10)


@asynccontextmanager
async def joined(members: int, address: list[Address]) -> AsyncIterator[None]:
    processes = [Process(number, address) for number in range(members)]
    try:
        await asyncio.gather(*[process.membership.join() for process in processes])
        yield
    finally:
        for process in processes:
            process.membership.close()


async def measure_sockets(members: int) -> SocketRun:
    coordinator = Coordinator(1)
    address = [coordinator.address]
    started = time.perf_counter()
    async with joined(members, address):
        await coordinator.do(str(members))
        join_s = time.perf_counter() - started
        swaps = [await coordinator.do("swap") for _ in range(SWAPS)]
        _, idle = await coordinator.do("rest")
        follower = Coordinator(2)
        address.append(follower.address)
        started = time.perf_counter()
        coordinator.end()
        await follower.do(str(members))
        recovery_s = time.perf_counter() - started
        follower.end()
    return SocketRun(
        members,
        round(join_s, 3),
        round(statistics.median(seconds for seconds, _ in swaps), 4),
        round(1e6 * statistics.median(cpu for _, cpu in swaps) / members, 1),
        round(idle / IDLE_S, 5),
        round(recovery_s, 3),
    )
