"""One rollout as a state machine: figures and a clock go in, decisions come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from aoti_serve.weights.rollout.decisions import (
    Decision,
    Expose,
    Finish,
    Promote,
    RollBack,
    RolloutOutcome,
    Withdraw,
)
from aoti_serve.weights.rollout.figures import TrialFigures
from aoti_serve.weights.rollout.judging.evidence import ALPHA, LIKELY
from aoti_serve.weights.rollout.judging.rules import STEADY_CALLS, UNSTEADY, Observed, RuleFinding, findings, shortages
from aoti_serve.weights.rollout.judging.unjudged import unjudged
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.state import RolloutPhase, RolloutProgress, RolloutState

MOST_S = 5.0  # that pass between two calls: if it is more, this process was stopped, and has seen nothing
_ANEW: Mapping[str, Any] = {"window": TrialFigures(), "bad_calls": {}, "calls": 0}


class Rollout:
    """Exposes a candidate step by step, has it committed, and watches it; or withdraws it, or rolls it back.

    `clock` is in seconds. With the `state` of a rollout before, it goes on from there: its first call of `advance`
    gives that state's decisions once more, since it is not known whether they were carried out, and takes the totals as
    the new mark. The seconds that were left then are left now, so a restart makes a step longer, never shorter.
    """

    def __init__(self, plan: RolloutPlan, clock: Callable[[], float], state: RolloutState | None = None) -> None:
        self.plan = plan
        self.state = state or RolloutState(left=plan.each)
        self._clock = clock
        self._ticked = clock()
        self._told = False

    @property
    def progress(self) -> RolloutProgress:
        state, trying = self.state, self.state.phase is RolloutPhase.TRYING
        return RolloutProgress(
            phase=state.phase,
            step=state.step + 1,
            steps=len(self.plan.steps),
            share=self._share,
            shadow=self.plan.shadow if trying else 0.0,
            seconds_left=round(max(0.0, state.left), 3),
            extended=state.extended,
            waits_for=state.waits_for,
            requests=state.window.candidate.requests,
            pairs=state.window.shadow.pairs,
            needed=self.plan.min_requests if trying else 0,
            outcome=state.outcome,
            reason=state.reason,
            unjudged=state.unjudged,
        )

    def advance(self, figures: TrialFigures) -> list[Decision]:
        """Time has passed, and the totals of all gateways are `figures` now. Called about once a second."""
        seconds = self._passed()
        if not self._told:
            self._told = True
            self._change(seen=figures)
            return self._decisions()
        self._note(figures)
        match self.state.phase:
            case RolloutPhase.TRYING | RolloutPhase.WATCHING:
                self._change(left=self.state.left - seconds)
                return self._judge()
        return []

    def promoted(self, figures: TrialFigures) -> None:
        """The candidate is committed, and answers everything: the watch begins."""
        assert self.state.phase is RolloutPhase.PROMOTING, f"nothing is being promoted, it is {self.state.phase}"
        self._told, self._ticked = True, self._clock()
        self._change(phase=RolloutPhase.WATCHING, left=self.plan.watch, seen=figures, **_ANEW)

    def stop(self, reason: str) -> list[Decision]:
        """Somebody wants it no more, or the commit was refused. Not to be called while the commit is under way."""
        if self.state.phase is RolloutPhase.ENDED:
            return []
        return self._fail(reason, {})

    @property
    def _share(self) -> float:
        if self.state.phase is RolloutPhase.WATCHING or self.state.outcome is RolloutOutcome.PROMOTED:
            return 1.0
        return 0.0 if self.state.phase is RolloutPhase.ENDED else self.plan.steps[self.state.step]

    def _passed(self) -> float:
        now = self._clock()
        seconds, self._ticked = min(now - self._ticked, MOST_S), now
        return max(0.0, seconds)

    def _note(self, figures: TrialFigures) -> None:
        new = figures.since(self.state.seen)
        self._change(seen=figures, window=self.state.window + new, trial=self.state.trial + new)
        if self._share >= 1:
            self._note_bad(new)

    def _note_bad(self, new: TrialFigures) -> None:
        bad = Counter(self.state.bad_calls)
        bad.update({finding.rule for finding in findings(self.plan, self._observed(new, LIKELY)) if finding.breached})
        self._change(bad_calls=dict(bad), calls=self.state.calls + (new.candidate.requests > 0))

    def _observed(self, window: TrialFigures, alpha: float = ALPHA) -> Observed:
        return Observed(window, self.state.trial.active, self._share >= 1, alpha)

    def _judge(self) -> list[Decision]:
        observed = self._observed(self.state.window)
        found = findings(self.plan, observed)
        breach = next((finding for finding in found if self._is_certain(finding, observed)), None)
        if breach is not None:
            return self._fail(f"{breach.rule}: {breach.text}", {"rule": breach.rule, **breach.figures})
        if self.state.left > 1e-9:
            return []
        if self.state.phase is RolloutPhase.WATCHING:
            self._note_unjudged(observed)
            return self._end(RolloutOutcome.PROMOTED)
        return self._end_step(observed, found)

    def _note_unjudged(self, observed: Observed) -> None:
        watching = self.state.phase is RolloutPhase.WATCHING
        if watching and not self.plan.watch:
            return
        during = "the watch" if watching else f"step {self.state.step + 1}"
        found = unjudged(self.plan, observed, during, self.state.calls)
        self._change(unjudged=(*self.state.unjudged, *found))

    def _is_certain(self, finding: RuleFinding, observed: Observed) -> bool:
        steady = not observed.alone or self.state.bad_calls.get(finding.rule, 0) >= STEADY_CALLS
        return finding.breached and (steady or finding.rule not in UNSTEADY)

    def _end_step(self, observed: Observed, doubts: list[RuleFinding]) -> list[Decision]:
        lacking = shortages(self.plan, observed, self._share)
        waits_for = "; ".join([*lacking, *(f"{doubt.rule}: {doubt.text}" for doubt in doubts)])
        if not waits_for:
            self._note_unjudged(observed)
            return self._pass()
        if self.state.extended < self.plan.extend or self.plan.if_undecided == "hold":
            self._change(extended=self.state.extended + 1, left=self.plan.each, waits_for=waits_for)
            return []
        self._note_unjudged(observed)
        return self._fail(f"undecided: {waits_for}", {"rule": "undecided"}, RolloutOutcome.UNDECIDED)

    def _pass(self) -> list[Decision]:
        figures = self._figures()
        if self.state.step + 1 == len(self.plan.steps):
            self._change(phase=RolloutPhase.PROMOTING, left=0.0, waits_for="", evidence=figures)
        else:
            self._change(
                step=self.state.step + 1,
                left=self.plan.each,
                extended=0,
                waits_for="",
                evidence=figures,
                **_ANEW,
            )
        return self._decisions()

    def _fail(
        self, reason: str, figures: Mapping[str, Any], outcome: RolloutOutcome = RolloutOutcome.ABORTED
    ) -> list[Decision]:
        if self.state.phase is RolloutPhase.WATCHING:
            outcome = RolloutOutcome.ROLLED_BACK
        return self._end(outcome, reason, figures)

    def _end(
        self, outcome: RolloutOutcome, reason: str = "", figures: Mapping[str, Any] | None = None
    ) -> list[Decision]:
        evidence = {**self._figures(), **(figures or {})}
        self._told = True
        self._change(phase=RolloutPhase.ENDED, left=0.0, outcome=outcome, reason=reason, evidence=evidence)
        return self._decisions()

    def _decisions(self) -> list[Decision]:
        """What the state calls for."""
        state, figures = self.state, self.state.evidence
        match state.phase:
            case RolloutPhase.TRYING:
                return [Expose(self._share, self.plan.shadow, figures, state.unjudged)]
            case RolloutPhase.PROMOTING:
                return [Promote(figures, state.unjudged)]
            case RolloutPhase.WATCHING:
                return []
        assert state.outcome is not None
        finish = Finish(state.outcome, figures, state.unjudged)
        match state.outcome:
            case RolloutOutcome.PROMOTED:
                return [finish]
            case RolloutOutcome.ROLLED_BACK:
                return [RollBack(state.reason, figures), finish]
        return [Withdraw(state.reason, figures), finish]

    def _figures(self) -> dict[str, Any]:
        """A small summary of the step, or of the watch."""
        summary = self.state.window.summary()
        return {part: {key: of[key] for key in of if key != "outputs"} for part, of in summary.items()}

    def _change(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)
