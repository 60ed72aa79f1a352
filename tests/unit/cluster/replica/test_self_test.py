"""When a replica asks to be replaced: if none of its runs ends, or all of them fail, and not over a guilty request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field

import numpy as np
import pytest

from aoti_serve.cluster.replica.self_test import SelfTest
from aoti_serve.errors import ReplicaAtFault
from aoti_serve.link.messages import AnswerMessage, BatchArrays
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=(2,))
SIGNATURE = Signature(inputs=(X,), outputs=(X,), constants=())
LONGEST_S, CHECKS_S = 30.0, 2.0
GUILTY = [np.full(2, -1, np.float32)]
GOOD = [np.full(2, 1, np.float32)]


@dataclass
class Replica:
    """A replica with a runner that can break, and Serve, which checks its health."""

    now: float = 0.0
    broken: bool = False
    ends: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ends.set()
        self.test = SelfTest("m", SIGNATURE, self.run, LONGEST_S, lambda: self.now)

    async def run(self, arrays: BatchArrays) -> AnswerMessage:
        await self.ends.wait()
        if self.broken or arrays[0][0] < 0:
            raise ValueError("an illegal memory access")
        return AnswerMessage(1, 1, list(arrays))

    def answer(self, arrays: BatchArrays) -> Awaitable[AnswerMessage]:
        return self.test.watch(self.run(arrays))

    async def check(self) -> None:
        self.now += CHECKS_S
        try:
            self.test.check()
        finally:
            await asyncio.sleep(0.001)  # the probe, if one has begun

    async def checks(self, count: int) -> int:
        """How many of so many checks fail."""
        failed = 0
        for _ in range(count):
            try:
                await self.check()
            except ReplicaAtFault:
                failed += 1
        return failed


async def test_one_whose_runs_all_fail_asks_to_be_replaced_within_seconds() -> None:
    replica = Replica()
    await replica.answer(GOOD)
    await replica.checks(2)
    replica.broken = True
    with pytest.raises(ValueError, match="illegal"):
        await replica.answer(GOOD)
    assert await replica.checks(5) >= 3


async def test_guilty_requests_replace_nobody() -> None:
    replica = Replica()
    for _ in range(100):
        with pytest.raises(ValueError, match="illegal"):
            await replica.answer(GUILTY)
        assert await replica.checks(1) == 0


async def test_one_whose_runs_end_no_more_asks_to_be_replaced() -> None:
    replica = Replica()
    await replica.checks(2)
    replica.ends.clear()
    answer = asyncio.ensure_future(replica.answer(GOOD))
    await asyncio.sleep(0)
    assert await replica.checks(int(LONGEST_S / CHECKS_S)) == 0, "a run may take so long"
    with pytest.raises(ReplicaAtFault, match="'m': this replica must be replaced: it has finished no run for 32 s"):
        await replica.check()
    replica.ends.set()
    await answer
    assert await replica.checks(1) == 0


async def test_one_that_recovers_stays() -> None:
    replica = Replica()
    await replica.checks(2)
    replica.broken = True
    with pytest.raises(ValueError, match="illegal"):
        await replica.answer(GOOD)
    assert await replica.checks(3) > 0
    replica.broken = False
    await replica.checks(1)
    assert await replica.checks(3) == 0
