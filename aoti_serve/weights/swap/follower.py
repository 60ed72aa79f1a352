"""A member's part in every swap: its talk with coordinators, and how a replica, or a gateway, follows a target."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from aoti_serve.errors import RuntimeFailed
from aoti_serve.weights.swap.target import NO_EPOCH, NOTHING_FOLLOWED, Report, Staging, Target
from aoti_serve.weights.version import Version


class TwoBuffers(Protocol):
    """The memory of a replica: one version that answers, and room for another behind it."""

    async def stage(self, version: Version, *, accepted: bool) -> None:
        """Load `version` behind the one that answers; do nothing if either buffer holds it already.

        One that is committed was `accepted` by others: a newcomer must answer with it, and no test may keep it out.
        """

    async def activate(self, version: Version) -> None:
        """Answer with `version`, which was staged; do nothing if it answers already."""

    def cancel_stage(self) -> None:
        """End the stage that is under way soon, with an error; do nothing if none is."""

    async def abort(self) -> None:
        """Throw away what is staged; do nothing if nothing is."""


class Follower:
    """Brings the buffers of a replica to a target, in its event loop. Any target may come after any other.

    One call of `follow` at a time. `epoch` is that of the last commit that it follows; `staged`, `failed` and `error`
    are those of its `Report`.
    """

    def __init__(self, buffers: TwoBuffers) -> None:
        self._buffers = buffers
        self.epoch = NO_EPOCH
        self.staged: str | None = None
        self.failed: str | None = None
        self.error: BaseException | None = None
        self.staging: str | None = None  # the swap that is being staged
        self._may_hold_more = False  # whether something may be staged, of whichever swap

    async def follow(self, target: Target) -> None:
        """Commit what is committed, stage what is staged, throw away what is neither.

        Raises the error that keeps it from holding what is committed; its process should not go on then.
        """
        committed, staging = target.committed, target.staging
        if committed.epoch > self.epoch:
            self.staged = None
            await self._buffers.stage(committed.version, accepted=True)
            await self._buffers.activate(committed.version)
            self.epoch = committed.epoch
        if staging is None:
            await self._unstage()
        elif staging.swap not in (self.staged, self.failed):
            await self._stage(staging.swap, staging.version)

    def withdraw(self, target: Target) -> None:
        """This target has come meanwhile: stop staging a swap that it no longer asks for."""
        if self.staging is not None and (target.staging is None or target.staging.swap != self.staging):
            self._buffers.cancel_stage()

    async def _stage(self, swap: str, version: Version) -> None:
        self.staged = self.failed = self.error = None
        self._may_hold_more, self.staging = True, swap
        try:
            await self._buffers.stage(version, accepted=False)
        except Exception as error:  # whatever it is, the coordinator must hear it, and the old version goes on
            self.failed, self.error = swap, error
        else:
            self.staged = swap
        finally:
            self.staging = None

    async def _unstage(self) -> None:
        self.staged = self.failed = self.error = None
        if self._may_hold_more:
            await self._buffers.abort()
            self._may_hold_more = False


class Fence:
    """A gateway's part in every swap: it keeps old answers in. Lives in a gateway, one for each model.

    `epoch` is the lowest that a replica may answer a new request with. A gateway holds no weights: it has staged a swap
    as soon as it has heard of it. `candidate` is the one that is out, if there is one.
    """

    def __init__(self) -> None:
        self.epoch = NO_EPOCH
        self.settled_epoch = NO_EPOCH
        self.candidate: Staging | None = None
        self._version: int | None = None
        self._staging: str | None = None

    def follow(self, target: Target) -> None:
        """Let out nothing older than what is settled, ask for nothing older than what is committed."""
        self.epoch = max(self.epoch, target.committed.epoch)
        self.settled_epoch = max(self.settled_epoch, target.settled_epoch)
        self._version, staging = target.committed.version.number, target.staging
        self._staging = staging.swap if staging else None
        self.candidate = staging if staging and staging.exposure else None

    def lets_out(self, epoch: int) -> bool:
        """An answer of this epoch may leave. A client that has seen the new version sees no old one after it."""
        self.epoch = max(self.epoch, epoch)
        return epoch >= self.settled_epoch

    def trusts(self, version: int) -> bool:
        """Whether it may answer a client that has not asked for it: it is committed, or the candidate."""
        return version == self._version or (self.candidate is not None and version == self.candidate.version.number)

    def report(self, member: str, node: str = "") -> Report:
        return Report(member, node, epoch=self.epoch, settled_epoch=self.settled_epoch, staged=self._staging)


class MemberSession:
    """What a member knows from its talk with coordinators.

    Until it has joined, it answers no request, and no swap waits for it. `newest` is the newest target that has
    arrived, `followed` the last one that the member has followed.
    """

    def __init__(self) -> None:
        self.newest: Target | None = None
        self.followed = NOTHING_FOLLOWED
        self._joining = True
        self._leaving = False
        self._turn = 0

    def report(self, held: Report) -> Report:
        """Make the next report of what the member holds."""
        self._turn += 1
        return replace(held, turn=self._turn, joining=self._joining, leaving=self._leaving, followed=self.followed)

    def take(self, target: Target) -> bool:
        """A target has arrived; returns whether it comes from the newest coordinator known.

        The member does not listen to an older one. A target that a newer one has overtaken changes nothing.
        """
        if self.newest is not None and target.term < self.newest.term:
            return False
        if self.newest is None or target.at > self.newest.at:
            self.newest = target
        return True

    def join(self) -> bool:
        """Its last report follows the target that was the answer to it; returns whether it is a member now.

        The first time it is none yet: the coordinator still counts it as joining, and may commit without it. The next
        report says that it has joined, and from that report on every swap waits for it.
        """
        joined, self._joining = not self._joining, False
        return joined

    def leave(self) -> None:
        """From the next report on it says that it is about to end, by itself."""
        self._leaving = True

    def follow(self, target: Target, held: Report) -> None:
        """The member has done all it can for the target. Raises RuntimeFailed if it still does not hold it."""
        self.followed = target.at
        if not held.holds(target.committed):
            raise RuntimeFailed(call="reconcile", detail=f"still not at {target.committed}")
