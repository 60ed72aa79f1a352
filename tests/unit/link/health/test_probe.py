"""What a probe sends, and what its outcome proves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aoti_serve.errors import IndexOutOfRange, ReplicaBehind, RuntimeFailed
from aoti_serve.link.health.probe import Probe
from aoti_serve.link.health.run_health import RunHealth
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

BATCH = Dim(symbol="batch", min=2, max=8)
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(BATCH, 3)),
        TensorSpec(name="half", dtype="bfloat16", shape=(BATCH,)),
    ),
    outputs=(),
    constants=(),
)
FAILURE = RuntimeFailed(call="run", detail="a matrix without an inverse")
Inputs = list[NDArray[Any]]


class Model:
    """Raises what `answer` says for the value of its inputs. `health` judges it."""

    def __init__(self, answer: Callable[[int], Exception | None]) -> None:
        self.answer = answer
        self.asked: list[Inputs] = []
        self.health = RunHealth(10.0, lambda: 0.0)

    async def run(self, inputs: Inputs) -> None:
        self.asked.append(inputs)
        began = self.health.begin()
        error = self.answer(int(inputs[0].flat[0]))
        self.health.end(began, error)
        if error:
            raise error


async def judged(probe: Probe, answer: Callable[[int], Exception | None]) -> Model:
    model = Model(answer)
    model.health.begin_probe()
    await probe.judge(model.health, model.run)
    return model


async def test_it_sends_the_smallest_inputs_in_their_order() -> None:
    model = await judged(Probe(SIGNATURE), lambda _: None)
    ((x, half),) = model.asked
    assert (x.shape, half.shape) == ((2, 3), (2,))
    assert (x.dtype, half.dtype) == (np.dtype("float32"), np.dtype("uint16"))
    assert model.health.trusted


async def test_a_model_that_refuses_zeros_is_asked_with_ones_and_from_then_on_only_with_them() -> None:
    probe = Probe(SIGNATURE)
    for expected in ([0, 1], [1]):
        model = await judged(probe, lambda value: None if value else FAILURE)
        assert [int(inputs[0].flat[0]) for inputs in model.asked] == expected
        assert model.health.trusted


async def test_a_model_that_refuses_all_made_up_inputs_answers_at_least() -> None:
    assert (await judged(Probe(SIGNATURE), lambda _: FAILURE)).health.trusted


async def test_the_same_failure_is_a_fault_where_another_replica_has_run() -> None:
    probe = Probe(SIGNATURE)
    await judged(probe, lambda _: None)
    assert (await judged(probe, lambda _: FAILURE)).health.fault == "its runs fail (RuntimeFailed)"


async def test_an_index_out_of_range_was_found_by_a_run() -> None:
    probe, error = Probe(SIGNATURE), IndexOutOfRange(name="x", low=1, high=9, table="t")
    assert (await judged(probe, lambda _: error)).health.trusted
    assert not (await judged(probe, lambda _: FAILURE)).health.trusted


async def test_a_replica_that_is_behind_proves_nothing() -> None:
    probe = Probe(SIGNATURE)
    await judged(probe, lambda _: None)
    model = await judged(probe, lambda _: ReplicaBehind(model="m", epoch=1, fence=2))
    assert not model.health.trusted
    assert model.health.fault is None


async def test_a_probe_that_is_cut_short_proves_nothing() -> None:
    async def never(_: Inputs) -> None:
        await asyncio.Event().wait()

    health = RunHealth(10.0, lambda: 0.0)
    health.begin_probe()
    task = asyncio.create_task(Probe(SIGNATURE).judge(health, never))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert health.fault is None
