"""A rollout under simulated traffic, in simulated time: a second at a time, with a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from aoti_serve.weights.rollout.decisions import Decision, Expose, Finish, Promote, RollBack, RolloutOutcome, Withdraw
from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.rollout.latency import LAST_BUCKET, SHORTEST_S, LatencyCounts
from aoti_serve.weights.rollout.outputs import OutputAgreement
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.rollout import Rollout

MOST_SECONDS = 5000
EDGES = np.array([0.0, *(SHORTEST_S * 2 ** (i / 8) for i in range(LAST_BUCKET))])


@dataclass(frozen=True)
class Behaviour:
    """How a version answers: rates of what goes wrong, and the median and the spread (of the logarithm) of latency.

    `agreement` and `cosine` are those of its shadows, on average.
    """

    error_rate: float = 0.001
    non_finite: float = 0.0
    median_s: float = 0.01
    spread: float = 0.5
    agreement: float = 0.97
    cosine: float = 0.998


class SimulatedClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Traffic:
    """`rate` requests a second, at random; `totals` are what all gateways have counted until now.

    `stall_s` and `outage` (a rate of errors) happen to both versions alike.
    """

    random: np.random.Generator
    rate: float = 100.0
    active: Behaviour = Behaviour()
    candidate: Behaviour = Behaviour()
    share: float = 0.0
    shadow: float = 0.0
    stall_s: float = 0.0
    outage: float = 0.0
    totals: TrialFigures = field(default_factory=TrialFigures)

    def second(self) -> None:
        """A second passes."""
        count = int(self.random.poisson(self.rate))
        tried = int(self.random.binomial(count, self.share))
        shadowed = int(self.random.binomial(count - tried, self.shadow))
        self.totals += TrialFigures(
            active=self._answered(self.active, count - tried),
            candidate=self._answered(self.candidate, tried),
            shadow=self._compared(shadowed),
        )

    def _answered(self, behaviour: Behaviour, count: int) -> ArmFigures:
        seconds = self.stall_s + behaviour.median_s * np.exp(behaviour.spread * self.random.standard_normal(count))
        buckets = np.searchsorted(EDGES, seconds, side="right") - 1
        return ArmFigures(
            requests=count,
            failures=int(self.random.binomial(count, max(behaviour.error_rate, self.outage))),
            non_finite=int(self.random.binomial(count, behaviour.non_finite)),
            latency=LatencyCounts(counts=tuple(np.bincount(buckets, minlength=LAST_BUCKET + 1).tolist())),
        )

    def _compared(self, count: int) -> ShadowFigures:
        """Eight rows a request, of which all agree or none: the worst case."""
        failed = int(self.random.binomial(count, self.candidate.error_rate))
        pairs = count - failed
        agreed = int(self.random.binomial(pairs, self.candidate.agreement))
        cosine = pairs - (1 - self.candidate.cosine) * float(self.random.exponential(size=pairs).sum())
        output = OutputAgreement(
            rows=8 * pairs, top1_pairs=pairs, top1=agreed, cosine_pairs=pairs, cosine=cosine, largest_difference=0.5
        )
        spoilt = int(self.random.binomial(pairs, self.candidate.non_finite))
        return ShadowFigures(pairs=pairs, failed=failed, non_finite=spoilt, outputs={"scores": output} if pairs else {})


@dataclass
class Course:
    """What a rollout has decided, and when, in seconds since it began."""

    decided: list[tuple[float, Decision]] = field(default_factory=list)

    @property
    def outcome(self) -> RolloutOutcome | None:
        return next((decision.outcome for _, decision in self.decided if isinstance(decision, Finish)), None)

    @property
    def ended(self) -> float:
        """When it ended."""
        return next(at for at, decision in self.decided if isinstance(decision, Finish))

    @property
    def reason(self) -> str:
        return next((each.reason for _, each in self.decided if isinstance(each, Withdraw | RollBack)), "")


class SimulatedRollout:
    """A rollout, its clock, its traffic, and one who carries out what it decides: a commit takes no time."""

    def __init__(self, plan: RolloutPlan, traffic: Traffic) -> None:
        self.plan, self.traffic = plan, traffic
        self.clock, self.course = SimulatedClock(), Course()
        self.rollout = Rollout(plan, self.clock)

    def run(self, seconds: int = MOST_SECONDS) -> Course:
        """Until it has ended, or so long."""
        end = self.clock.now + seconds
        while self.course.outcome is None and self.clock.now < end:
            self.step()
        return self.course

    def step(self) -> list[Decision]:
        """The coordinator looks, then a second passes."""
        decided = self.rollout.advance(self.traffic.totals)
        for decision in decided:
            self.course.decided.append((self.clock.now, decision))
            self._carry_out(decision)
        self.traffic.second()
        self.clock.now += 1.0
        return decided

    def restart(self) -> None:
        """Another coordinator goes on from the state as JSON. Its clock begins anew."""
        state = type(self.rollout.state).model_validate_json(self.rollout.state.model_dump_json())
        assert state == self.rollout.state
        self.rollout = Rollout(self.plan, self.clock, state)

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Expose():
                self.traffic.share, self.traffic.shadow = decision.share, decision.shadow
            case Promote():
                self.traffic.share, self.traffic.shadow = 1.0, 0.0
                self.rollout.promoted(self.traffic.totals)
            case Withdraw() | RollBack():
                self.traffic.share, self.traffic.shadow = 0.0, 0.0


def course_of(seed: int, plan: RolloutPlan, rate: float = 100.0, **candidate: float) -> Course:
    """The whole course of a rollout whose candidate differs in this from the active version."""
    traffic = Traffic(np.random.default_rng(seed), rate, candidate=replace(Behaviour(), **candidate))
    return SimulatedRollout(plan, traffic).run()
