"""What a member says to its coordinators, and to which of them it listens."""

from __future__ import annotations

from dataclasses import replace

from aoti_serve.errors import RuntimeFailed
from aoti_serve.weights.swap.target import NOTHING_FOLLOWED, Report, Target


class MemberSession:
    """One per member. Until it has joined, the member answers no request, and no swap waits for it.

    `newest` is the newest target that has arrived, `followed` the last one that the member has followed.
    """

    def __init__(self) -> None:
        self.newest: Target | None = None
        self.followed = NOTHING_FOLLOWED
        self._joining = True
        self._leaving = False
        self._turn = 0

    def report(self, held: Report) -> Report:
        """What the member holds, as its next report."""
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
