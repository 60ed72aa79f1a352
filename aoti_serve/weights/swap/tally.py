"""Which members a phase still waits for; each report costs the same, however many members there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aoti_serve.weights.swap.target import Report


class Tally:
    """`waiting` are the members whose last report is not `done`.

    A member that is joining answers nothing yet: it becomes ready only with what is committed then, and is not waited
    for.
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
        """This one is no longer a member."""
        self.waiting.discard(member)
