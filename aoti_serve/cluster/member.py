"""How a process stays in step with its coordinator: report what it holds, learn what it should hold, repeat."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import unwrapped
from aoti_serve.weights.swap import Report, Target

logger = logging.getLogger("ray.serve")
RETRY_S = 0.2


class Participant(Protocol):
    """Something that can be brought to a target."""

    def report(self) -> Report:
        """What it holds now."""

    async def reconcile(self, target: Target) -> None:
        """Do what is missing. Raises only what must not go on: it then no longer counts as healthy."""


class Membership:
    """Runs in each replica and gateway, on its event loop."""

    def __init__(self, participant: Participant, coordinator: DeploymentHandle[object]) -> None:
        self._participant = participant
        self._coordinator = coordinator
        self._process = ray.get_runtime_context().current_actor
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Return once the participant holds what is committed, and follow from then on.

        Awaited in a constructor, before Serve routes anything here: a newcomer answers with nothing older.
        """
        seen = await self._step(-1)
        self._task = asyncio.get_running_loop().create_task(self._follow(seen))

    def check(self) -> None:
        """Raise what ended the following, if anything did: for Serve's health check."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def _follow(self, seen: int) -> None:
        while True:
            seen = await self._step(seen)

    async def _step(self, seen: int) -> int:
        target = await self._learn(seen)
        await self._participant.reconcile(target)
        return target.revision

    async def _learn(self, seen: int) -> Target:
        while True:
            try:
                sync = self._coordinator.sync.remote(self._participant.report(), self._process, seen)
                target: Target = await unwrapped(sync)
                return target
            except (RayError, RayServeException) as error:
                logger.warning(f"the coordinator does not answer, trying again: {error!r}")
                seen = -1  # a restarted coordinator counts its revisions anew
                await asyncio.sleep(RETRY_S)
