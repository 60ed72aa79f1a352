"""A swap as a pure state machine: stage everywhere, then commit everywhere; or nowhere.

Nobody is told what to do. The coordinator publishes a `Target`, what everybody should hold; each member compares it
with what it holds, does what is missing, and reports. So a lost reply, a repeated order, a newcomer and a member that
comes back from the dead are one case: it sees the target and catches up.

    publish(staging) ── all staged ──> commit point ──> publish(committed) ── all there ──> done
         └── one failed, or late ──> publish(no staging) ── all freed ──> StageFailed, nothing has changed
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import uuid4

from aoti_serve.errors import StageFailed, Unavailable
from aoti_serve.tensors import Frozen
from aoti_serve.weights.version import Committed, Version


class Receipt(Frozen):
    """A replica's signed-off answer to a stage or a commit; `milliseconds` is what it took there."""

    replica: str
    node: str
    pid: int
    device: str
    gpu_ids: tuple[str, ...]
    epoch: int
    version: int
    digest: str
    milliseconds: float


@dataclass(frozen=True)
class Staging:
    """The version that every replica should have staged, under the id of its swap."""

    swap: str
    version: Version


@dataclass(frozen=True)
class Target:
    """What everybody should hold. `revision` grows with every change; `runners` is how many runners are live."""

    revision: int
    committed: Committed
    staging: Staging | None = None
    runners: int = 0


@dataclass(frozen=True)
class Report:
    """What a member holds: a replica, or a gateway, which has no runners and only needs the fence.

    `epoch` is -1 before it holds anything; `staged` the swap it has staged; `failed` the swap that it could not stage,
    for the reason `error`.
    """

    member: str
    runners: int = 0
    epoch: int = -1
    staged: str | None = None
    failed: str | None = None
    error: BaseException | None = None
    receipt: Receipt | None = None


class Members(Protocol):
    """The live members, as the swap sees them; cluster/registry.py has the real ones."""

    def publish(self, *, staging: Staging | None, committed: Committed | None = None) -> None:
        """Make this the target of all members, also of those that join later; keep the committed one if None."""

    async def until(self, enough: Callable[[list[Report]], bool], timeout: float) -> list[Report]:
        """Wait until the live members' reports are `enough`, at most `timeout` seconds; the reports then."""

    async def expel(self, members: list[str]) -> None:
        """End the processes of members that cannot be brought to the committed version."""


class Phase(StrEnum):
    STAGING = "staging"
    COMMITTING = "committing"
    ABORTING = "aborting"


@dataclass(frozen=True)
class Deadlines:
    """Seconds that all members together may take for a phase."""

    stage: float = 300.0
    abort: float = 30.0
    commit: float = 30.0


class Swap:
    """One swap to `version`; `commit` makes it durable, and its return is the commit point.

    Before that point a failure, a late member or a cancellation aborts everywhere; after it the swap only rolls
    forward: members that do not follow in time are expelled, and their successors start with the committed version.
    """

    def __init__(
        self, version: Version, members: Members, commit: Callable[[], Committed], deadlines: Deadlines | None = None
    ) -> None:
        self.id = uuid4().hex[:12]
        self.version = version
        self.phase = Phase.STAGING
        self._members = members
        self._commit = commit
        self._deadlines = deadlines or Deadlines()
        self._committed: Committed | None = None

    async def run(self) -> Committed:
        """Returns when every live member holds the new version; raises StageFailed when none does."""
        try:
            await self._stage()
            committed = self._commit()
        except BaseException:
            await asyncio.shield(self._abort())
            raise
        self._committed = committed
        await asyncio.shield(self._roll_forward(committed))
        return committed

    def done(self, report: Report) -> bool:
        """Whether a member has done the phase under way."""
        if self.phase == Phase.STAGING:
            return self._staged(report)
        if self._committed is not None:
            return report.epoch >= self._committed.epoch
        return report.staged is None

    async def _stage(self) -> None:
        self._members.publish(staging=Staging(self.id, self.version))
        reports = await self._members.until(self._decided, self._deadlines.stage)
        late = Unavailable(detail=f"no answer within {self._deadlines.stage:g} s")
        # Those that failed first: of the others, some may only not have come to it.
        for report in sorted(reports, key=lambda report: not self._failed(report)):
            if not self._staged(report):
                cause = report.error if self._failed(report) else late
                raise StageFailed(replica=report.member, version=self.version.number, cause=cause)

    async def _abort(self) -> None:
        self.phase = Phase.ABORTING
        self._members.publish(staging=None)
        await self._members.until(self._all_done, self._deadlines.abort)

    async def _roll_forward(self, committed: Committed) -> None:
        self.phase = Phase.COMMITTING
        self._members.publish(staging=None, committed=committed)
        reports = await self._members.until(self._all_done, self._deadlines.commit)
        behind = [report.member for report in reports if not self.done(report)]
        if behind:
            await self._members.expel(behind)

    def _staged(self, report: Report) -> bool:
        return report.staged == self.id

    def _failed(self, report: Report) -> bool:
        return report.failed == self.id

    def _decided(self, reports: list[Report]) -> bool:
        return any(map(self._failed, reports)) or all(map(self._staged, reports))

    def _all_done(self, reports: list[Report]) -> bool:
        return all(map(self.done, reports))
