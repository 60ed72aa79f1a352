"""A rollout's course: to the second if the candidate is good, and how soon it ends if it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aoti_serve.weights.rollout.decisions import Expose, Finish, Promote, RollBack, RolloutOutcome, Withdraw
from aoti_serve.weights.rollout.figures import ArmFigures, TrialFigures
from aoti_serve.weights.rollout.plan import AbortRules, RolloutPlan
from aoti_serve.weights.rollout.rollout import Rollout
from aoti_serve.weights.rollout.state import RolloutPhase
from tests.unit.weights.rollout.simulated_traffic import Behaviour, SimulatedClock, SimulatedRollout, Traffic, course_of

PLAN = RolloutPlan(canary=(0.1, 0.5), each=30.0, watch=40.0)
COMPARING = RolloutPlan(
    canary=(0.1, 0.5), each=30.0, shadow=0.5, abort_if=AbortRules(top1_agreement=0.9, cosine=0.99), watch=40.0
)
BAD = {
    "error_rate": ({"error_rate": 0.1}, 15),
    "all-fail": ({"error_rate": 1.0}, 2),
    "p99": ({"median_s": 0.03}, 40),
    "non_finite": ({"non_finite": 0.02}, 25),
    "always-nan": ({"non_finite": 1.0}, 2),
}


def simulated(plan: RolloutPlan = PLAN, rate: float = 100.0, seed: int = 1, **candidate: float) -> SimulatedRollout:
    traffic = Traffic(np.random.default_rng(seed), rate, candidate=replace(Behaviour(), **candidate))
    return SimulatedRollout(plan, traffic)


# --- a good candidate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [PLAN, COMPARING], ids=["canary", "canary-and-shadow"])
def test_a_good_candidate_is_promoted_in_the_exact_time(plan: RolloutPlan) -> None:
    course = course_of(1, plan)
    assert [(at, type(decision)) for at, decision in course.decided] == [
        (0, Expose),
        (30, Expose),
        (60, Promote),
        (100, Finish),
    ]
    assert course.outcome is RolloutOutcome.PROMOTED
    assert [(each.share, each.shadow) for _, each in course.decided if isinstance(each, Expose)] == [
        (0.1, plan.shadow),
        (0.5, plan.shadow),
    ]


def test_without_a_canary_the_candidate_only_shadows() -> None:
    course = course_of(1, RolloutPlan(canary=(), shadow=0.2, each=30.0, watch=0.0))
    assert [type(decision) for _, decision in course.decided] == [Expose, Promote, Finish]
    assert str(course.decided[0][1]) == "the candidate answers 0% of the requests, and shadows 20%"


def test_the_whole_traffic_may_be_a_step() -> None:
    assert course_of(1, RolloutPlan(canary=(1.0,), each=30.0, watch=5.0)).ended == 35


def test_a_decision_has_the_figures_that_it_was_made_on() -> None:
    course = course_of(1, COMPARING)
    figures = course.decided[1][1].figures
    assert 250 < figures["candidate"]["requests"] < 350
    assert figures["shadow"]["pairs"] > 1000
    assert {"requests", "error_rate", "non_finite_rate", "p50_s", "p99_s"} == figures["active"].keys()


# --- bad ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("candidate", "seconds"), BAD.values(), ids=BAD.keys())
def test_a_bad_candidate_is_withdrawn_within_so_many_seconds(candidate: dict[str, float], seconds: float) -> None:
    """100 requests a second, of which it answers 10, and 50 from the second step on; half of ten rollouts."""
    courses = [course_of(seed, PLAN, **candidate) for seed in range(10)]
    assert {course.outcome for course in courses} == {RolloutOutcome.ABORTED}
    assert {course.reason.partition(":")[0] for course in courses} == {next(iter(candidate)).replace("median_s", "p99")}
    assert sorted(course.ended for course in courses)[5] <= seconds


@pytest.mark.parametrize(
    ("candidate", "rule", "seconds"),
    [
        pytest.param({"agreement": 0.7}, "top1_agreement", 4, id="top1"),
        pytest.param({"cosine": 0.8}, "cosine", 4, id="cosine"),
        pytest.param({"non_finite": 0.05}, "non_finite", 2, id="non_finite"),
    ],
)
def test_what_shadows_show_ends_it_too(candidate: dict[str, float], rule: str, seconds: float) -> None:
    """100 requests a second, of which it shadows 45; half of ten rollouts."""
    courses = [course_of(seed, COMPARING, **candidate) for seed in range(10)]
    assert {course.outcome for course in courses} == {RolloutOutcome.ABORTED}
    assert {course.reason.partition(":")[0] for course in courses} == {rule}
    assert sorted(course.ended for course in courses)[5] <= seconds


def test_failing_shadows_end_a_rollout_without_a_canary() -> None:
    course = course_of(1, RolloutPlan(canary=(), shadow=0.2), error_rate=0.2)
    assert course.reason.startswith("error_rate: ")


def test_the_reason_is_in_words_and_in_figures() -> None:
    course = course_of(1, PLAN, error_rate=0.2)
    (_, withdrawn), (_, finished) = course.decided[-2:]
    assert isinstance(withdrawn, Withdraw)
    assert "requests failed (" in withdrawn.reason
    assert "the limit is 1%, the active version's rate " in str(withdrawn)
    assert withdrawn.figures["rule"] == "error_rate"
    assert withdrawn.figures["rate"] > withdrawn.figures["limit"] == 0.01
    assert str(finished) == "the rollout has ended: aborted"


def test_a_rule_that_is_off_ends_nothing() -> None:
    off = AbortRules(error_rate=None, p99=None, non_finite=None)
    course = course_of(
        1, RolloutPlan(canary=(0.5,), each=10.0, watch=0.0, abort_if=off), error_rate=1.0, non_finite=1.0
    )
    assert course.outcome is RolloutOutcome.PROMOTED


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_what_fails_for_both_is_not_the_candidates_fault(rate: float) -> None:
    both = Behaviour(error_rate=rate)
    outcomes = [
        SimulatedRollout(PLAN, Traffic(np.random.default_rng(seed), 100.0, both, both)).run().outcome
        for seed in range(20)
    ]
    assert set(outcomes) == {RolloutOutcome.PROMOTED}


@pytest.mark.parametrize(("stall_s", "outage"), [(0.5, 0.0), (0.0, 0.9)], ids=["stall", "outage"])
@pytest.mark.parametrize("begin", range(0, 96, 7))
def test_a_moment_that_is_bad_for_everybody_ends_nothing(begin: int, stall_s: float, outage: float) -> None:
    """Two seconds of it, anywhere: at the beginning of a step and of the watch as well."""
    rollout = simulated()
    rollout.run(begin)
    rollout.traffic.stall_s, rollout.traffic.outage = stall_s, outage
    rollout.run(2)
    rollout.traffic.stall_s = rollout.traffic.outage = 0.0
    assert rollout.run().outcome is RolloutOutcome.PROMOTED


# --- after the commit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("candidate", "seconds"), BAD.values(), ids=BAD.keys())
def test_what_turns_bad_after_the_commit_is_rolled_back(candidate: dict[str, float], seconds: float) -> None:
    rollout = simulated()
    rollout.run(61)
    assert rollout.rollout.state.phase is RolloutPhase.WATCHING
    rollout.traffic.candidate = replace(Behaviour(), **candidate)
    course = rollout.run()
    assert course.outcome is RolloutOutcome.ROLLED_BACK
    assert isinstance(course.decided[-2][1], RollBack)
    assert course.ended - 61 <= max(5, seconds / 3)


def test_a_watch_without_requests_ends_well() -> None:
    rollout = simulated()
    rollout.run(61)
    rollout.traffic.rate = 0.0
    assert rollout.run().outcome is RolloutOutcome.PROMOTED


# --- too few requests --------------------------------------------------------------------------------------------


def test_too_few_requests_are_no_pass() -> None:
    course = course_of(1, RolloutPlan(canary=(0.1,), each=30.0, extend=2), rate=5.0)
    assert course.outcome is RolloutOutcome.UNDECIDED
    assert course.ended == 90
    assert course.reason.startswith("undecided: ")
    assert "requests of the candidate of 200" in course.reason


def test_a_step_is_extended_until_there_are_enough() -> None:
    rollout = simulated(RolloutPlan(canary=(0.1,), each=30.0, watch=0.0), rate=25.0)
    rollout.run(31)
    progress = rollout.rollout.progress
    assert (progress.extended, progress.share, progress.needed) == (1, 0.1, 200)
    assert progress.requests < 200
    assert "requests of the candidate of 200" in progress.waits_for
    assert rollout.run().outcome is RolloutOutcome.PROMOTED
    assert rollout.course.ended in (91, 121)


def test_it_can_hold_instead_until_it_is_decided() -> None:
    rollout = simulated(RolloutPlan(canary=(0.1,), each=30.0, extend=0, if_undecided="hold", watch=0.0), rate=1.0)
    rollout.run(1000)
    assert rollout.course.outcome is None
    assert rollout.rollout.progress.extended == 33
    assert rollout.run().outcome is RolloutOutcome.PROMOTED


def test_the_active_version_must_have_been_asked_too() -> None:
    course = course_of(1, RolloutPlan(canary=(0.99,), each=10.0, extend=1))
    assert "requests of the active version of 200" in course.reason


def test_a_step_does_not_pass_while_its_figures_may_be_bad() -> None:
    """1.5 % of errors, where 1 % is allowed, takes thousands of requests to be sure of."""
    courses = [course_of(seed, PLAN, error_rate=0.015) for seed in range(10)]
    assert RolloutOutcome.PROMOTED not in {course.outcome for course in courses}


# --- rules that cannot judge -------------------------------------------------------------------------------------

FEW = RolloutPlan(canary=(0.5,), each=10.0, watch=10.0, min_requests=20)


def test_a_rule_that_could_not_judge_a_step_is_named_in_what_is_decided_and_in_the_status() -> None:
    rollout = simulated(FEW, rate=10.0)
    rollout.run(11)
    (_, promote) = rollout.course.decided[-1]
    (p99,) = rollout.rollout.progress.unjudged
    assert (p99.rule, p99.during, p99.shortage.needed) == ("p99", "step 1", 619)
    assert 20 <= p99.shortage.had < 100
    assert str(promote) == (
        "the candidate has passed all steps: commit it; "
        f"not judged: p99 in step 1 ({p99.shortage.had} of 619 requests of the active version)"
    )


def test_so_is_one_that_could_not_judge_the_watch() -> None:
    rollout = simulated(FEW, rate=10.0)
    rollout.run(11)
    rollout.traffic.rate = 0.0
    (_, finish) = rollout.run().decided[-1]
    of_step, *of_watch = rollout.rollout.progress.unjudged
    assert [str(each) for each in of_watch] == [
        "error_rate in the watch (1 of 5 seconds with requests of the candidate)",
        f"p99 in the watch ({of_step.shortage.had} of 619 requests of the active version)",
    ]
    assert str(finish) == f"the rollout has ended: promoted; not judged: {', '.join(map(str, [of_step, *of_watch]))}"


def test_who_wants_no_watch_hears_nothing_of_it() -> None:
    course = course_of(1, RolloutPlan(canary=(0.5,), each=30.0, watch=0.0))
    assert str(course.decided[-1][1]) == "the rollout has ended: promoted"


def test_with_requests_enough_every_rule_has_judged() -> None:
    for plan in (PLAN, COMPARING):
        rollout = simulated(plan)
        rollout.run()
        assert rollout.rollout.progress.unjudged == ()


def test_an_undecided_rollout_names_them_too() -> None:
    rollout = simulated(RolloutPlan(canary=(0.1,), each=30.0, extend=2), rate=0.5)
    assert rollout.run().outcome is RolloutOutcome.UNDECIDED
    assert {each.rule for each in rollout.rollout.progress.unjudged} >= {"p99"}


# --- figures that restart, clocks that jump ----------------------------------------------------------------------


def test_totals_that_fall_neither_end_it_nor_count_twice() -> None:
    """Every ten seconds a gateway ends, and takes half of what was counted with it."""
    rollout = simulated(RolloutPlan(canary=(0.1, 0.5), each=60.0, watch=40.0), error_rate=0.003)
    while rollout.course.outcome is None:
        rollout.step()
        if rollout.clock.now % 10 == 0:
            rollout.traffic.totals = halved(rollout.traffic.totals)
    assert rollout.course.outcome is RolloutOutcome.PROMOTED
    assert rollout.course.ended == 160
    assert 400 < rollout.course.decided[1][1].figures["candidate"]["requests"] < 600


def halved(figures: TrialFigures) -> TrialFigures:
    def half(arm: ArmFigures) -> ArmFigures:
        counts = tuple(count // 2 for count in arm.latency.counts)
        return arm.model_copy(
            update={"requests": arm.requests // 2, "latency": arm.latency.model_copy(update={"counts": counts})}
        )

    return figures.model_copy(update={"active": half(figures.active), "candidate": half(figures.candidate)})


def test_bad_figures_are_found_among_totals_that_fall() -> None:
    rollout = simulated(error_rate=0.2)
    while rollout.course.outcome is None:
        rollout.step()
        if rollout.clock.now % 5 == 0:
            rollout.traffic.totals = TrialFigures()
    assert rollout.course.reason.startswith("error_rate: ")
    assert rollout.course.ended < 20


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    clock = SimulatedClock()
    rollout = Rollout(PLAN, clock)
    rollout.advance(TrialFigures())
    clock.now += 3600
    assert rollout.advance(TrialFigures()) == []
    assert rollout.progress.seconds_left == 25.0
    clock.now -= 60
    assert rollout.advance(TrialFigures()) == []
    assert rollout.progress.seconds_left == 25.0


# --- restarts, and what people do --------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 1, 15, 31, 45, 59, 61, 80])
def test_a_restarted_coordinator_goes_on(seconds: int) -> None:
    """What the state calls for is said once more; the second until the restart is lost, and none is gained."""
    rollout = simulated(COMPARING)
    rollout.run(seconds)
    left = rollout.rollout.progress.seconds_left
    rollout.restart()
    assert rollout.rollout.progress.seconds_left == left
    course = rollout.run()
    assert course.outcome is RolloutOutcome.PROMOTED
    assert 100 <= course.ended <= 102
    shares = [each.share for _, each in course.decided if isinstance(each, Expose)]
    assert shares == sorted(shares)


def test_a_restart_at_every_second_does_not_shorten_it() -> None:
    rollout = simulated(RolloutPlan(canary=(0.5,), each=20.0, watch=0.0, min_requests=1))
    for second in range(200):
        if rollout.course.outcome is not None:
            break
        rollout.step()
        if second % 2:
            rollout.restart()
    assert rollout.course.ended >= 20
    assert rollout.course.outcome is RolloutOutcome.PROMOTED


def test_a_promotion_is_asked_for_again_after_a_restart() -> None:
    clock, traffic = SimulatedClock(), Traffic(np.random.default_rng(1), share=0.5)
    rollout = Rollout(RolloutPlan(canary=(0.5,), each=10.0, watch=3.0), clock)
    decided = rollout.advance(traffic.totals)
    while not any(isinstance(each, Promote) for each in decided):
        traffic.second()
        clock.now += 1
        decided = rollout.advance(traffic.totals)
    assert rollout.advance(traffic.totals) == []
    again = Rollout(rollout.plan, clock, rollout.state)
    assert again.advance(traffic.totals) == decided
    again.promoted(traffic.totals)
    assert (again.progress.phase, again.progress.share, again.progress.needed) == (RolloutPhase.WATCHING, 1.0, 0)


def test_what_was_decided_last_is_said_again_after_a_restart() -> None:
    rollout = simulated(error_rate=1.0)
    course = rollout.run()
    last = [decision for _, decision in course.decided[-2:]]
    again = Rollout(PLAN, rollout.clock, rollout.rollout.state)
    assert again.advance(rollout.traffic.totals) == last
    assert again.advance(rollout.traffic.totals) == []


@pytest.mark.parametrize(("seconds", "expected"), [(10, Withdraw), (70, RollBack)], ids=["trying", "watching"])
def test_a_person_can_stop_it(seconds: int, expected: type) -> None:
    rollout = simulated()
    rollout.run(seconds)
    stopped, finished = rollout.rollout.stop("by alice")
    assert isinstance(stopped, expected)
    assert isinstance(finished, Finish)
    assert stopped.figures["candidate"]["requests"] > 0
    assert rollout.rollout.progress.reason == "by alice"
    assert rollout.rollout.progress.share == 0.0
    assert rollout.rollout.stop("again") == []
    assert rollout.rollout.advance(rollout.traffic.totals) == []


def test_a_commit_that_is_refused_withdraws_it() -> None:
    clock, figures = SimulatedClock(), TrialFigures()
    rollout = Rollout(RolloutPlan(), clock)
    rollout.state = rollout.state.model_copy(update={"phase": RolloutPhase.PROMOTING})
    assert [type(each) for each in rollout.advance(figures)] == [Promote]
    withdrawn, finished = rollout.stop("the store refused")
    assert str(withdrawn) == "the candidate is withdrawn: the store refused"
    assert isinstance(finished, Finish)
    assert finished.outcome is RolloutOutcome.ABORTED


def test_only_what_is_being_promoted_can_be_promoted() -> None:
    with pytest.raises(AssertionError, match="nothing is being promoted, it is trying"):
        Rollout(PLAN, SimulatedClock()).promoted(TrialFigures())


def test_the_progress_is_for_a_status() -> None:
    rollout = simulated(COMPARING)
    rollout.run(41)
    progress = rollout.rollout.progress
    assert (progress.step, progress.steps, progress.share, progress.shadow) == (2, 2, 0.5, 0.5)
    assert (progress.seconds_left, progress.needed, progress.waits_for) == (20.0, 200, "")
    assert progress.requests > 300
    assert progress.pairs > 150
    rollout.run()
    assert rollout.rollout.progress.outcome is RolloutOutcome.PROMOTED
    assert rollout.rollout.progress.share == 1.0
