"""A member's connection to the newest coordinator, which is made anew for as long as the process lives."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Protocol

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from aoti_serve.address import Address
from aoti_serve.cluster.calls import CALL_LOST, result_of
from aoti_serve.cluster.membership.wire import report_bytes, reroute_of, target_of
from aoti_serve.cluster.ray_private import over_grpc
from aoti_serve.errors import LinkBroken, Superseded, Unavailable
from aoti_serve.link.control import ControlLink
from aoti_serve.link.frames import Kind
from aoti_serve.weights.swap.target import Report, Target
from aoti_serve.weights.swap.timeouts import HEARTBEAT_S

logger = logging.getLogger("ray.serve")
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 5.0  # doubled after each try, and never all members at the same moment
FIND_S = 6.0
ANSWER_S = 6.0  # a coordinator looks into its store before it answers
LOST = (*CALL_LOST, Superseded, Unavailable)


class LineListener(Protocol):
    """Hears what happens on a line. Called in the event loop."""

    def connected(self) -> None:
        """There is a new connection: reports that were sent before may be lost."""

    def arrived(self, target: Target) -> bool:
        """A target; returns whether it comes from the newest coordinator known."""

    def routed(self, whole: bool, added: tuple[Address, ...], removed: tuple[str, ...]) -> None:
        """Replicas have come and gone."""


class CoordinatorLine:
    """A connection that is made anew whenever it ends. Lives in a member's event loop.

    `find` returns the address of the newest coordinator; `lost` are the errors that it raises while there is none.
    """

    def __init__(
        self,
        member: str,
        node: str,
        find: Callable[[], Awaitable[Address]],
        lost: tuple[type[Exception], ...],
        listener: LineListener,
    ) -> None:
        self._member = member
        self._node = node
        self._find = find
        self._lost: tuple[type[Exception], ...] = (OSError, *lost)
        self._listener = listener
        self._link: ControlLink | None = None
        self._connected = asyncio.Event()
        self._asked: dict[int, Future[Target]] = {}
        self._numbers = count(1)

    async def run(self) -> None:
        """Stay connected; for ever, as a task."""
        pause = FIRST_RETRY_S
        while True:
            started = time.monotonic()
            try:
                await self._stay()
                if time.monotonic() - started > LONGEST_RETRY_S:
                    pause = FIRST_RETRY_S
            except self._lost as error:
                if pause == FIRST_RETRY_S:
                    logger.warning(f"no connection to the coordinator, trying until there is: {error!r}")
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_RETRY_S)

    def tell(self, report: Report) -> None:
        """Send a report. Without a connection none is needed: the next connection begins with a question."""
        if self._link is not None:
            self._link.report(report_bytes(report))

    async def ask(self, report: Callable[[], Report]) -> tuple[Report, Target]:
        """Report, and return that report and the newest target. Waits until the newest coordinator answers."""
        while True:
            await self._connected.wait()
            try:
                async with asyncio.timeout(ANSWER_S):
                    sent = report()
                    return sent, await self._question(sent)
            except (LinkBroken, TimeoutError):
                if self._link is not None:
                    self._link.cut()
                await asyncio.sleep(FIRST_RETRY_S * random.uniform(0.5, 1.5))

    async def _stay(self) -> None:
        """Connect, and stay connected until the connection ends."""
        link = await ControlLink(await self._find(), self._member, self._take).connect(self._node)
        self._link = link
        self._connected.set()
        self._listener.connected()
        try:
            while not link.closed.done():
                await asyncio.wait([link.closed], timeout=HEARTBEAT_S)
                link.tick()
        finally:
            self._link = None
            self._connected.clear()
            link.cut()

    async def _question(self, report: Report) -> Target:
        number, link = next(self._numbers), self._link
        self._asked[number] = answer = asyncio.get_running_loop().create_future()
        try:
            if link is not None:
                link.report(report_bytes(report), number)
                await asyncio.wait({answer, link.closed}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise LinkBroken(detail="the coordinator has gone")
            target: Target = answer.result()
            return target
        finally:
            del self._asked[number]

    def _take(self, kind: Kind, call: int, message: memoryview) -> None:
        if kind is Kind.ROUTE:
            self._listener.routed(*reroute_of(message))
            return
        target = target_of(message)
        if not self._listener.arrived(target):
            raise LinkBroken(detail="there is a newer coordinator than this one")
        answer = self._asked.get(call)
        if answer is not None and not answer.done():
            answer.set_result(target)


class CoordinatorFinder:
    """Finds the newest coordinator: Serve knows which process that is. Used in a member's event loop.

    `member` is the name of this process, `node` Ray's id of its node.
    """

    def __init__(self, coordinator: DeploymentHandle[Any], member: str, node: str) -> None:
        self.member = member
        self._node = node
        self._coordinator = over_grpc(coordinator)

    def line(self, listener: LineListener) -> CoordinatorLine:
        return CoordinatorLine(self.member, self._node, self._find, LOST, listener)

    def is_lost(self, error: Exception) -> bool:
        """Whether the coordinator has gone, says the error. A failure inside the coordinator says something else."""
        return isinstance(error, LOST) and not isinstance(error, RayTaskError)

    async def _find(self) -> Address:
        address: Address = await result_of(self._coordinator.address.remote(self._node), FIND_S)
        return address
