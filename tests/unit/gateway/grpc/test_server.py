"""gRPC calls over a real channel to the gateway's real server; only the model behind it is played."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from aoti_serve.cluster.coordinator.gathered import Gathered, Told
from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError, PortTaken, QueueFull, ReplicaDied, UnknownVersion
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.exchange import StatisticsExchange
from aoti_serve.gateway.figures.model_figures import GRPC, ModelFigures
from aoti_serve.gateway.grpc.methods import HEALTH, SERVICE, grpc_methods
from aoti_serve.gateway.grpc.server import grpc_listener
from aoti_serve.gateway.listener.server import Listener
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.protocol.grpc.messages import decode_message, encode_message
from aoti_serve.protocol.grpc.wire import FieldBudget, fields_of
from aoti_serve.protocol.grpc.written import delimited, packed_numbers, string_field
from aoti_serve.protocol.messages import InferResponse
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.token import TokenSet
from tests.unit.gateway.listener.wired import HOST, free_port
from tests.unit.gateway.plane import Plane

X = TensorSpec(name="x", dtype="float32", shape=(Dim(symbol="batch", min=1, max=8), 2))
Y = X.model_copy(update={"name": "y"})
SIGNATURE = Signature(inputs=(X,), outputs=(Y,), constants=())
Status = grpc.StatusCode
ASKER = "asker-0123456789abcdef"


class AllIsHere:
    """The client of a coordinator that has no other gateway."""

    async def exchange_statistics(self, told: Told) -> Gathered:
        return Gathered([], [])


class Echo:
    """A model that answers what it is sent, once it may; `name` is that of its model as `ServedModel` has it."""

    ready = True

    def __init__(self, config: GatewayConfig) -> None:
        self.figures = ModelFigures("m")
        self.statistics = StatisticsExchange("gateway", self.figures, cast(CoordinatorClient, AllIsHere()))
        self.checker = RequestChecker(SIGNATURE, config)
        self.patience: list[float | None] = []
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.fails: Exception | None = None

    async def infer(
        self, request: CheckedRequest, arrays: list[NDArray[Any]], version: str | None, left: float | None, key: str
    ) -> InferResponse:
        self.check_version(version)
        self.patience.append(left)
        self.arrived.put_nowait(None)
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.fails:
            raise self.fails
        return InferResponse("m", 1, request.head.id, [(Y, arrays[0])])

    def check_version(self, version: str | None) -> None:
        if version not in (None, "1"):
            raise UnknownVersion(name="m", version=str(version), current=1)

    def metadata(self, version: str | None) -> dict[str, object]:
        self.check_version(version)
        return {"name": "m", "versions": ["1"]}


@pytest.fixture
def config() -> GatewayConfig:
    return GatewayConfig(
        host=HOST, grpc_port=free_port(), max_body_bytes=2**20, max_json_bytes=2**20, max_reading_bytes=2**20
    )


@pytest.fixture
async def echo(config: GatewayConfig) -> Echo:
    return Echo(config)


@pytest.fixture
async def plane(echo: Echo, config: GatewayConfig) -> Plane:
    return Plane(echo, config.max_reading_bytes)


def listener_of(
    plane: Plane, config: GatewayConfig, owner: str = "the tests", clock: Callable[[], float] = time.monotonic
) -> Listener:
    methods = grpc_methods(cast(DataPlane, plane), Access(config, TokenSet(b"key")), config)
    return grpc_listener(methods, plane.budget, config, owner, clock)


@pytest.fixture
def closed(config: GatewayConfig, tmp_path: Path) -> GatewayConfig:
    """It asks for an inference token."""
    path = tmp_path / "tokens"
    path.write_text(ASKER)
    path.chmod(0o600)
    return config.model_copy(update={"inference_tokens": path})


@asynccontextmanager
async def answering(plane: Plane, config: GatewayConfig) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a listener of this configuration."""
    listener = listener_of(plane, config)
    await listener.open()
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"{HOST}:{config.grpc_port}", options=options) as channel:
        yield channel
    await listener.close(0)


@pytest.fixture
async def listener(plane: Plane, config: GatewayConfig) -> AsyncIterator[Listener]:
    listener = listener_of(plane, config)
    await listener.open()
    yield listener
    await listener.close(0)


@pytest.fixture
async def channel(listener: Listener, config: GatewayConfig) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"{HOST}:{config.grpc_port}", options=options) as channel:
        yield channel


def call(channel: grpc.aio.Channel, method: str, message: bytes = b"", service: str = SERVICE, **options: Any) -> Any:
    ask: Any = channel.unary_unary(f"/{service}/{method}")
    return ask(message, timeout=options.pop("timeout", 30), **options)


def request(rows: int = 1, identity: str = "", model: str = "m", version: str = "", name: str = "x") -> bytes:
    """A ModelInferRequest of rows of ones, raw."""
    tensor = string_field(1, name) + string_field(2, "FP32") + packed_numbers(3, (rows, 2))
    head = string_field(1, model) + string_field(2, version) + string_field(3, identity) + delimited(5, tensor)
    return head + delimited(7, np.ones((rows, 2), np.float32).tobytes())


async def ask(channel: grpc.aio.Channel, name: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await call(channel, name, encode_message(f"{name}Request", values or {}))
    return decode_message(f"{name}Response", answer)


def raw_of(answer: bytes) -> bytes:
    (raw,) = [answer[begin:end] for tag, begin, end in fields_of(answer, FieldBudget()) if tag >> 3 == 6]
    return raw


async def refusal(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def test_an_inference_is_answered_with_its_id(channel: grpc.aio.Channel) -> None:
    answer = await call(channel, "ModelInfer", request(3, identity="mine"))
    assert raw_of(answer) == np.ones((3, 2), np.float32).tobytes()
    assert b"\x1a\x04mine" in answer


async def test_a_call_is_known_by_the_clients_id_or_by_one_of_ours(channel: grpc.aio.Channel) -> None:
    asked = call(channel, "ServerLive", metadata=[("x-request-id", "mine")])
    await asked
    assert dict(await asked.trailing_metadata())["x-request-id"] == "mine"
    for given in ([], [("x-request-id", "a b")], [("x-request-id", "x" * 129)]):
        asked = call(channel, "ModelReady", encode_message("ModelReadyRequest", {"name": "none"}), metadata=given)
        await refusal(asked)
        assert len(dict(await asked.trailing_metadata())["x-request-id"]) == 16


@pytest.mark.parametrize(
    ("message", "status", "text"),
    [
        (request(model="none"), Status.NOT_FOUND, "model 'none' is not served here; available: m"),
        (request(version="7"), Status.NOT_FOUND, "model 'm' holds no version 7: version 1 answers"),
        (request(name="z"), Status.INVALID_ARGUMENT, "input 'z': the model has no such input; available: x"),
        (b"\xff", Status.INVALID_ARGUMENT, "the message is not protobuf"),
    ],
)
async def test_a_clients_error_has_its_status_and_names_what_is_wrong(
    channel: grpc.aio.Channel, message: bytes, status: Status, text: str
) -> None:
    error = await refusal(call(channel, "ModelInfer", message))
    assert (error.code(), text in str(error.details())) == (status, True), error.details()


@pytest.mark.parametrize(
    ("fails", "status"),
    [
        (QueueFull(model="m", waiting="9 rows", limit="8", setting="s", retry_after=1), Status.RESOURCE_EXHAUSTED),
        (ReplicaDied(model="m"), Status.UNAVAILABLE),
        (ValueError("a secret"), Status.INTERNAL),
    ],
)
async def test_what_fails_behind_has_a_true_status(
    channel: grpc.aio.Channel, echo: Echo, fails: Exception, status: Status
) -> None:
    echo.fails = fails
    error = await refusal(call(channel, "ModelInfer", request()))
    assert error.code() is status
    assert "secret" not in str(error.details())
    if isinstance(fails, AotiServeError):
        assert error.details() == str(fails)


async def test_patience_is_the_shortest_of_deadline_and_metadata(channel: grpc.aio.Channel, echo: Echo) -> None:
    await call(channel, "ModelInfer", request(), timeout=20)
    await call(channel, "ModelInfer", request(), timeout=20, metadata=[("x-request-timeout-seconds", "5")])
    await call(channel, "ModelInfer", request(), timeout=None, metadata=[("x-request-timeout-seconds", "0")])
    first, second, third = echo.patience
    assert first is not None
    assert 10 < first <= 21  # on its way gRPC rounds a deadline up
    assert second is not None
    assert 4 < second < 5
    assert third is None
    error = await refusal(call(channel, "ModelInfer", request(), metadata=[("x-request-timeout-seconds", "soon")]))
    assert error.code() is Status.INVALID_ARGUMENT


async def test_a_client_that_leaves_cancels_its_run(channel: grpc.aio.Channel, echo: Echo) -> None:
    echo.goes_on.clear()
    asked = call(channel, "ModelInfer", request())
    task = asyncio.ensure_future(asked)
    await echo.arrived.get()
    asked.cancel()
    await asyncio.wait_for(echo.cancelled.wait(), 30)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_bodies_share_one_budget_and_have_a_limit(
    channel: grpc.aio.Channel, plane: Plane, config: GatewayConfig
) -> None:
    plane.budget.held = config.max_reading_bytes - 1
    error = await refusal(call(channel, "ModelInfer", request() + delimited(15, bytes(2**17))))
    assert error.code() is Status.RESOURCE_EXHAUSTED
    assert "gateway.max_reading_bytes" in str(error.details())
    error = await refusal(call(channel, "ModelInfer", bytes(3 * 2**20)))
    assert error.code() is Status.RESOURCE_EXHAUSTED
    await call(channel, "ModelInfer", request())


async def test_the_small_methods_answer(channel: grpc.aio.Channel, plane: Plane) -> None:
    assert await ask(channel, "ServerLive") == {"live": True}
    assert await ask(channel, "ServerReady") == {"ready": True}
    assert (await ask(channel, "ServerMetadata"))["name"] == "aoti-serve"
    assert await ask(channel, "ModelReady", {"name": "m"}) == {"ready": True}
    assert (await ask(channel, "ModelMetadata", {"name": "m", "version": "1"}))["versions"] == ["1"]
    plane.reason_not_ready = "no replica"
    assert await ask(channel, "ServerReady") == {"ready": False}


async def test_health_is_that_of_the_server_the_service_or_a_model(channel: grpc.aio.Channel, plane: Plane) -> None:
    async def health(service: str) -> str:
        answer = await call(channel, "Check", encode_message("HealthCheckRequest", {"service": service}), HEALTH)
        return str(decode_message("HealthCheckResponse", answer)["status"])

    assert [await health(service) for service in ("", SERVICE, "m")] == ["SERVING"] * 3
    plane.reason_not_ready = "no replica"
    assert [await health(service) for service in ("", SERVICE, "m")] == ["NOT_SERVING", "NOT_SERVING", "SERVING"]
    assert (await refusal(health("other"))).code() is Status.NOT_FOUND


async def test_what_is_not_served_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for method in ("ModelInferAsync", "SystemSharedMemoryRegister", "TraceSetting"):
        assert (await refusal(call(channel, method))).code() is Status.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("method", "instead"),
    [
        ("RepositoryModelLoad", "POST /v2/models/"),
        ("RepositoryModelUnload", "POST /v2/models/"),
        ("CudaSharedMemoryStatus", "as binary data"),
        ("TraceSetting", "send an X-Request-ID"),
        ("LogSettings", "in the configuration"),
        ("ModelInferAsync", "served are"),
    ],
)
async def test_what_is_not_served_is_told_with_the_way_out_as_over_http(
    channel: grpc.aio.Channel, method: str, instead: str
) -> None:
    assert instead in str((await refusal(call(channel, method))).details())


async def test_a_stream_answers_in_order_and_an_error_ends_its_own_request_only(
    channel: grpc.aio.Channel, echo: Echo
) -> None:
    messages = [request(1, "one"), request(1, "two", name="z"), b"\xff", request(2, "three")]
    open_stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    answers = [answer async for answer in open_stream(messages, timeout=30)]
    found = [
        {tag >> 3: answer[begin:end] for tag, begin, end in fields_of(answer, FieldBudget())} for answer in answers
    ]
    assert [(1 in each, 2 in each) for each in found] == [(False, True), (True, True), (True, False), (False, True)]
    assert [identity in each.get(2, b"") for identity, each in zip((b"one", b"two", b"", b"three"), found, strict=True)]
    assert b"input 'z'" in found[1][1]


async def test_a_stream_runs_what_has_come_while_the_first_is_under_way(channel: grpc.aio.Channel, echo: Echo) -> None:
    echo.goes_on.clear()
    open_stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    stream = open_stream(timeout=30)
    for _ in range(3):
        await stream.write(request())
    for _ in range(3):
        await asyncio.wait_for(echo.arrived.get(), 30)
    stream.cancel()
    await asyncio.wait_for(echo.cancelled.wait(), 30)


async def test_with_inference_tokens_a_call_needs_one_and_probes_do_not(
    closed: GatewayConfig, plane: Plane, echo: Echo
) -> None:
    asks = [("authorization", f"Bearer {ASKER}")]
    async with answering(plane, closed) as channel:
        for metadata in ([], [("authorization", "Bearer wrong")]):
            for method in ("ModelInfer", "ServerMetadata", "ModelMetadata", "ModelConfig", "RepositoryIndex"):
                error = await refusal(call(channel, method, metadata=metadata))
                assert error.code() is Status.UNAUTHENTICATED
            stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
            assert await stream([request()], metadata=metadata).code() is Status.UNAUTHENTICATED
        assert echo.arrived.empty()
        for method, service in (("ServerLive", SERVICE), ("ServerReady", SERVICE), ("Check", HEALTH)):
            await call(channel, method, service=service)
        await call(channel, "ModelReady", encode_message("ModelReadyRequest", {"name": "m"}))
        assert raw_of(await call(channel, "ModelInfer", request(), metadata=asks))
        assert len([answer async for answer in stream([request(), request()], metadata=asks)]) == 2


async def test_who_guesses_over_grpc_waits_too(closed: GatewayConfig, plane: Plane) -> None:
    refused = Status.UNAUTHENTICATED
    async with answering(plane, closed) as channel:
        wrong = [("authorization", "Bearer wrong")]
        while (error := await refusal(call(channel, "ModelInfer", request(), metadata=wrong))).code() is refused:
            pass
        assert error.code() is Status.RESOURCE_EXHAUSTED
        assert "try again in 1 s" in str(error.details())


async def test_calls_in_flight_are_answered_before_the_end(
    listener: Listener, channel: grpc.aio.Channel, echo: Echo
) -> None:
    echo.goes_on.clear()
    asked = asyncio.ensure_future(call(channel, "ModelInfer", request()))
    await echo.arrived.get()
    closing = asyncio.create_task(listener.close(30))
    await asyncio.wait({closing}, timeout=0.1)
    echo.goes_on.set()
    assert raw_of(await asked)
    await closing


async def test_another_application_does_not_get_the_port(
    listener: Listener, plane: Plane, config: GatewayConfig
) -> None:
    with pytest.raises(PortTaken, match=r"gateway\.grpc_port"):
        await listener_of(plane, config, "another").open()
    second = listener_of(plane, config)
    await second.open()
    await second.close(0)


async def test_the_access_log_has_grpc_too(
    config: GatewayConfig, plane: Plane, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aoti_serve.access")
    config = config.model_copy(update={"access_log": 1.0, "grpc_port": free_port()})
    async with answering(plane, config) as channel:
        await call(channel, "ModelInfer", request(), metadata=(("x-request-id", "mine"),))
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, "ModelInfer", request(model="other"))
    answered, refused = caplog.records
    assert '"gRPC ModelInfer" OK ' in answered.message
    assert vars(answered)["request_id"] == "mine"
    assert '"gRPC ModelInfer" NOT_FOUND ' in refused.message
    assert refused.message.endswith("UnknownModel")
    assert refused.exc_info is None


async def test_requests_are_counted_by_how_they_end(channel: grpc.aio.Channel, plane: Plane) -> None:
    await call(channel, "ModelInfer", request())
    for wrong in (request(name="z"), request(model="n"), b"no protobuf"):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, "ModelInfer", wrong)
    counted = {figures.name: figures.requests for figures in (plane.figures.of("m"), plane.figures.unknown)}
    assert counted == {"m": {(GRPC, 1, "ok"): 1, (GRPC, None, "invalid"): 1}, "": {(GRPC, None, "invalid"): 2}}


async def test_statistics_are_of_one_model_or_of_all(channel: grpc.aio.Channel, echo: Echo) -> None:
    echo.figures.note_answered(GRPC, 3, 5, 0.25)
    known: list[dict[str, Any]] = [{}, {"name": "m"}, {"name": "m", "version": "3"}]
    for asked in known:
        (row,) = (await ask(channel, "ModelStatistics", asked))["model_stats"]
        assert (row["name"], row["version"], row["inference_count"]) == ("m", "3", 5)
        assert row["inference_stats"]["success"] == {"count": 1, "ns": 250_000_000}
    for asked in ({"name": "n"}, {"name": "m", "version": "4"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "ModelStatistics", asked)
        assert caught.value.code() is Status.NOT_FOUND
