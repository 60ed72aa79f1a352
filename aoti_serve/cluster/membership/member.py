"""How a process stays in step with its coordinator: report what it holds, learn what it should hold, repeat."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import ray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import result_of
from aoti_serve.cluster.membership.pauses import PauseDetector
from aoti_serve.cluster.ray_private import over_grpc
from aoti_serve.errors import Superseded, Unavailable
from aoti_serve.weights.swap.session import MemberSession
from aoti_serve.weights.swap.target import Report, Target, TargetRevision

logger = logging.getLogger("ray.serve")
RETRY_S = 0.2
GOODBYE_S = 2.0
SYNC_TIMEOUT_S = 6.0  # the coordinator holds a question back for POLL_S, or answers at once
LOST = (RayError, RayServeException, Superseded, Unavailable)  # there may be another coordinator by now


class Participant(Protocol):
    """Something that can be brought to a target."""

    def report(self) -> Report:
        """What it holds now."""

    async def reconcile(self, target: Target) -> None:
        """Do what is missing. Raises only what must not go on: it then no longer counts as healthy."""


@asynccontextmanager
async def announce_loading(member: str, coordinator: DeploymentHandle[object]) -> AsyncIterator[None]:
    """While the block runs, every coordinator knows that this process is on its way, and answers nothing yet.

    To load a package may take minutes, and one of which nothing is known is waited for, and then replaced.
    """
    announcing = asyncio.get_running_loop().create_task(_announce(member, coordinator))
    try:
        yield
    finally:
        announcing.cancel()


async def _announce(member: str, coordinator: DeploymentHandle[object]) -> None:
    report, process, seen = Report(member, joining=True), ray.get_runtime_context().current_actor, None
    while True:
        with suppress(*LOST):
            sync = over_grpc(coordinator).sync.remote(report, process, 0, seen)
            target: Target = await result_of(sync, SYNC_TIMEOUT_S)
            seen = TargetRevision(target.term, target.revision)
        await asyncio.sleep(RETRY_S)


class Membership:
    """Runs in each replica and gateway, on its event loop."""

    def __init__(self, participant: Participant, coordinator: DeploymentHandle[object]) -> None:
        self._participant = participant
        self._coordinator = over_grpc(coordinator)
        self._process = ray.get_runtime_context().current_actor
        self._conversation = MemberSession()
        self._asked = 0.0
        self._lost = False
        self._wakefulness = PauseDetector()
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Return once the coordinator counts this as a member that holds what is committed, and follow from then on.

        Awaited in a constructor, before Serve routes anything here: a newcomer answers with nothing older, and every
        swap from then on waits for it.
        """
        while True:
            report = self._report()
            target = await self._sync(report, None)
            if not report.follows(target):
                await self._reconcile(target)
            elif self._conversation.joins():
                break
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._follow()), loop.create_task(self._wakefulness.tick())]

    def check(self) -> None:
        """Raise what ended the following, if anything did: for Serve's health check."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def leave(self) -> None:
        """Say that this process is about to end in peace, if there is a coordinator to hear it."""
        self._conversation.leaves()
        sync = self._coordinator.sync.remote(self._report(), self._process, self._conversation.seen.term, None)
        with suppress(*LOST):
            await result_of(sync, GOODBYE_S)

    async def current(self) -> None:
        """Return when what this member knows is no older than its last awakening; nearly always at once."""
        await self._wakefulness.refreshed()

    async def _follow(self) -> None:
        while True:
            seen = self._conversation.seen if self._wakefulness.fresh else None
            if await self._reconcile(await self._sync(self._report(), seen)):
                self._wakefulness.learnt(self._asked)

    async def _reconcile(self, target: Target) -> bool:
        """Whether it was done; if not, the coordinator that has the bytes is gone."""
        try:
            await self._participant.reconcile(target)
        except LOST as error:
            if isinstance(error, RayTaskError):
                raise  # a failure over there that is none of ours to wait out
            await self._wait(error)  # the next one has them, too
            return False
        self._conversation.followed(target, self._participant.report())
        return True

    async def _sync(self, report: Report, seen: TargetRevision | None) -> Target:
        """The target of the newest coordinator there is; an older one that still runs is not listened to."""
        while True:
            self._asked = time.monotonic()
            try:
                sync = self._coordinator.sync.remote(report, self._process, self._conversation.seen.term, seen)
                target: Target = await result_of(sync, SYNC_TIMEOUT_S)
            except LOST as error:
                await self._wait(error)
            else:
                self._lost = False
                if self._conversation.heeds(target):
                    return target
                await asyncio.sleep(RETRY_S)

    async def _wait(self, error: Exception) -> None:
        if not self._lost:
            logger.warning(f"nothing from the coordinator, trying until there is: {error!r}")
        self._lost = True
        await asyncio.sleep(RETRY_S)

    def _report(self) -> Report:
        return self._conversation.report(self._participant.report())
