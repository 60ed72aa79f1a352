"""The member table at work: reports come in by calls, and whoever waits for a change is woken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle

from aoti_serve.weights.swap.members import POLL_S, TICK_S, MemberTable, TimeAllowance
from aoti_serve.weights.swap.target import Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed


async def _always_newest() -> None: ...


class Registry:
    """The `Members` of a swap. Runs in the coordinator's event loop. `revision` counts changes of any kind."""

    def __init__(
        self, term: int, committed: Committed, check_term: Callable[[], Awaitable[None]] = _always_newest
    ) -> None:
        self.table = MemberTable(term, committed)
        self.revision = 0
        self._last_heard = time.monotonic()
        self._check_term = check_term
        self._processes: dict[str, ActorHandle[Any]] = {}
        self._changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> Target:
        return self.table.target

    @property
    def reports(self) -> list[Report]:
        return self.table.reports

    def expect(self, processes: Mapping[str, ActorHandle[Any]]) -> None:
        """Count these as members of which nothing is known yet: they may answer already."""
        self._processes = {**processes, **self._processes}
        self.table.expect(processes)

    async def sync(self, report: Report, process: ActorHandle[Any], seen: TargetRevision | None) -> Target:
        """Take a member's report; answer the target once it is newer than what it has `seen`, or after a while."""
        self._last_heard = time.monotonic()
        self._processes[report.member] = process
        if self.table.hear(report):
            await self.touch()
        if not self.table.has_news(seen):
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S), self._changed:
                    await self._changed.wait_for(lambda: self.table.has_news(seen))
        return self.target

    def publish(
        self, *, staging: Staging | None = None, committed: Committed | None = None, settled: int | None = None
    ) -> TargetRevision:
        published = self.table.publish(staging=staging, committed=committed, settled=settled)
        self._notify_soon()
        return published

    def settle(self) -> None:
        """See `MemberTable.settle`."""
        if self.table.settle():
            self._notify_soon()

    async def until(self, enough: Callable[[list[Report]], bool], timeout: float) -> list[Report]:
        """Wait until the reports are `enough`, for as long as the `TimeAllowance` of `timeout` seconds lasts."""
        allowance = TimeAllowance(timeout)
        while allowance.left > 0 and not enough(self.reports):
            started = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(allowance.left, TICK_S)), self._changed:
                    await self._changed.wait_for(lambda: enough(self.reports))
            now = time.monotonic()
            allowance.spend(now - started, now - self._last_heard)
        return self.reports

    async def expel(self, members: Iterable[str]) -> None:
        """Raises Superseded instead if another coordinator has followed this one: then they are not ours to end."""
        await self._check_term()
        expelled = list(members)
        for member in expelled:
            if process := self._processes.pop(member, None):
                ray.kill(process)
        self.table.remove(expelled)
        await self.touch()

    async def keep(self, alive: set[str], known: set[str]) -> None:
        """Forget those of the `known` that are no longer alive."""
        for member in known - alive:
            self._processes.pop(member, None)
        if self.table.keep(alive, known):
            await self.touch()

    async def changed(self, timeout: float) -> None:
        """Wait for any change, of a report, of the target or of a swap's progress."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait()

    async def touch(self) -> None:
        """Wake all that wait for a change."""
        self.revision += 1
        async with self._changed:
            self._changed.notify_all()

    def _notify_soon(self) -> None:
        notice = asyncio.get_running_loop().create_task(self.touch())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)
