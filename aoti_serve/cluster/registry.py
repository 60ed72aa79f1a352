"""The live members of one model's cluster, and the target they follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError

from aoti_serve.weights.swap import Report, Staging, Target
from aoti_serve.weights.version import Committed

REAP_PERIOD_S = 0.5
POLL_S = 2.0


@dataclass
class _Entry:
    report: Report
    process: ActorHandle[Any]


class Registry:
    """Who is alive and what each holds; the `Members` of a swap. Runs in the coordinator's event loop.

    A member is in from its first report until Ray says that its actor has died; so the list never misses a replica
    that could still answer, as Serve's `broadcast()` does when one is unavailable for a moment.
    """

    def __init__(self, committed: Committed) -> None:
        self.target = Target(revision=1, committed=committed)
        self.revision = 0
        self._entries: dict[str, _Entry] = {}
        self._changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()

    @property
    def reports(self) -> list[Report]:
        return [entry.report for entry in self._entries.values()]

    async def sync(self, report: Report, process: ActorHandle[Any], seen: int) -> Target:
        """Take a member's report; answer the target once it is newer than revision `seen`, or after a while."""
        self._entries[report.member] = _Entry(report, process)
        self._count_runners()
        await self._notify()
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S), self._changed:
                await self._changed.wait_for(lambda: self.target.revision > seen)
        return self.target

    def publish(self, *, staging: Staging | None, committed: Committed | None = None) -> None:
        self._retarget(staging=staging, committed=committed or self.target.committed)

    async def until(self, enough: Callable[[list[Report]], bool], timeout: float) -> list[Report]:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: enough(self.reports))
        return self.reports

    async def expel(self, members: list[str]) -> None:
        for member in members:
            if member in self._entries:
                ray.kill(self._entries.pop(member).process)
        self._count_runners()
        await self._notify()

    async def joined(self, count: int, timeout: float) -> None:
        """Wait until there are `count` members."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: len(self._entries) >= count)

    async def reap(self) -> None:
        """Forget members whose actor has died, for ever; the coordinator runs this as a task."""
        while True:
            await asyncio.gather(*(self._forget_if_dead(member) for member in list(self._entries)))
            await asyncio.sleep(REAP_PERIOD_S)

    async def changed(self, timeout: float) -> None:
        """Wait for any change, of a report or of the target; `revision` counts them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait()

    async def _forget_if_dead(self, member: str) -> None:
        entry = self._entries.get(member)
        if entry is None:
            return
        try:
            async with asyncio.timeout(REAP_PERIOD_S):
                await entry.process.__ray_ready__.remote()
        except ActorDiedError:
            self._entries.pop(member, None)
            self._count_runners()
            await self._notify()
        except (TimeoutError, RayError):
            pass  # busy or out of reach for now: still a member

    def _count_runners(self) -> None:
        runners = sum(report.runners for report in self.reports)
        if runners != self.target.runners:
            self._retarget(runners=runners)

    def _retarget(self, **changes: object) -> None:
        self.target = replace(self.target, revision=self.target.revision + 1, **changes)  # type: ignore[arg-type]
        notice = asyncio.get_running_loop().create_task(self._notify())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def _notify(self) -> None:
        self.revision += 1
        async with self._changed:
            self._changed.notify_all()
