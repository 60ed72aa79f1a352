"""Messages that lie about shapes and sizes, or are damaged, to the gateway's real gRPC server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any, cast

import grpc
import pytest

from aoti_serve.config import GatewayConfig
from aoti_serve.signature.tensors import BY_OIP
from tests.unit.gateway.grpc.test_server import Echo, call, listener_of, request
from tests.unit.gateway.listener.wired import HOST, free_port
from tests.unit.gateway.plane import Plane
from tests.unit.protocol.grpc.disguise import Disguise, damaged
from tests.unit.protocol.grpc.protobuf import message_class

COUNT = pytest.mark.parametrize(
    "count", [500, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
Status = grpc.StatusCode
REFUSED = {Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.RESOURCE_EXHAUSTED}
METHODS = ("ModelInfer", "ModelInfer", "ModelInfer", "ModelReady", "ModelMetadata", "ServerLive")
SIZES = (1, 1, 2, 0, -1, 3, 8, 2**31, 2**63 - 1)


class Liar:
    """Makes requests that are nearly right, as `random` chooses."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def message(self) -> bytes:
        kind = self._random.choice(("lies", "lies", "damaged", "bytes"))
        if kind == "bytes":
            return self._random.randbytes(self._random.randint(0, 64))
        whole = Disguise(self._random).of(self._request())
        return damaged(whole, self._random) if kind == "damaged" else whole

    def _request(self) -> Any:
        message = message_class("ModelInferRequest")(model_name="m", model_version=self._often("", "1", "7"))
        for _ in range(self._often(1, 0, 2)):
            self._add_input(message)
        for _ in range(self._often(0, 1, 2)):
            message.outputs.add(name=self._often("y", "OUTPUT__0", "z", ""))
        for name in self._random.choice(((), (), ("priority", "binary_data_output", "shared_memory_region"))):
            message.parameters[name].int64_param = self._random.choice(SIZES)
        return message

    def _add_input(self, message: Any) -> None:
        shape = [self._often(1, *SIZES), 2][: self._often(2, 0, 1)] + [1] * self._often(0, 1, 40)
        tensor = message.inputs.add(name=self._often("x", "INPUT__0", "z"), datatype=self._often("FP32", *BY_OIP))
        tensor.shape.extend(shape)
        if self._random.random() < 0.2:
            tensor.parameters["binary_data_size"].int64_param = self._random.choice((8, *SIZES))
        if self._random.random() < 0.3:
            tensor.contents.fp32_contents.extend([0.5] * self._often(2, 0, 1, 3))
        else:
            message.raw_input_contents.append(bytes(self._often(8, 0, 4, 7, 9, 16)))

    def _often(self, right: Any, *wrong: Any) -> Any:
        """What is right, four times of five."""
        return right if self._random.random() < 0.8 else self._random.choice(wrong)


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    config = GatewayConfig(host=HOST, grpc_port=free_port())
    listener = listener_of(Plane(Echo(config), config.max_reading_bytes), config)
    await listener.open()
    async with grpc.aio.insecure_channel(f"{HOST}:{config.grpc_port}", [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel
    await listener.close(0)


async def status_of(channel: grpc.aio.Channel, method: str, message: bytes) -> grpc.StatusCode:
    asked = call(channel, method, message)
    details = await asked.details()
    assert len(details.encode()) <= 1024
    return cast(grpc.StatusCode, await asked.code())


@COUNT
async def test_any_message_is_answered_or_refused_and_the_next_good_one_is_answered(
    channel: grpc.aio.Channel, count: int
) -> None:
    random = Random(count)
    found = []
    for _ in range(count):
        message = Liar(random).message()
        found.append(await status_of(channel, random.choice(METHODS), message))
        assert found[-1] in {Status.OK, *REFUSED}, message.hex()
        assert await status_of(channel, "ModelInfer", request()) is Status.OK
    assert min(found.count(Status.OK), found.count(Status.INVALID_ARGUMENT)) > count // 10


@COUNT
async def test_a_stream_survives_any_message(channel: grpc.aio.Channel, count: int) -> None:
    """Each gets an answer of its own, which is an error or outputs; so the stream never ends early."""
    random = Random(count)
    stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=1500)
    for _ in range(count):
        await stream.write(Liar(random).message())
        assert await stream.read()
        await stream.write(request())
        assert not (await stream.read()).startswith(b"\x0a")  # error_message
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
