"""What all gateways of a model have counted of the trial that is on, gathered in its coordinator."""

from __future__ import annotations

from functools import reduce
from operator import add

from aoti_serve.weights.rollout.figures import TrialFigures


class GatheredTrials:
    """The newest totals of every gateway, for one trial at a time.

    Those of a gateway that has ended stay: totals do not fall. After this process was restarted all of them come again.
    """

    def __init__(self) -> None:
        self._swap = ""
        self._of: dict[str, TrialFigures] = {}

    def tell(self, gateway: str, swap: str, figures: TrialFigures) -> None:
        """A gateway's totals of the trial of this swap."""
        if swap != self._swap:
            self._swap, self._of = swap, {}
        self._of[gateway] = figures

    def total(self, swap: str) -> TrialFigures:
        """The sum over all gateways; nothing for another trial than the one that gateways tell of."""
        return reduce(add, self._of.values(), TrialFigures()) if swap == self._swap else TrialFigures()
