"""What all gateways of a model have counted of the trial that is on, gathered in its coordinator."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add

from aoti_serve.weights.rollout.figures import TrialFigures
from aoti_serve.weights.swap.members import MemberTable


class GatheredTrials:
    """The newest totals of every gateway, for one trial at a time.

    Those of a gateway that has ended stay: totals do not fall. A coordinator that goes on with an earlier one's trial
    is told all of them again; the earlier one has counted them, so the first totals of each gateway are its mark.
    """

    def __init__(self, table: MemberTable) -> None:
        self._table = table
        self._swap = ""
        self._of: dict[str, TrialFigures] = {}
        self._marks: dict[str, TrialFigures] | None = None

    def resume(self, swap: str) -> None:
        """Go on with the trial of this swap, in place of an earlier coordinator."""
        self._swap, self._of, self._marks = swap, {}, {}

    def tell(self, gateway: str, swap: str, figures: TrialFigures) -> None:
        """A gateway's totals of the trial of this swap; a slow one may still tell of a trial that is over."""
        trial = self._table.target.trial
        if trial is None or trial.swap != swap:
            return
        if swap != self._swap:
            self._swap, self._of, self._marks = swap, {}, None
        self._of[gateway] = figures
        if self._marks is not None:
            self._marks.setdefault(gateway, figures)

    def total(self, swap: str) -> TrialFigures:
        """The sum over all gateways since the trial began; nothing for another trial than the one that is told of."""
        return _sum(self._of.values()) if swap == self._swap else TrialFigures()

    def counted(self, swap: str) -> TrialFigures:
        """The same since this coordinator began, or went on with it."""
        return self.total(swap) - _sum((self._marks or {}).values())


def _sum(figures: Iterable[TrialFigures]) -> TrialFigures:
    return reduce(add, figures, TrialFigures())
