"""Failure detector: forgets members whose process has ended, and replaces those that do not reach what is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aoti_serve.cluster.membership.live_actors import LiveActors
from aoti_serve.cluster.membership.registry import Registry
from aoti_serve.weights.swap.members import LagDetector

logger = logging.getLogger("ray.serve")
PERIOD_S = 0.5


class FailureDetector:
    """Looks at the members twice a second; the coordinator runs it as a task.

    A member that does not hold what is committed, and is not brought there within `patience` seconds, is ended; its
    successor starts with what is committed. After a restart of the coordinator that is how a commit is completed that
    its predecessor began.
    """

    def __init__(self, registry: Registry, census: LiveActors, patience: float, swapping: Callable[[], bool]) -> None:
        self._registry = registry
        self._census = census
        self._patience = patience
        self._swapping = swapping
        self._laggards = LagDetector(patience, PERIOD_S)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            await self._forget_the_dead()
            if self._swapping():
                self._laggards.forgive()
            else:
                await self._replace_the_diverged()

    async def _forget_the_dead(self) -> None:
        known = {report.member for report in self._registry.reports}
        try:
            alive = await asyncio.to_thread(self._census.alive)
        except Exception as error:  # the control store is away: members that were alive still count
            logger.warning(f"the cluster's books cannot be read now: {error!r}")
        else:
            await self._registry.keep(alive, known)

    async def _replace_the_diverged(self) -> None:
        late = self._laggards.look(self._registry.table)
        if late:
            version = self._registry.target.committed.version
            logger.warning(f"replacing {', '.join(late)}: not at {version} in {self._patience:g} s")
            await self._registry.expel(late)
        self._registry.settle()
