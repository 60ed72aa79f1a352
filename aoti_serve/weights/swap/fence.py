"""What keeps old answers in: a gateway's part in every swap."""

from __future__ import annotations

from aoti_serve.weights.swap.target import NO_EPOCH, Report, Target


class Fence:
    """Lives in a gateway, one for each model. `epoch` is the lowest that a replica may answer a new request with.

    A gateway holds no weights: it has staged a swap as soon as it has heard of it.
    """

    def __init__(self) -> None:
        self.epoch = NO_EPOCH
        self.settled = NO_EPOCH
        self._staging: str | None = None

    def follow(self, target: Target) -> None:
        """Let out nothing older than what is settled, ask for nothing older than what is committed."""
        self.epoch = max(self.epoch, target.committed.epoch)
        self.settled = max(self.settled, target.settled)
        self._staging = target.staging.swap if target.staging else None

    def lets_out(self, epoch: int) -> bool:
        """An answer of this epoch may leave. A client that has seen the new version sees no old one after it."""
        self.epoch = max(self.epoch, epoch)
        return epoch >= self.settled

    def report(self, member: str, node: str = "") -> Report:
        return Report(member, node, epoch=self.epoch, settled=self.settled, staged=self._staging)
