"""A swap as a pure state machine: stage everywhere, then commit everywhere; or nowhere.

    publish(staging) ── all staged ──> commit point ──> publish(committed) ── all there ──> publish(settled) ──> done
         └── one failed, ended, or late ──> publish(no staging) ── all freed ──> StageFailed, nothing has changed

A replica that ends while it stages fails the swap: the weights may be what has ended it, and would end every one that
starts with them. For the same reason at least one live replica must have staged what is committed.

What members do with a target is in `follower`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar
from uuid import uuid4

from aoti_serve.errors import StageFailed, Unavailable
from aoti_serve.weights.swap.target import Report, Staging, TargetRevision
from aoti_serve.weights.version import Committed, Version

T = TypeVar("T")


class SwapMembers(Protocol):
    """The live members, as the swap sees them; cluster/membership/registry.py has the real ones."""

    def publish(
        self, *, staging: Staging | None = None, committed: Committed | None = None, settled: int | None = None
    ) -> TargetRevision:
        """Make this the target of all members, also of those that join later; keep what is None, but for `staging`."""

    async def until(self, enough: Callable[[list[Report]], bool], timeout: float) -> list[Report]:
        """Wait until the live members' reports are `enough`, at most `timeout` seconds; the reports then."""

    async def expel(self, members: list[str]) -> None:
        """End the processes of members that cannot be brought to the committed version."""


class Phase(StrEnum):
    CHECKING = "checking"
    STAGING = "staging"
    COMMITTING = "committing"
    ABORTING = "aborting"


@dataclass(frozen=True)
class SwapDeadlines:
    """Seconds that all members together may take for a phase."""

    stage: float = 300.0
    abort: float = 30.0
    commit: float = 30.0


class Swap:
    """One swap to `version`; `commit` makes it durable, and its return is the commit point.

    Before that point a failure, a late member or a cancellation aborts everywhere; after it the swap only rolls
    forward, and a cancellation is too late. Either way nothing of it is left to do when it ends: the next one may
    begin. `entered` hears of each phase. `without_replicas` is for the way back from weights that let no replica live.
    """

    def __init__(
        self,
        version: Version,
        members: SwapMembers,
        commit: Callable[[], Awaitable[Committed]],
        deadlines: SwapDeadlines | None = None,
        entered: Callable[[Phase], None] = lambda phase: None,
        *,
        without_replicas: bool = False,
    ) -> None:
        self.id = uuid4().hex[:12]
        self.version = version
        self._members = members
        self._commit = commit
        self._deadlines = deadlines or SwapDeadlines()
        self._entered = entered
        self._without_replicas = without_replicas
        # The replicas that were there when it began, less those that have staged or say that they leave.
        self._crew: set[str] | None = None

    async def run(self) -> Committed:
        """Returns when every live member holds the new version; raises StageFailed when none does."""
        try:
            await self._stage()
            committed = await _uninterrupted(self._commit())
        except BaseException:
            await _uninterrupted(self._abort())
            raise
        self._entered(Phase.COMMITTING)
        await _uninterrupted(roll_forward(committed, self._members, self._deadlines.commit))
        return committed

    async def _stage(self) -> None:
        self._entered(Phase.STAGING)
        self._members.publish(staging=Staging(self.id, self.version))
        reports = await self._members.until(self._decided, self._deadlines.stage)
        for replica, cause in self._problems(reports):
            raise StageFailed(replica=replica, version=self.version.number, cause=cause)
        if not self._without_replicas and not any(report.runners for report in _live(reports)):
            detail = f"no live replica has staged version {self.version.number}: nothing has changed; try again"
            raise Unavailable(detail=detail)

    def _problems(self, reports: list[Report]) -> Iterator[tuple[str, BaseException | None]]:
        """Who has not staged, and why. Those that failed first: of the others, some may only not have come to it."""
        live = _live(reports)
        yield from ((report.member, report.error) for report in live if self._failed(report))
        ended = Unavailable(detail="its process has ended meanwhile")
        yield from ((member, ended) for member in sorted(self._ended(reports)))
        late = Unavailable(detail=f"no answer within {self._deadlines.stage:g} s")
        yield from ((report.member, late) for report in live if not self._staged(report))

    async def _abort(self) -> None:
        self._entered(Phase.ABORTING)
        aborted = self._members.publish(staging=None)
        await self._members.until(
            lambda reports: all(_freed(report, aborted) for report in reports), self._deadlines.abort
        )

    def _staged(self, report: Report) -> bool:
        return report.staged == self.id

    def _failed(self, report: Report) -> bool:
        return report.failed == self.id

    def _decided(self, reports: list[Report]) -> bool:
        live = _live(reports)
        ended = self._ended(reports)
        return any(map(self._failed, live)) or bool(ended) or all(map(self._staged, live))

    def _ended(self, reports: list[Report]) -> set[str]:
        """The replicas that were there when it began, and have ended before they had staged, or had said goodbye."""
        live = _live(reports)
        if self._crew is None:
            self._crew = {report.member for report in live if report.runners}
        self._crew -= {report.member for report in live if self._staged(report) or report.leaving}
        return self._crew - {report.member for report in reports}


async def roll_forward(committed: Committed, members: SwapMembers, deadline: float) -> None:
    """Bring every member to what is committed; expel those that do not get there within `deadline` seconds.

    On return no member answers with anything older, and no gateway lets such an answer through, whoever gives it: a
    replica that was stopped and expelled may wake up once more before it is dead.
    """
    members.publish(committed=committed)
    await _all_or_expelled(members, lambda report: report.holds(committed), deadline)
    members.publish(settled=committed.epoch)
    await _all_or_expelled(members, lambda report: report.settled >= committed.epoch, deadline)


async def _all_or_expelled(members: SwapMembers, done: Callable[[Report], bool], deadline: float) -> None:
    reports = await members.until(lambda reports: all(map(done, _live(reports))), deadline)
    behind = [report.member for report in _live(reports) if not done(report)]
    if behind:
        await members.expel(behind)


def _live(reports: Iterable[Report]) -> list[Report]:
    """Without those that answer nothing yet: they become ready only with what is committed then."""
    return [report for report in reports if not report.joining]


def _freed(report: Report, aborted: TargetRevision) -> bool:
    """Whether it has let go of what it had staged, or was still staging when the swap was aborted."""
    return report.joining or (report.followed >= aborted and report.staged is None)


async def _uninterrupted(work: Awaitable[T]) -> T:
    """The result of `work`, which is always done to its end. A cancellation that comes meanwhile is too late."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
