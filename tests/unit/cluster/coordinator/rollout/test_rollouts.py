"""What an operator sees of a rollout: in the status, and in the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.rollout.metrics import RolloutMetrics
from aoti_serve.cluster.coordinator.rollout.rollouts import Rollouts
from aoti_serve.cluster.metrics.definitions import CANDIDATE_SHARE, ROLLOUT_METRICS, ROLLOUTS, TRIAL_REQUESTS
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import LedElsewhere
from aoti_serve.weights.candidate import RolloutRecord
from aoti_serve.weights.rollout.decisions import Decision, Promote, RollBack, RolloutOutcome
from aoti_serve.weights.rollout.figures import ArmFigures, TrialFigures
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.state import RolloutPhase
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.terms import CandidateTerms
from aoti_serve.weights.version import Version
from tests.unit.cluster.coordinator.test_candidates import Coordinator, with_members
from tests.unit.cluster.metrics.recorded import RecordedExport
from tests.unit.weights.store.crasher import content

PLAN = RolloutPlan(canary=(0.25, 0.5), each=60.0)
GOOD = ArmFigures(requests=300)
BAD = ArmFigures(requests=300, failures=300)


class Trying(Coordinator):
    """A coordinator with rollouts, whose metrics are kept."""

    seen = TrialFigures()

    async def start(self) -> None:
        await super().start()
        self.now = 0.0
        self.rollouts = Rollouts("m", self.store, self.members, self.changes, lambda: self.now)
        self.recorded = RecordedExport(ROLLOUT_METRICS)
        self.rollouts._metrics = RolloutMetrics("m", self.recorded)

    async def roll_out(self) -> WeightsStatus:
        """A swap that begins a rollout."""
        (self.folder / "file").write_bytes(content(1))

        def admit(current: Version) -> Version:
            return self.store.add(self.folder / "file", "", answers=current)

        terms = CandidateTerms(Exposure(), PLAN)
        return await self.changes.swap(Attempt("swap", "me"), admit, wait=True, terms=terms)

    def count(self, active: ArmFigures, candidate: ArmFigures) -> None:
        trial = self.members.table.target.trial
        assert trial is not None
        self.rollouts.trials.tell("g0", trial.swap, TrialFigures(active=active, candidate=candidate))

    async def pass_time(self, seconds: float, active: ArmFigures, candidate: ArmFigures) -> None:
        """Look every second; these requests come in each."""
        for _ in range(round(seconds)):
            self.now += 1.0
            self.seen = self.seen + TrialFigures(active=active, candidate=candidate)
            if (trial := self.members.table.target.trial) is not None:
                self.rollouts.trials.tell("g0", trial.swap, self.seen)
            await self.rollouts.look()

    def shown(self) -> WeightsStatus:
        return self.rollouts.shown_in(self.changes.status())

    def measured(self) -> RecordedExport:
        """What is exported now, without what was before."""
        self.recorded.gauges.clear()
        self.rollouts.measure()
        return self.recorded


@asynccontextmanager
async def trying(folder: Path) -> AsyncIterator[Trying]:
    async with with_members(Trying(folder)) as made:
        yield made


async def test_a_swap_says_that_a_rollout_decides_on_its_candidate(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        status = await made.roll_out()
        assert status.candidate is not None
        assert status.candidate.plan == PLAN
        before = made.shown().rollout
        await made.rollouts.look()
        for progress in (before, made.shown().rollout):
            assert progress is not None
            assert (progress.version, progress.phase) == (1, RolloutPhase.TRYING)
            assert (progress.step, progress.share) == (1, 0.25)


async def test_who_follows_the_status_is_told_of_new_figures_also_without_a_rollout(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.swap(1, Exposure(share=0.1))
        made.count(GOOD, GOOD)
        before = made.members.revision
        await made.rollouts.look()
        assert made.members.revision > before
        status = made.shown()
        assert status.rollout is None
        assert status.candidate is not None
        assert status.candidate.plan is None
        assert status.trial is not None
        assert status.trial["candidate"]["requests"] == 300


async def test_a_breach_is_shown_and_counted_and_the_series_of_the_trial_end(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        made.count(GOOD, ArmFigures())
        found = made.measured()
        assert found.gauges[CANDIDATE_SHARE.name, "m"] == 0.25
        assert found.gauges[TRIAL_REQUESTS.name, "m", "active"] == 300
        made.count(GOOD, BAD)
        await made.rollouts.look()
        status = made.shown()
        assert (status.candidate, status.trial) == (None, None)
        assert status.rollout is not None
        assert (status.rollout.version, status.rollout.outcome) == (1, RolloutOutcome.ABORTED)
        assert status.rollout.reason.startswith("error_rate: 300 of 300 requests")
        assert made.changes.candidates.given_up == (1, f"candidate version 1 was withdrawn: {status.rollout.reason}")
        found = made.measured()
        assert found.gauges == {}
        assert found.totals == {(ROLLOUTS.name, "m", "aborted"): 1}


async def test_it_has_no_outcome_before_that_is_carried_out(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        withdraw, seen = made.changes.withdraw, []

        async def looked_at(*asked: Any, **how: Any) -> WeightsStatus:
            seen.append(made.shown().rollout)
            return await withdraw(*asked, **how)

        made.changes.withdraw = looked_at  # type: ignore[method-assign]
        made.count(GOOD, BAD)
        await made.rollouts.look()
        (progress,) = seen
        assert progress is not None
        assert (progress.phase, progress.outcome) == (RolloutPhase.ENDING, None)
        assert progress.reason.startswith("error_rate: 300 of 300 requests")
        after = made.shown().rollout
        assert after is not None
        assert after.phase is RolloutPhase.ENDED


@pytest.mark.parametrize("went", ["promoted", "withdrawn"])
async def test_a_rollout_that_somebody_has_overtaken_does_not_look_as_if_it_went_on(tmp_path: Path, went: str) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        await (made.promote() if went == "promoted" else made.withdraw())
        await made.rollouts.look()
        progress = made.shown().rollout
        assert progress is not None
        assert (progress.phase, progress.outcome) == (RolloutPhase.ENDED, None)
        assert (progress.share, progress.seconds_left) == (0, 0)
        assert progress.reason == f"its candidate was {went}"
        assert made.measured().totals == {(ROLLOUTS.name, "m", "overtaken"): 1}


QUICK = ArmFigures(requests=50)
FAILING = ArmFigures(requests=50, failures=50)


async def test_a_good_candidate_is_exposed_step_by_step_promoted_and_watched(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        shares = []
        for _ in range(2):
            candidate = made.shown().candidate
            assert candidate is not None
            shares.append(candidate.share)
            await made.pass_time(60, QUICK, QUICK)
        assert shares == [0.25, 0.5]
        status = made.shown()
        assert (status.current.number, status.candidate) == (1, None)
        assert status.trial is not None
        await made.pass_time(119, ArmFigures(), QUICK)
        assert made.shown().trial is not None
        await made.pass_time(2, ArmFigures(), QUICK)
        status = made.shown()
        assert status.rollout is not None
        assert (status.rollout.outcome, status.trial) == (RolloutOutcome.PROMOTED, None)
        assert (made.store.candidate(), made.store.rollout()) == (None, None)


async def test_a_version_that_fails_after_its_commit_is_rolled_back(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.swap(7)
        await made.roll_out()
        await made.rollouts.look()
        await made.pass_time(120, QUICK, QUICK)
        assert made.shown().current.number == 2
        await made.pass_time(20, ArmFigures(), FAILING)
        status = made.shown()
        assert status.current.number == 1
        assert status.rollout is not None
        assert status.rollout.outcome is RolloutOutcome.ROLLED_BACK
        given_up = made.changes.candidates.given_up
        assert given_up == (2, f"version 2 was rolled back: {status.rollout.reason}")
        assert "error_rate: " in given_up.why


async def test_a_decision_that_somebody_was_quicker_with_is_not_made_again_and_again(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        withdraw = made.changes.withdraw

        async def after_a_person(*asked: Any, **how: Any) -> WeightsStatus:
            await withdraw(Attempt("withdraw", "me"), "I was quicker", wait=True)
            return await withdraw(*asked, **how)

        made.changes.withdraw = after_a_person  # type: ignore[method-assign]
        made.count(GOOD, BAD)
        await made.rollouts.look()
        status = made.shown()
        assert status.rollout is not None
        assert (status.candidate, status.rollout.outcome) == (None, None)
        assert status.rollout.reason == "its candidate was withdrawn"
        made.changes.withdraw = withdraw  # type: ignore[method-assign]
        await made.roll_out()
        await made.rollouts.look()
        assert made.shown().candidate is not None


async def test_the_next_candidate_ends_a_watch(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        await made.pass_time(120, QUICK, QUICK)
        await made.swap(7, Exposure(share=0.1))
        await made.rollouts.look()
        status = made.shown()
        assert status.rollout is not None
        assert status.rollout.reason == "another candidate is out"
        assert status.candidate is not None
        assert status.trial is not None


def meanwhile(made: Trying, act: Callable[[], Awaitable[object]], decided: type[Decision]) -> None:
    """Let somebody act while the record of this decision is being written, which takes a while on a bucket."""
    loop, write = asyncio.get_running_loop(), made.store.roll_out

    def slowly(rollout: RolloutRecord | None) -> None:
        if made.rollouts._due and isinstance(made.rollouts._due[0], decided):
            made.store.roll_out = write  # type: ignore[method-assign]
            asyncio.run_coroutine_threadsafe(cast("Coroutine[Any, Any, object]", act()), loop).result()
        write(rollout)

    made.store.roll_out = slowly  # type: ignore[method-assign]


async def test_a_rollback_that_was_decided_does_not_meet_what_a_person_has_swapped_to(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.swap(7)
        await made.roll_out()
        await made.rollouts.look()
        await made.pass_time(120, QUICK, QUICK)
        meanwhile(made, lambda: made.swap(9), RollBack)
        await made.pass_time(20, ArmFigures(), FAILING)
        status = made.shown()
        assert status.current.number == 3
        assert status.rollout is not None
        assert (status.rollout.outcome, status.rollout.reason) == (None, "another version was committed")
        assert made.changes.candidates.given_up is None


async def test_a_promotion_that_was_decided_does_not_meet_the_candidate_after_it(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()

        async def change_ones_mind() -> None:
            await made.withdraw()
            await made.swap(9, Exposure(share=0.01))

        meanwhile(made, change_ones_mind, Promote)
        await made.pass_time(121, QUICK, QUICK)
        status = made.shown()
        assert status.candidate is not None
        assert (status.current.number, status.candidate.version.number) == (0, 2)
        assert status.rollout is not None
        assert (status.rollout.outcome, status.rollout.reason) == (None, "its candidate was withdrawn")


async def test_who_promotes_at_the_moment_of_the_decision_promotes_nothing_else(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()

        async def be_quicker() -> None:
            await made.promote()
            await made.swap(9, Exposure(share=0.01))

        meanwhile(made, be_quicker, Promote)
        await made.pass_time(122, QUICK, QUICK)
        status = made.shown()
        assert status.candidate is not None
        assert (status.current.number, status.candidate.version.number) == (1, 2)
        assert status.rollout is not None
        assert status.rollout.reason == "another candidate is out"


async def test_a_version_to_go_back_to_that_is_lost_ends_the_rollout_with_a_word(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.swap(7)
        await made.roll_out()
        await made.rollouts.look()
        await made.pass_time(120, QUICK, QUICK)
        (made.folder / "store/versions/1/weights.safetensors").unlink()
        (made.folder / "store/versions/1/version.json").unlink()
        await made.pass_time(20, ArmFigures(), FAILING)
        status = made.shown()
        assert status.current.number == 2
        assert status.rollout is not None
        assert status.rollout.outcome is None
        assert "error_rate: " in status.rollout.reason
        assert "which could not be done: model 'm': version 1 is not stored" in status.rollout.reason


async def test_what_the_coordinator_before_has_counted_is_not_counted_again(tmp_path: Path) -> None:
    """Gateways tell their totals of the whole trial, and tell a new coordinator after its first look."""
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        await made.pass_time(20, QUICK, QUICK)
        before = made.shown().rollout
        assert before is not None
        made.rollouts = Rollouts("m", made.store, made.members, made.changes, lambda: made.now)
        made.rollouts.resume()
        await made.rollouts.look()
        await made.pass_time(1, ArmFigures(), ArmFigures())
        after = made.shown()
        assert after.rollout is not None
        assert after.rollout.requests <= before.requests
        assert after.trial is not None
        assert after.trial["candidate"]["requests"] == 20 * 50, "people see the whole trial"
        await made.pass_time(1, QUICK, QUICK)
        more = made.shown().rollout
        assert more is not None
        assert more.requests == after.rollout.requests + 50


async def test_a_gateway_that_still_tells_of_another_trial_takes_nothing_back(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        made.count(GOOD, GOOD)
        made.rollouts.trials.tell("slow", "a swap of before", TrialFigures(candidate=BAD))
        trial = made.shown().trial
        assert trial is not None
        assert trial["candidate"]["requests"] == 300


async def test_it_ends_where_another_application_leads(tmp_path: Path) -> None:
    async with trying(tmp_path) as made:
        await made.roll_out()
        await made.rollouts.look()
        made.changes.leadership.lose(LedElsewhere(model="m", term=2, newer=3))
        await made.rollouts.look()
        await made.rollouts.look()
        progress = made.rollouts.last
        assert progress is not None
        assert (progress.outcome, progress.reason) == (None, "another application leads, and goes on with it")
