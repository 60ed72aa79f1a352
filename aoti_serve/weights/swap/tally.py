"""The members that a phase of a swap still waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aoti_serve.weights.swap.target import Report


class Tally:
    """The members that a phase still waits for (`waiting`): their last report is not `done`.

    A member that is joining is not waited for: it becomes ready only with what is committed then.
    """

    def __init__(self, done: Callable[[Report], bool], reports: Iterable[Report]) -> None:
        self._done = done
        self.waiting: set[str] = set()
        for report in reports:
            self.hear(report)

    def hear(self, report: Report) -> None:
        if report.joining or self._done(report):
            self.waiting.discard(report.member)
        else:
            self.waiting.add(report.member)

    def drop(self, member: str) -> None:
        """It is no longer a member."""
        self.waiting.discard(member)
