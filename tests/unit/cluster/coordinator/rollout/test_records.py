"""What a coordinator makes of the records of a rollout, and of a candidate, that the one before has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.rollout.rollouts import Rollouts
from aoti_serve.weights.candidate import RolloutRecord
from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.state import RolloutPhase, RolloutState
from aoti_serve.weights.store.catalog import CANDIDATE
from aoti_serve.weights.swap.target import Exposure
from tests.unit.cluster.coordinator.test_candidates import Coordinator, coordinating

PLAN = RolloutPlan(canary=(0.5,), watch=100.0)
ROLLED_BACK = RolloutState(phase=RolloutPhase.ENDED, left=0.0, outcome=RolloutOutcome.ROLLED_BACK, reason="p99")


def rollouts_of(made: Coordinator) -> Rollouts:
    rollouts = Rollouts("m", made.store, made.members, made.changes)
    rollouts.resume()
    return rollouts


def remember(made: Coordinator, version: int, state: RolloutState, swap: str = "s") -> None:
    made.store.roll_out(RolloutRecord(swap=swap, version=version, active=1, plan=PLAN, state=state))


async def restarted(made: Coordinator) -> Rollouts:
    await made.cluster.stop()
    await made.start()
    rollouts = rollouts_of(made)
    await made.cluster.until(lambda: len(made.members.table.heard) == 2)
    return rollouts


async def roll_back(made: Coordinator, number: int) -> None:
    await made.changes.rollback(Attempt("rollback", "me"), number, wait=True)


async def test_a_rollback_that_was_committed_is_not_made_again(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        for value in (1, 2):
            await made.swap(value)
        await roll_back(made, 1)
        remember(made, 2, ROLLED_BACK)  # the coordinator has ended at that moment
        assert (await restarted(made)).progress is None
        await roll_back(made, 2)  # by whoever wants it all the same
        await (await restarted(made)).look()
        assert made.changes.status().current.number == 2


async def test_a_rollback_that_was_not_committed_is_made(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        for value in (1, 2):
            await made.swap(value)
        remember(made, 2, ROLLED_BACK)
        await (await restarted(made)).look()
        assert made.changes.status().current.number == 1
        assert made.store.rollout() is None


@pytest.mark.parametrize("withdrawn", [True, False])
async def test_the_rollout_of_a_candidate_goes_on_as_long_as_that_is_out(tmp_path: Path, withdrawn: bool) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1)
        status = await made.swap(2, Exposure())
        assert status.candidate is not None
        record = made.changes.candidates.record
        assert record is not None
        remember(made, status.candidate.version.number, RolloutState(left=7.0), record.swap)
        if withdrawn:
            await made.withdraw()
        progress = (await restarted(made)).progress
        assert (progress is None) == withdrawn
        assert (made.store.rollout() is None) == withdrawn


async def test_the_record_of_a_candidate_from_before_a_commit_is_erased(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, Exposure())
        record = made.changes.candidates.record
        await made.promote()
        made.store.hold(record)  # as if the coordinator had ended right after the commit point
        await restarted(made)
        assert not (tmp_path / "store" / CANDIDATE).exists()
