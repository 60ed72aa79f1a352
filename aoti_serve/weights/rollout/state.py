"""Where a rollout stands, as a value: what a restarted coordinator goes on from, and what a status shows."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.figures import TrialFigures
from aoti_serve.weights.rollout.judging.unjudged import Unjudged


class RolloutPhase(StrEnum):
    """The phases of a rollout. ENDING, which only a status has: its end is decided, and is being carried out."""

    TRYING = "trying"
    PROMOTING = "promoting"
    WATCHING = "watching"
    ENDING = "ending"
    ENDED = "ended"


class RolloutState(Frozen):
    """`left` is in seconds, of the step or of the watch; `extended` is how often the step was.

    `seen` are the totals of the last call, `window` what has come since the step or the watch began, `trial` since the
    rollout began: of its `active` arm it is what the candidate is compared with after the commit. `bad_calls`: how many
    calls of the window brought figures that were by themselves likely beyond a rule's limit; `calls`: how many brought
    requests. Both where the candidate answers everything. `unjudged` are the rules that steps which are over, or the
    watch, have not judged.
    """

    phase: RolloutPhase = RolloutPhase.TRYING
    step: int = 0
    left: float
    extended: int = 0
    waits_for: str = ""
    seen: TrialFigures = TrialFigures()
    window: TrialFigures = TrialFigures()
    trial: TrialFigures = TrialFigures()
    bad_calls: dict[str, int] = {}
    calls: int = 0
    unjudged: tuple[Unjudged, ...] = ()
    outcome: RolloutOutcome | None = None
    reason: str = ""
    evidence: dict[str, Any] = {}


class RolloutProgress(Frozen):
    """For a status. `step` counts from 1; `requests` and `pairs` are the candidate's in this step, `needed` of each.

    `waits_for` says why the step was extended; empty if it was not. `unjudged` are the rules that saw too few requests
    to judge a step that is over, or the watch. `version` is the candidate's, which the coordinator knows. A rollout
    that has ended without an outcome was overtaken by somebody, as `reason` says.
    """

    phase: RolloutPhase
    step: int
    steps: int
    share: float
    shadow: float
    seconds_left: float
    extended: int
    waits_for: str
    requests: int
    pairs: int
    needed: int
    outcome: RolloutOutcome | None
    reason: str
    unjudged: tuple[Unjudged, ...] = ()
    version: int | None = None
