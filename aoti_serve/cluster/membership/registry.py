"""The live members of one model's cluster, and the target they follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.actor import ActorHandle

from aoti_serve.weights.swap.target import Report, Seen, Staging, Target
from aoti_serve.weights.version import Committed

POLL_S = 2.0
TICK_S = 0.5


async def _always_newest() -> None: ...


@dataclass
class _Entry:
    report: Report
    process: ActorHandle[Any]


class Registry:
    """Who is alive and what each holds; the `Members` of a swap. Runs in the coordinator's event loop.

    A member is in from the start of the coordinator, or from its first report, until the cluster says that its process
    has ended; so the list never misses a replica that could still answer.
    """

    def __init__(
        self, term: int, committed: Committed, check_term: Callable[[], Awaitable[None]] = _always_newest
    ) -> None:
        self.target = Target(term=term, revision=1, committed=committed)
        self.revision = 0
        self.heard: set[str] = set()  # who has reported to this coordinator
        self._last_heard = time.monotonic()
        self._check_term = check_term
        self._entries: dict[str, _Entry] = {}
        self._changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()

    @property
    def reports(self) -> list[Report]:
        return [entry.report for entry in self._entries.values()]

    def expect(self, processes: Mapping[str, ActorHandle[Any]]) -> None:
        """Count these as members of whom nothing is known yet: they may answer already."""
        for member, process in processes.items():
            self._entries.setdefault(member, _Entry(Report(member), process))

    async def sync(self, report: Report, process: ActorHandle[Any], seen: Seen | None) -> Target:
        """Take a member's report; answer the target once it is newer than what it has `seen`, or after a while."""
        self._last_heard = time.monotonic()
        before = self._entries.get(report.member)
        if before is None or report.turn > before.report.turn:
            self._entries[report.member] = _Entry(report, process)
            self.heard.add(report.member)
            if before is None or replace(before.report, turn=report.turn) != report:
                await self.touch()
        if seen is not None and seen.term == self.target.term:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S), self._changed:
                    await self._changed.wait_for(lambda: self.target.revision > seen.revision)
        return self.target

    def publish(
        self, *, staging: Staging | None = None, committed: Committed | None = None, settled: int | None = None
    ) -> Seen:
        before = self.target
        self._retarget(
            staging=staging,
            committed=committed or before.committed,
            settled=before.settled if settled is None else settled,
        )
        return Seen(self.target.term, self.target.revision)

    async def until(self, enough: Callable[[list[Report]], bool], timeout: float) -> list[Report]:
        """Time in which this process was stopped, or nobody at all was heard, does not count: nobody else is late then.

        Serve takes a coordinator out of its routes before it has ended, and while its last swap is still under way.
        """
        left = timeout
        while left > 0 and not enough(self.reports):
            started = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, TICK_S)), self._changed:
                    await self._changed.wait_for(lambda: enough(self.reports))
            now = time.monotonic()
            if now - self._last_heard < POLL_S + TICK_S:
                left -= min(now - started, 2 * TICK_S)
        return self.reports

    async def expel(self, members: Iterable[str]) -> None:
        """Raises Superseded instead if another coordinator has followed this one: then they are not ours to end."""
        await self._check_term()
        for member in members:
            if member in self._entries:
                ray.kill(self._entries[member].process)
                del self._entries[member]
        await self.touch()

    async def keep(self, alive: set[str], known: set[str]) -> None:
        """Forget those of the `known` that are no longer alive."""
        dead = known - alive
        self.heard -= dead
        if dead & self._entries.keys():
            self._entries = {member: entry for member, entry in self._entries.items() if member not in dead}
            await self.touch()

    async def changed(self, timeout: float) -> None:
        """Wait for any change, of a report, of the target or of a swap's progress; `revision` counts them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait()

    async def touch(self) -> None:
        """Let everybody look again."""
        self._locate()
        await self._notify()

    def _locate(self) -> None:
        """Let gateways know where replicas answer, and replicas whether gateways are on other nodes."""
        reports = self.reports
        addresses = tuple(report.address for report in reports if report.address and not report.joining)
        spread = len({report.node for report in reports if report.node}) > 1
        if (addresses, spread) != (self.target.addresses, self.target.spread):
            self._retarget(addresses=addresses, spread=spread)

    def _retarget(self, **changes: object) -> None:
        self.target = replace(self.target, revision=self.target.revision + 1, **changes)  # type: ignore[arg-type]
        notice = asyncio.get_running_loop().create_task(self._notify())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def _notify(self) -> None:
        self.revision += 1
        async with self._changed:
            self._changed.notify_all()
