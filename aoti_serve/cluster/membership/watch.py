"""Who has died is forgotten, who has diverged is replaced: between swaps as well as in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aoti_serve.cluster.membership.census import Census
from aoti_serve.cluster.membership.registry import Registry

logger = logging.getLogger("ray.serve")
PERIOD_S = 0.5
UNHEARD_S = 15.0  # a member may wait for an answer of the coordinator before this one for ANSWER_S


class Watch:
    """Looks at the members twice a second; the coordinator runs it as a task.

    A member that does not hold what is committed, and is not brought there within `patience` seconds, is ended; its
    successor starts with what is committed. After a restart of the coordinator that is how a commit is completed that
    its predecessor began. A coordinator that has heard of nobody at all ends nobody: it may be itself that is cut off.
    """

    def __init__(self, registry: Registry, census: Census, patience: float, swapping: Callable[[], bool]) -> None:
        self._registry = registry
        self._census = census
        self._patience = patience
        self._swapping = swapping
        self._behind: dict[str, int] = {}  # for how many looks; not in seconds, in which this process may be stopped

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            await self._forget_the_dead()
            if self._swapping():  # then the swap itself has the deadlines
                self._behind.clear()
            else:
                await self._replace_the_diverged()

    async def _forget_the_dead(self) -> None:
        known = {report.member for report in self._registry.reports}
        try:
            alive = await asyncio.to_thread(self._census.alive)
        except Exception as error:  # the control store is away: whoever was alive still counts
            logger.warning(f"the cluster's books cannot be read now: {error!r}")
        else:
            await self._registry.keep(alive, known)

    async def _replace_the_diverged(self) -> None:
        target = self._registry.target
        behind = {
            report.member
            for report in self._registry.reports
            if not report.joining and not report.holds(target.committed)
        }
        self._behind = {member: self._behind.get(member, 0) + 1 for member in behind}
        late = [member for member, looks in self._behind.items() if looks * PERIOD_S > self._patience_with(member)]
        if late and self._registry.heard:
            logger.warning(f"replacing {', '.join(late)}: not at {target.committed.version} in {self._patience:g} s")
            await self._registry.expel(late)
        if not behind and target.settled < target.committed.epoch:
            self._registry.publish(staging=target.staging, settled=target.committed.epoch)

    def _patience_with(self, member: str) -> float:
        return self._patience if member in self._registry.heard else max(self._patience, UNHEARD_S)
