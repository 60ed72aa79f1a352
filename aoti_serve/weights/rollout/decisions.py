"""What a rollout decides, each with the figures that it was decided on; `str` is for people.

What goes on or ends well also names the rules that were `unjudged` until then, for want of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aoti_serve.weights.rollout.judging.unjudged import Unjudged
from aoti_serve.weights.rollout.quantities import shown_share


class RolloutOutcome(StrEnum):
    """How a rollout has ended.

    ABORTED and UNDECIDED: before the commit; the one by a rule or a person, the other for want of requests, or since
    its figures stayed beyond a limit by what may be chance. ROLLED_BACK: after the commit.
    """

    PROMOTED = "promoted"
    ABORTED = "aborted"
    UNDECIDED = "undecided"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Expose:
    """Let the candidate answer this `share` of the requests, and shadow the share `shadow` of the others."""

    share: float
    shadow: float
    figures: Mapping[str, Any]
    unjudged: tuple[Unjudged, ...] = ()

    def __str__(self) -> str:
        shadow = f", and shadows {shown_share(self.shadow)}" if self.shadow else ""
        return f"the candidate answers {shown_share(self.share)} of the requests{shadow}{_except(self.unjudged)}"


@dataclass(frozen=True)
class Promote:
    """Commit the candidate; then call `promoted`, or `stop`."""

    figures: Mapping[str, Any]
    unjudged: tuple[Unjudged, ...] = ()

    def __str__(self) -> str:
        return f"the candidate has passed all steps: commit it{_except(self.unjudged)}"


@dataclass(frozen=True)
class Withdraw:
    """Free the candidate; the active version answers everything again."""

    reason: str
    figures: Mapping[str, Any]

    def __str__(self) -> str:
        return f"the candidate is withdrawn: {self.reason}"


@dataclass(frozen=True)
class RollBack:
    """Commit the version before."""

    reason: str
    figures: Mapping[str, Any]

    def __str__(self) -> str:
        return f"the committed candidate is rolled back: {self.reason}"


@dataclass(frozen=True)
class Finish:
    """The rollout has ended, and decides nothing more."""

    outcome: RolloutOutcome
    figures: Mapping[str, Any]
    unjudged: tuple[Unjudged, ...] = ()

    def __str__(self) -> str:
        return f"the rollout has ended: {self.outcome}{_except(self.unjudged)}"


Decision = Expose | Promote | Withdraw | RollBack | Finish


def _except(rules: tuple[Unjudged, ...]) -> str:
    return f"; not judged: {', '.join(map(str, rules))}" if rules else ""
