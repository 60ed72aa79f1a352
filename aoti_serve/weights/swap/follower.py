"""A member's part in every swap: how a replica, and how a gateway, comes to hold what it should hold."""

from __future__ import annotations

from typing import Protocol

from aoti_serve.weights.swap.target import NO_EPOCH, Report, Target
from aoti_serve.weights.version import Version


class TwoBuffers(Protocol):
    """The memory of a replica: one version that answers, and room for another behind it."""

    async def stage(self, version: Version) -> None:
        """Load `version` behind the one that answers; do nothing if either buffer holds it already."""

    async def activate(self, version: Version) -> None:
        """Answer with `version`, which was staged; do nothing if it answers already."""

    def cancel_stage(self) -> None:
        """End the stage that is under way soon, with an error; do nothing if none is."""

    async def abort(self) -> None:
        """Throw away what is staged; do nothing if nothing is."""


class Follower:
    """Runs in the replica's event loop, one call of `follow` at a time. Any target may come after any other.

    `epoch` is that of the last commit that it follows. `staged`, `failed` and `error` are those of its `Report`.
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
            await self._buffers.stage(committed.version)
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
            await self._buffers.stage(version)
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
    as soon as it has heard of it.
    """

    def __init__(self) -> None:
        self.epoch = NO_EPOCH
        self.settled_epoch = NO_EPOCH
        self._staging: str | None = None

    def follow(self, target: Target) -> None:
        """Let out nothing older than what is settled, ask for nothing older than what is committed."""
        self.epoch = max(self.epoch, target.committed.epoch)
        self.settled_epoch = max(self.settled_epoch, target.settled_epoch)
        self._staging = target.staging.swap if target.staging else None

    def lets_out(self, epoch: int) -> bool:
        """An answer of this epoch may leave. A client that has seen the new version sees no old one after it."""
        self.epoch = max(self.epoch, epoch)
        return epoch >= self.settled_epoch

    def report(self, member: str, node: str = "") -> Report:
        return Report(member, node, epoch=self.epoch, settled_epoch=self.settled_epoch, staged=self._staging)
