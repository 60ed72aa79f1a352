"""Sequences over HTTP and gRPC: a model whose state goes in and out, and swaps in between. Its runner is played."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import httpx
import numpy as np
import pytest

from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.errors import VersionNotResident
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.protocol.grpc.wire import FieldBudget, fields_of
from aoti_serve.protocol.grpc.written import delimited, packed_numbers, string_field, varint
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.weights.swap.target import Exposure, Staging, Target, Trial
from aoti_serve.weights.version import Committed, Version
from tests.unit.gateway.grpc.test_server import answering, call, refusal
from tests.unit.gateway.http.gateway import NAME, VERSION, Gateway, assert_error, running
from tests.unit.gateway.listener.wired import HOST, free_port
from tests.unit.gateway.plane import Plane

STREAMS = Dim(symbol="streams", min=1, max=64)
SAMPLES, STATE = (
    TensorSpec(name=name, dtype="float32", shape=(STREAMS, size)) for name, size in (("samples", 4), ("state", 1))
)
LEVEL = STATE.model_copy(update={"name": "level"})
AUDIO = Signature(
    inputs=(SAMPLES, STATE), outputs=(LEVEL, STATE.model_copy(update={"name": "new_state"})), constants=()
)
CHUNK, START = [1.0, 2.0, 3.0, 4.0], {"sequence_id": 7, "sequence_start": True}


class Audio:
    """Follows the level of its samples: each version with a decay of its own. Holds `held`, answers with `active`."""

    def __init__(self) -> None:
        self.active, self.held = VERSION, {VERSION}

    async def run(self, gateway: str, batch: BatchMessage) -> AnswerMessage:
        version = self.active if batch.version is None else batch.version
        if version not in self.held:
            raise VersionNotResident(version=version)
        samples, state = batch.arrays
        level = state / version + samples.mean(axis=1, keepdims=True)
        return AnswerMessage(version, 1, [level * 100, level])


class Stream:
    """A client that keeps its state, and the version that has made it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.state, self.version, self.expected = 0.0, "", 0.0

    async def go_on(self, **parameters: Any) -> httpx.Response:
        inputs = [
            {"name": "samples", "datatype": "FP32", "shape": [1, 4], "data": CHUNK},
            {"name": "state", "datatype": "FP32", "shape": [1, 1], "data": [self.state]},
        ]
        body = json.dumps({"inputs": inputs, "parameters": parameters})
        path = f"/v2/models/{NAME}{self.version and f'/versions/{self.version}'}/infer"
        response = await self.gateway.client.post(path, content=body)
        if response.status_code == 200:
            self.version = response.json()["model_version"]
            (self.state,) = response.json()["outputs"][1]["data"]
            self.expected = self.expected / int(self.version) + float(np.mean(CHUNK))
            assert self.state == pytest.approx(self.expected)
        return response


@pytest.fixture
def audio() -> Audio:
    return Audio()


@pytest.fixture
async def gateway(audio: Audio) -> AsyncIterator[Gateway]:
    async with running(GatewayConfig(), BatchingConfig(), AUDIO, audio.run) as made:
        yield made


async def swapped(gateway: Gateway, audio: Audio, version: int, *, candidate: int | None = None) -> None:
    """To this version; the one before stays, until another is staged."""
    before, audio.active = audio.active, version
    audio.held = {version, candidate or before}
    record = Committed(epoch=1, version=Version(number=version), previous=Version(number=before))
    staging = None if candidate is None else Staging("swap", Version(number=candidate), Exposure(share=1.0))
    trial = None if candidate is None else Trial("swap", candidate, version)
    await gateway.served.reconcile(Target(1, version, record, staging=staging, trial=trial))


async def test_a_sequence_stays_with_its_version_through_a_swap_and_others_do_not(
    gateway: Gateway, audio: Audio
) -> None:
    stream = Stream(gateway)
    await stream.go_on(**START)
    await swapped(gateway, audio, VERSION + 1)
    for _ in range(3):
        assert (await stream.go_on(sequence_id=7)).json()["model_version"] == str(VERSION)
    assert (await Stream(gateway).go_on(**START)).json()["model_version"] == str(VERSION + 1)
    assert (await stream.go_on(sequence_id=7, sequence_end=True)).json()["model_version"] == str(VERSION)


async def test_a_sequence_whose_version_is_gone_is_told_that_it_has_ended(gateway: Gateway, audio: Audio) -> None:
    stream = Stream(gateway)
    await stream.go_on(**START)
    await swapped(gateway, audio, VERSION + 1)
    await swapped(gateway, audio, VERSION + 2)
    told = assert_error(await stream.go_on(sequence_id=7), 410)
    assert told.startswith(f"sequence 7 of model '{NAME}' has ended: no replica holds version {VERSION}, with which it")
    assert "begin anew with `sequence_start: true`" in told
    stream = Stream(gateway)
    assert (await stream.go_on(**START)).status_code == 200


async def test_it_is_told_so_also_where_the_replicas_are_ahead_of_the_gateway(gateway: Gateway, audio: Audio) -> None:
    stream = Stream(gateway)
    await stream.go_on(**START)
    await swapped(gateway, audio, VERSION + 1)
    audio.held.remove(VERSION)
    assert "has ended" in assert_error(await stream.go_on(sequence_id=7), 410)


@pytest.mark.parametrize("version", ["", "active", "previous", "stable"])
async def test_who_goes_on_names_the_version_by_its_number(gateway: Gateway, version: str) -> None:
    stream = Stream(gateway)
    stream.version = version
    told = assert_error(await stream.go_on(sequence_id="call 7"), 400)
    assert told.startswith("sequence 'call 7': a request that goes on with it asks for the version that it began with")


async def test_any_gateway_can_go_on_with_a_sequence(gateway: Gateway, audio: Audio) -> None:
    stream = Stream(gateway)
    await stream.go_on(**START)
    async with running(GatewayConfig(), BatchingConfig(), AUDIO, audio.run) as other:
        stream.gateway = other
        assert (await stream.go_on(sequence_id=7)).json()["model_version"] == str(VERSION)


async def test_a_sequence_that_began_with_a_candidate_goes_on_with_it(gateway: Gateway, audio: Audio) -> None:
    await swapped(gateway, audio, VERSION + 1, candidate=VERSION + 2)
    stream = Stream(gateway)
    for parameters in (START, {"sequence_id": 7}):
        assert (await stream.go_on(**parameters)).json()["model_version"] == str(VERSION + 2)
    await swapped(gateway, audio, VERSION + 2)
    assert (await stream.go_on(sequence_id=7)).json()["model_version"] == str(VERSION + 2)


async def test_a_version_that_is_not_there_to_begin_with_is_an_unknown_one(gateway: Gateway) -> None:
    stream = Stream(gateway)
    stream.version = "99"
    assert "holds no version 99: version 7 answers" in assert_error(await stream.go_on(**START), 404)


async def test_over_grpc_too(gateway: Gateway, audio: Audio) -> None:
    config = GatewayConfig(host=HOST, grpc_port=free_port())
    plane = DataPlane([gateway.served], config.max_reading_bytes)
    async with answering(cast(Plane, plane), config) as channel:
        first = await call(channel, "ModelInfer", grpc_request(start=True))
        assert version_in(first) == str(VERSION)
        await swapped(gateway, audio, VERSION + 1)
        assert version_in(await call(channel, "ModelInfer", grpc_request(str(VERSION)))) == str(VERSION)
        error = await refusal(call(channel, "ModelInfer", grpc_request()))
        assert (error.code(), "`model_version` of its first" in str(error.details())) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )
        await swapped(gateway, audio, VERSION + 2)
        error = await refusal(call(channel, "ModelInfer", grpc_request(str(VERSION))))
        assert (error.code(), "has ended" in str(error.details())) == (grpc.StatusCode.ABORTED, True)


def grpc_request(version: str = "", *, start: bool = False) -> bytes:
    """As tritonclient writes it."""
    parameters = {"sequence_id": b"\x10\x07", "sequence_start": b"\x08" + varint(start), "sequence_end": b"\x08\x00"}
    head = string_field(1, NAME) + string_field(2, version)
    head += b"".join(delimited(4, string_field(1, name) + delimited(2, value)) for name, value in parameters.items())
    for name, size in (("samples", 4), ("state", 1)):
        head += delimited(5, string_field(1, name) + string_field(2, "FP32") + packed_numbers(3, (1, size)))
    return head + b"".join(delimited(7, np.ones(size, np.float32).tobytes()) for size in (4, 1))


def version_in(answer: bytes) -> str:
    (version,) = [answer[begin:end] for tag, begin, end in fields_of(answer, FieldBudget()) if tag >> 3 == 2]
    return version.decode()
