"""The code of docs/guides/sequences.md, as it is, against a gateway's listener. The module runs uncompiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from numpy.typing import NDArray

from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.weights.swap.target import Target
from aoti_serve.weights.version import Committed, Version
from tests.pages import blocks_of
from tests.unit.gateway.http.gateway import NAME, VERSION, Gateway, running
from tests.unit.gateway.listener.wired import Wired, loop_in_a_thread

MODEL, CLIENT = (block.text for block in blocks_of("docs/guides/sequences.md") if block.language == "python")


def run_on_page(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code.replace('"audio"', repr(NAME)), names)
    return names


def tensors(**sizes: int) -> tuple[TensorSpec, ...]:
    streams = Dim(symbol="streams", min=1, max=256)
    return tuple(TensorSpec(name=name, dtype="float32", shape=(streams, size)) for name, size in sizes.items())


class Replica:
    """Holds the page's module with weights of its own for each version; the newest answers."""

    def __init__(self) -> None:
        make = run_on_page(MODEL)["make_model"]
        self.modules: dict[int, torch.nn.Module] = {}
        for version in range(VERSION, VERSION + 3):
            torch.manual_seed(version)
            self.modules[version] = make()[0]
        self.active = VERSION

    def compute(self, version: int, samples: NDArray[Any], state: NDArray[Any]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            found = self.modules[version](torch.from_numpy(samples.copy()), torch.from_numpy(state.copy()))
        return [found["clean"].numpy(), found["next_state"].numpy()]

    async def run(self, gateway: str, batch: BatchMessage) -> AnswerMessage:
        version = self.active if batch.version is None else batch.version
        samples, state = (np.asarray(array) for array in batch.arrays)
        return AnswerMessage(version, 1, self.compute(version, samples, state))

    async def swap(self, gateway: Gateway) -> None:
        before, self.active = self.active, self.active + 1
        record = Committed(epoch=1, version=Version(number=self.active), previous=Version(number=before))
        await gateway.served.reconcile(Target(1, self.active, record))


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
def listening(replica: Replica) -> Iterator[tuple[Any, Any]]:
    """What swaps, and a client."""
    signature = Signature(
        inputs=tensors(samples=320, state=64), outputs=tensors(clean=320, next_state=64), constants=()
    )
    with loop_in_a_thread() as loop:
        stack = AsyncExitStack()
        gateway = loop.run(
            stack.enter_async_context(running(GatewayConfig(), BatchingConfig(), signature, replica.run))
        )
        wired = Wired(loop, gateway.app)
        client = triton.InferenceServerClient("{}:{}".format(*wired.address))
        try:
            yield lambda: loop.run(replica.swap(gateway)), client
        finally:
            client.close()
            wired.close()
            loop.run(stack.aclose())


def test_the_example_stays_with_its_version_through_a_swap_and_hears_its_end(
    replica: Replica, listening: tuple[Any, Any]
) -> None:
    swap, client = listening
    chunks = np.random.default_rng(1).normal(size=(6, 1, 320)).astype(np.float32)
    state = np.zeros((1, 64), np.float32)
    stream = run_on_page(CLIENT)["cleaned"](client, chunks, sequence_id=7)
    for place in range(4):
        clean, version = next(stream)
        assert version == str(VERSION)
        expected, state = replica.compute(VERSION, chunks[place], state)
        np.testing.assert_allclose(clean, expected, atol=1e-6)
        if place == 1:
            swap()
    _, version = next(run_on_page(CLIENT)["cleaned"](client, chunks, sequence_id="another"))
    assert version == str(VERSION + 1)
    swap()
    with pytest.raises(triton.InferenceServerException, match=r"sequence 7 of model .* has ended") as ended:
        next(stream)
    assert ended.value.status() == "410"
