"""A member's side of the talk with its coordinators: what it says with each report, and whom it listens to. No Ray."""

from __future__ import annotations

from dataclasses import replace

from aoti_serve.errors import RuntimeFailed
from aoti_serve.weights.swap.target import Report, Target, TargetRevision


class MemberSession:
    """One per member. Until it has joined, the member answers no request, and no swap waits for it."""

    def __init__(self) -> None:
        self.seen = TargetRevision()
        self._joining = True
        self._leaving = False
        self._turn = 0

    def report(self, held: Report) -> Report:
        """What the member holds, as its next report."""
        self._turn += 1
        return replace(held, turn=self._turn, joining=self._joining, leaving=self._leaving, followed=self.seen)

    def heeds(self, target: Target) -> bool:
        """Whether it comes from the newest coordinator; an older one that still runs is not listened to."""
        return target.term >= self.seen.term

    def joins(self) -> bool:
        """Its last report follows the target that was the answer to it; whether it is a member now.

        The first time it only says so with the next report: what is the answer to that is no longer behind its back.
        """
        joined, self._joining = not self._joining, False
        return joined

    def leaves(self) -> None:
        """From the next report on it says that it is about to end, in peace."""
        self._leaving = True

    def followed(self, target: Target, held: Report) -> None:
        """All that could be done for the target is done. Raises RuntimeFailed if the member still does not hold it."""
        self.seen = TargetRevision(target.term, target.revision)
        if not held.holds(target.committed):
            raise RuntimeFailed(call="reconcile", detail=f"still not at {target.committed}")
