"""Answers of a model whose processor reads files of versions: both steps and the run belong to one version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import ProcessorFailed, UnknownVersion, VersionNotResident
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.work_item import Arrays
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.gateway.processing.processing import Processing
from aoti_serve.gateway.versions.answering import Answering, Asking
from aoti_serve.gateway.versions.answers import Answers
from aoti_serve.gateway.versions.residents import Residents
from aoti_serve.link.messages import AnswerMessage
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.swap.follower import Fence
from aoti_serve.weights.swap.target import Exposure, Staging, Target, Trial
from aoti_serve.weights.version import Committed, Version

OUTPUTS = (TensorSpec(name="y", dtype="float32", shape=(4,)),)
ROW = [np.ones((1, 4), np.float32)]


class Model:
    """Version 1 answers. Each step, and the run, multiplies by ten and adds its version: so 111 is whole, 121 is not.

    `at` does something when a step, or the run, of a version begins.
    """

    follows_versions = True

    def __init__(self) -> None:
        self.held = {1, 2}
        self.fence, self.residents = Fence(), Residents("m", keeps_previous=True)
        self.answering = Answering(self.fence, self.residents, OUTPUTS, self._batcher, self.before)
        self.answers = Answers("m", self.answering, self.residents, self.fence, cast(Processing, self))
        self.answering.set_runners(2)
        self.at: dict[tuple[str, int], Callable[[], None]] = {}
        self.follow(1)

    def follow(self, number: int, candidate: int | None = None, share: float = 0.0, shadow: float = 0.0) -> None:
        staging = trial = None
        if candidate is not None:
            staging = Staging("swap", Version(number=candidate), Exposure(share=share, shadow=shadow))
            trial = Trial("swap", candidate, number)
        previous = Version(number=number - 1) if number > 1 else None
        record = Committed(epoch=number, version=Version(number=number), previous=previous)
        target = Target(term=1, revision=number, committed=record, staging=staging, trial=trial)
        for follows in (self.fence, self.residents, self.answering):
            follows.follow(target)

    async def before(self, arrays: Arrays, timeout: float | None, version: int) -> Arrays:
        return [self._step("before", version, arrays[0] * 0)]

    async def run(self, arrays: Arrays, timeout: float | None, *, version: int | None) -> AnswerMessage:
        assert version is not None, "what was made for one version must not meet another"
        return AnswerMessage(version, version, [self._step("run", version, arrays[0])])

    async def after(
        self, arrays: Sequence[NDArray[Any]], timeout: float | None, version: int
    ) -> Sequence[NDArray[Any]]:
        return [self._step("after", version, arrays[0])]

    def _step(self, step: str, version: int, array: NDArray[Any]) -> NDArray[Any]:
        self.at.pop((step, version), lambda: None)()
        if version not in self.held:
            raise VersionNotResident(version=version)
        return array * 10 + np.float32(version)

    def _batcher(self, version: int | None, patient: bool) -> Batcher:
        config = BatchingConfig(max_queue_delay_ms=1.0 if patient else 0.0)
        return Batcher(ModelFigures("m"), config, partial(self.run, version=version), batches=True)

    async def ask(self, asked: int | None = None, key: str = "") -> int:
        found = await self.answers.answer(Asking(ROW, key=key), asked)
        assert len(set(found.outputs[0].ravel())) == 1
        assert found.outputs[0][0, 0] == 111 * found.rows.version
        return found.rows.version


@pytest.mark.parametrize("step", ["before", "run", "after"])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_what_a_commit_overtakes_is_asked_again_of_the_new_version(step: str, forgotten: bool) -> None:
    """Also where nobody holds the old version any more."""
    model = Model()

    def commit() -> None:
        model.follow(2)
        model.held = {2} if forgotten else {1, 2}

    model.at[step, 1] = commit
    assert await model.ask() == 2
    assert model.at == {}


async def test_what_members_have_let_go_of_before_this_gateway_has_heard_waits_for_the_news() -> None:
    model = Model()
    model.held = {2}
    asking = asyncio.ensure_future(model.ask())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    model.follow(2)
    assert await asking == 2


async def test_a_pinned_request_goes_through_the_files_of_its_version() -> None:
    model = Model()
    model.follow(2)
    assert [await model.ask(asked) for asked in (1, 2)] == [1, 2]
    model.at["after", 1] = lambda: model.held.discard(1)
    with pytest.raises(UnknownVersion):
        await model.ask(1)


async def test_requests_and_shadows_of_a_candidate_go_through_its_files() -> None:
    model = Model()
    model.follow(1, candidate=2, share=0.5, shadow=1.0)
    assert {await model.ask(key=str(number)) for number in range(20)} == {1, 2}
    assert model.answering.trial is not None
    for shadow in list(model.answering.trial.beside):
        await shadow
    pairs = model.answering.trial.figures().shadow
    assert pairs.pairs > 0
    assert pairs.outputs["y"].largest_difference == 11.0  # 22 by the candidate's files and weights, 11 by the others


@pytest.mark.parametrize("step", ["before", "after"])
async def test_no_client_pays_for_a_candidate_whose_files_fail(step: str) -> None:
    model = Model()
    model.follow(1, candidate=2, share=1.0)

    def fail() -> None:
        raise ProcessorFailed(model="m", step=step, raised="KeyError", detail="x")

    model.at[step, 2] = fail
    assert await model.ask() == 1
    assert model.answering.trial is not None
    counted = model.answering.trial.figures().candidate
    assert (counted.requests, counted.failures) == (1, 1)


async def test_files_that_fail_for_both_versions_are_held_against_neither() -> None:
    """Each has one request, which has failed."""
    model = Model()
    model.follow(1, candidate=2)

    def fail() -> None:
        raise ProcessorFailed(model="m", step="after", raised="KeyError", detail="x")

    model.at["after", 1] = fail
    with pytest.raises(ProcessorFailed):
        await model.ask()
    assert model.answering.trial is not None
    counted = model.answering.trial.figures().active
    assert (counted.requests, counted.failures) == (1, 1)
