"""The version that a request is answered by: with real batchers, and replicas that are played."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import (
    AotiServeError,
    DeadlineExceeded,
    IndexOutOfRange,
    RuntimeFailed,
    UnknownVersion,
    VersionNotResident,
)
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.gateway.versions import trial
from aoti_serve.gateway.versions.answering import Answering, Asking
from aoti_serve.gateway.versions.residents import Residents
from aoti_serve.link.messages import AnswerMessage
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.rollout.figures import TrialFigures
from aoti_serve.weights.swap.follower import Fence
from aoti_serve.weights.swap.target import Exposure, Staging, Target, Trial
from aoti_serve.weights.version import Committed, Version

OUTPUTS = (TensorSpec(name="y", dtype="float32", shape=(4,)),)
ROW = [np.ones((1, 4), np.float32)]


class Replica:
    """Answers x * version; holds versions 1 to 3, and does with a version what `broken` says.

    A version that is `spoilt` answers NaN to what is over 9.
    """

    def __init__(self) -> None:
        self.active = 1
        self.held = {1, 2, 3}
        self.broken: dict[int, AotiServeError] = {}
        self.asked: list[int | None] = []
        self.spoilt: set[int] = set()

    async def run(self, arrays: Arrays, timeout: float | None, *, version: int | None) -> AnswerMessage:
        self.asked.append(version)
        number = self.active if version is None else version
        if number not in self.held:
            raise VersionNotResident(version=number)
        if number in self.broken:
            raise self.broken[number]
        spoils = (arrays[0] > 9) & (number in self.spoilt)
        return AnswerMessage(number, 1, [np.where(spoils, np.nan, arrays[0] * number).astype(np.float32)])


class Model:
    """Version 1 answers."""

    def __init__(self) -> None:
        self.replica, self.fence = Replica(), Fence()
        self.residents = Residents("m", keeps_previous=True)
        self.answering = Answering(self.fence, self.residents, OUTPUTS, self._batcher)
        self.answering.set_runners(2)
        self.follow()

    def _batcher(self, version: int | None, patient: bool) -> Batcher:
        config = BatchingConfig(max_queue_delay_ms=1.0 if patient else 0.0)
        return Batcher(ModelFigures("m"), config, partial(self.replica.run, version=version), batches=True)

    def follow(self, committed: int = 1, candidate: int | None = None, share: float = 0.0, shadow: float = 0.0) -> None:
        staging = trial = None
        if candidate is not None:
            staging = Staging("swap", Version(number=candidate), Exposure(share=share, shadow=shadow))
            trial = Trial("swap", candidate, committed)
        record = Committed(epoch=committed, version=Version(number=committed))
        target = Target(term=1, revision=1, committed=record, staging=staging, trial=trial)
        for follows in (self.fence, self.residents, self.answering):
            follows.follow(target)
        self.replica.active = committed

    async def ask(self, asked: int | None = None, key: str = "", timeout: float | None = None) -> Rows:
        rows = await self.answering.rows_for(Asking(ROW, timeout=timeout, key=key), asked)
        np.testing.assert_array_equal(rows.outputs[0], ROW[0] * rows.version)
        return rows

    async def answers(self, *values: float) -> list[Rows]:
        """To a row of each value, asked for at once."""
        rows = [[np.full((1, 4), value, np.float32)] for value in values]
        return await asyncio.gather(*[self.answering.rows_for(Asking(row), None) for row in rows])

    def commit(self, version: int) -> None:
        """Commit the candidate, and watch it."""
        record = Committed(epoch=version, version=Version(number=version), previous=Version(number=1))
        watched = Target(term=1, revision=2, committed=record, trial=Trial("swap", version, 1))
        for follows in (self.fence, self.residents, self.answering):
            follows.follow(watched)
        self.replica.active = version

    async def beside(self) -> None:
        """Wait for runs beside the clients' that are under way."""
        assert self.answering.trial is not None
        while beside := self.answering.trial.beside:  # reading an answer may lead to a run
            await asyncio.gather(*beside)

    @property
    def figures(self) -> TrialFigures:
        assert self.answering.trial is not None
        return self.answering.trial.figures()


async def test_without_a_candidate_everybody_gets_the_active_version() -> None:
    model = Model()
    assert (await model.ask()).version == 1
    assert model.replica.asked == [None]


async def test_a_pinned_request_gets_what_it_asks_for() -> None:
    model = Model()
    model.follow(candidate=2)
    assert [(await model.ask(asked)).version for asked in (1, 2)] == [1, 2]


async def test_a_request_pinned_to_what_no_replica_holds_any_more_is_refused() -> None:
    model = Model()
    model.follow(candidate=2)
    model.replica.held = {1}
    with pytest.raises(UnknownVersion):
        await model.ask(2)


async def test_a_commit_during_a_pinned_run_still_answers_with_the_version_that_was_asked_for() -> None:
    model = Model()
    model.follow(candidate=2)
    model.replica.active = 2  # committed, and this gateway has not heard of it
    assert (await model.ask(2)).version == 2
    record = Committed(epoch=2, version=Version(number=2), previous=Version(number=1))
    model.residents.follow(Target(term=1, revision=2, committed=record))
    assert (await model.ask(1)).version == 1


async def test_a_share_of_the_keys_meets_the_candidate_and_both_are_counted() -> None:
    model = Model()
    model.follow(candidate=2, share=0.5)
    by_key = {f"c{number}": [(await model.ask(key=f"c{number}")).version for _ in range(3)] for number in range(40)}
    assert {len(set(versions)) for versions in by_key.values()} == {1}
    assert 5 < sum(versions[0] == 2 for versions in by_key.values()) < 35
    counted = model.figures
    assert counted.active.requests + counted.candidate.requests == 120
    assert counted.candidate.outputs["y"].total / counted.candidate.outputs["y"].count == 2.0


async def test_a_run_is_read_once_and_its_spoilt_requests_are_told_apart() -> None:
    model = Model()
    model.answering.set_runners(1)
    model.follow(candidate=2)
    model.replica.spoilt = {1}
    answers = await model.answers(1.0, 2.0, 10.0, 3.0)
    assert len({id(answer.run) for answer in answers}) < len(answers)  # some have shared a run
    await model.beside()
    counted = model.figures.active
    assert (counted.requests, counted.non_finite) == (4, 1)
    of_others = {id(answer.run): answer.run.arrays[0] for answer in answers if answer.run.finite}
    assert counted.outputs["y"].count == sum(array.size for array in of_others.values())


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_a_nan_that_both_versions_answer_is_the_requests_doing(share: float) -> None:
    model = Model()
    model.follow(candidate=2, share=share)
    await model.answers(np.nan, np.inf)
    await model.beside()
    assert (model.figures.active.non_finite, model.figures.candidate.non_finite) == (0, 0)
    assert model.figures.active.requests + model.figures.candidate.requests == 2


@pytest.mark.parametrize("is_large", [False, True])
async def test_a_nan_of_the_candidate_alone_is_its_own(is_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_large:
        monkeypatch.setattr(trial, "FEW_ELEMENTS", 3)
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.replica.spoilt = {2}
    await model.answers(1.0, 10.0, np.nan, 11.0)
    await model.beside()
    counted = model.figures.candidate
    assert (counted.requests, counted.non_finite) == (4, 2)


@pytest.mark.parametrize("error", [RuntimeFailed(call="run", detail="boom"), VersionNotResident(version=1)])
async def test_a_nan_counts_where_the_other_version_cannot_tell(error: AotiServeError) -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.replica.broken[1] = error
    await model.answers(np.nan)
    await model.beside()
    assert model.figures.candidate.non_finite == 1


async def test_where_every_answer_has_an_infinity_few_are_asked_again_at_once() -> None:
    model = Model()
    model.follow(candidate=2)
    await model.answers(*[np.inf] * 64)
    await model.beside()
    assert 0 < model.replica.asked.count(2) <= trial.MOST_DOUBTS
    counted = model.figures.active
    assert (counted.non_finite, counted.doubts) == (0, trial.MOST_DOUBTS)
    assert counted.doubts + counted.passed_over == 64


async def test_a_candidate_that_always_answers_nan_is_judged_by_those_that_are_looked_into() -> None:
    """However many of them come while the other version is asked."""
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.replica.spoilt = {2}
    await model.answers(*[10.0] * 64)
    await model.beside()
    counted = model.figures.candidate
    assert (counted.requests, counted.non_finite, counted.passed_over) == (64, 8, 56)
    assert (counted.looked_into, counted.summary()["non_finite_rate"], counted.estimated_non_finite) == (8, 1.0, 64)


async def test_in_the_watch_the_version_before_is_asked() -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.commit(2)
    model.replica.spoilt = {2}
    await model.answers(np.nan, 10.0)
    await model.beside()
    assert model.figures.candidate.non_finite == 1


@pytest.mark.parametrize("error", [RuntimeFailed(call="run", detail="boom"), VersionNotResident(version=2)])
async def test_no_client_pays_for_a_candidate_that_fails(error: AotiServeError) -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.replica.broken[2] = error
    assert (await model.ask()).version == 1
    failed = isinstance(error, RuntimeFailed)
    assert (model.figures.candidate.failures, model.figures.candidate.requests) == (failed, failed)


REFUSED = IndexOutOfRange(name="x", low=0, high=15, table="table")


async def test_what_the_candidate_alone_refuses_is_answered_and_is_its_failure() -> None:
    """Weights may hold an index that makes a right request wrong."""
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.replica.broken[2] = REFUSED
    assert (await model.ask()).version == 1
    assert (model.figures.candidate.failures, model.figures.candidate.requests) == (1, 1)


@pytest.mark.parametrize("committed", [False, True])
async def test_what_both_versions_refuse_is_the_clients_doing(committed: bool) -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    if committed:
        model.commit(2)
    model.replica.broken = {1: REFUSED, 2: REFUSED}
    with pytest.raises(IndexOutOfRange):
        await model.ask()
    await model.beside()
    assert (model.figures.candidate.failures, model.figures.candidate.requests) == (0, 0)


async def test_in_the_watch_what_is_refused_is_asked_of_the_version_before() -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.commit(2)
    model.replica.broken[2] = REFUSED
    with pytest.raises(IndexOutOfRange):
        await model.ask()
    await model.beside()
    assert (model.figures.candidate.failures, model.figures.active.failures) == (1, 0)


async def test_what_the_active_version_refuses_is_asked_of_nobody() -> None:
    model = Model()
    model.follow(candidate=2)
    model.replica.broken[1] = REFUSED
    with pytest.raises(IndexOutOfRange):
        await model.ask()
    await model.beside()
    assert 2 not in model.replica.asked


async def test_a_candidate_that_is_too_late_is_counted_and_said() -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    model.replica.broken[2] = DeadlineExceeded(model="m", timeout=1.0)
    with pytest.raises(DeadlineExceeded):
        await model.ask(timeout=5.0)
    assert model.figures.candidate.failures == 1


async def test_an_answer_of_a_candidate_that_was_withdrawn_meanwhile_goes_to_nobody() -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    asked = asyncio.ensure_future(model.ask())
    await asyncio.sleep(0)
    model.follow()
    assert (await asked).version == 1


async def test_shadows_are_compared_and_answer_nobody() -> None:
    model = Model()
    model.follow(candidate=2, shadow=0.5)
    versions = [(await model.ask()).version for _ in range(20)]
    assert set(versions) == {1}
    await model.beside()
    shadow = model.figures.shadow
    assert (shadow.pairs, shadow.failed, shadow.dropped) == (10, 0, 0)
    assert shadow.outputs["y"].largest_difference == 1.0


@pytest.mark.parametrize("error", [RuntimeFailed(call="run", detail="boom"), REFUSED])
async def test_shadows_that_fail_are_counted(error: AotiServeError) -> None:
    model = Model()
    model.follow(candidate=2, shadow=1.0)
    model.replica.broken[2] = error
    await model.ask()
    await model.beside()
    assert (model.figures.shadow.pairs, model.figures.shadow.failed) == (0, 1)


async def test_after_the_commit_the_trial_goes_on_until_it_is_ended() -> None:
    model = Model()
    model.follow(candidate=2, share=1.0)
    await model.ask()
    model.commit(2)
    await model.ask()
    assert model.figures.candidate.requests == 2
    model.follow(2)
    assert model.answering.trial is None
