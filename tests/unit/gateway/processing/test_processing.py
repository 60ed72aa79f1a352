"""A gateway and a processor over a real link, in one process: what comes back is checked before it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from aoti_serve.address import Address
from aoti_serve.cluster.processor.actor import ProcessorRunner
from aoti_serve.cluster.processor.directory import ProcessorDirectory
from aoti_serve.config import GatewayConfig, ProcessorConfig
from aoti_serve.errors import ProcessorFailed
from aoti_serve.gateway.processing.processing import Processing
from aoti_serve.link.server import LinkServer
from aoti_serve.processor.declared import declared
from aoti_serve.signature.padding import Padding
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.strings import strings_of
from aoti_serve.signature.tensors import Dim, TensorSpec

BATCH, LENGTH = Dim(symbol="batch", min=1), Dim(symbol="length", min=1, max=8)
N = TensorSpec(name="n", dtype="int64", shape=(BATCH,))
IDS, MASK = (TensorSpec(name=name, dtype="int64", shape=(BATCH, LENGTH)) for name in ("ids", "mask"))
MASKED = Padding(values={"ids": 0, "mask": 0}, masks=("mask",))
FLOATS = TensorSpec(name="n", dtype="float32", shape=(BATCH,))
LIMITS = GatewayConfig(max_request_rows=5)


class OneMore:
    """Knows where the processor is."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def addresses(self) -> list[Address]:
        return [self._address]


@asynccontextmanager
async def processing(
    name: str = "Words", inputs: tuple[TensorSpec, ...] = (N,), padding: Padding | None = None, **args: Any
) -> AsyncIterator[Processing]:
    config = ProcessorConfig.model_validate({"class": f"tests.processors:{name}", "args": args})
    own = Signature(inputs=inputs, outputs=(inputs[0] if padding else N,), constants=(), padding=padding)
    runner = ProcessorRunner("m", config)
    await runner.start()
    link = LinkServer(runner.answer)
    await link.open()
    directory = cast(ProcessorDirectory, OneMore(Address("p", "node", link.path, 1, link.key)))
    found = Processing("m", config, declared(config, "m", own), own, LIMITS, directory, ("g", "node"))
    try:
        async with asyncio.timeout(10):
            while found.reason_not_ready:
                await asyncio.sleep(0.01)
        yield found
    finally:
        found.close()
        link.close()


def words(*values: bytes) -> list[Any]:
    return [strings_of(values, (len(values),))]


async def test_words_become_the_models_inputs_and_its_outputs_words() -> None:
    async with processing(letter="o") as found:
        [n] = await found.before(words(b"one", b"three"), None)
        assert n.tolist() == [3, 5]
        [letters] = await found.after([n], None)
        assert letters.tolist() == [b"ooo", b"ooooo"]


async def test_a_mask_that_a_processor_leaves_out_is_made() -> None:
    async with processing("Letters", (IDS, MASK), MASKED) as found:
        ids, mask = await found.before(words(b"ab", b"cd"), None)
        assert (ids.tolist(), mask.tolist()) == ([[97, 98], [99, 100]], [[1, 1], [1, 1]])


async def test_what_the_model_does_not_take_never_reaches_it() -> None:
    async with processing(inputs=(FLOATS,)) as found:
        with pytest.raises(ProcessorFailed, match=r"`before` .*input 'n': datatype INT64, the model takes FP32"):
            await found.before(words(b"one"), None)
    async with processing() as found:
        with pytest.raises(ProcessorFailed, match="6 rows, the limit is 5"):
            await found.before(words(*[b"x"] * 6), None)


async def test_an_answer_that_is_not_as_declared_never_leaves() -> None:
    async with processing("WrongAnswers") as found:
        with pytest.raises(ProcessorFailed, match=r"`after` .*input 'letters': shape \[1, 1\]"):
            await found.after([np.array([1])], None)
