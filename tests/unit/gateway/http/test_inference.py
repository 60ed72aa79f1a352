"""Requests through the gateway's real application; only the batcher behind it is played."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import zlib
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.app import build_app
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.protocol.messages import InferResponse
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.token import TokenSet
from tests.unit.gateway.plane import Plane

BATCH = Dim(symbol="batch", min=1, max=8)
X = TensorSpec(name="x", dtype="float32", shape=(BATCH, 2))
Y = TensorSpec(name="y", dtype="float32", shape=(BATCH, 2))
SIGNATURE = Signature(inputs=(X,), outputs=(Y,), constants=())
INFER = "/v2/models/m/infer"


class NotingChecker(RequestChecker):
    """Notes the threads that it reads in."""

    def __init__(self, signature: Signature, limits: GatewayConfig) -> None:
        super().__init__(signature, limits)
        self.threads: list[str] = []

    def read(self, message: bytes) -> CheckedRequest:
        self.threads.append(threading.current_thread().name)
        return super().read(message)


class Echo:
    """A model that answers what it is sent, once it may."""

    def __init__(self, config: GatewayConfig) -> None:
        self.patience: list[float | None] = []
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.fails: Exception | None = None
        self.checker = NotingChecker(SIGNATURE, config)
        self.threads = self.checker.threads

    async def infer(
        self, request: CheckedRequest, arrays: list[NDArray[Any]], _: str | None, left: float | None, key: str
    ) -> InferResponse:
        self.patience.append(left)
        self.arrived.put_nowait(None)
        await self.goes_on.wait()
        if self.fails:
            raise self.fails
        return InferResponse("m", 1, request.head.id, [(Y, arrays[0])])


def client_of(echo: Echo, config: GatewayConfig) -> httpx.AsyncClient:
    app = build_app(cast(DataPlane, Plane(echo, config.max_reading_bytes)), Access(config, TokenSet(b"key")), config)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.fixture
def config() -> GatewayConfig:
    return GatewayConfig(max_body_bytes=2**20, max_json_bytes=600_000, max_reading_bytes=2**20)


@pytest.fixture
async def echo(config: GatewayConfig) -> Echo:
    return Echo(config)


@pytest.fixture
async def client(echo: Echo, config: GatewayConfig) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(echo, config) as client:
        yield client


def body(rows: int = 1, **rest: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [0.5] * rows * 2}
    return json.dumps({"inputs": [tensor], **rest}).encode()


def binary(rows: int) -> dict[str, Any]:
    """What a client posts: rows of ones as binary data."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": {"binary_data_size": 8 * rows}}
    head = json.dumps({"inputs": [tensor]}).encode()
    tail = np.ones(2 * rows, np.float32).tobytes()
    return {"content": head + tail, "headers": {"Inference-Header-Content-Length": str(len(head))}}


async def test_an_answer_says_which_request_it_belongs_to(client: httpx.AsyncClient) -> None:
    for path in (INFER, "/v2/models/other/infer", "/v2/models/m/weights", "/nowhere"):
        answer = await client.post(path, content=body(), headers={"X-Request-ID": "mine"})
        assert answer.headers.get_list("x-request-id") == ["mine"]
        assert len((await client.get(path)).headers["x-request-id"]) == 16


async def test_a_load_balancer_may_ask_for_the_head_only(client: httpx.AsyncClient) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models"):
        assert (await client.head(path)).status_code == 200
    assert (await client.head("/v2/models/m/weights")).status_code == 405


async def test_no_error_is_as_long_as_the_request(client: httpx.AsyncClient) -> None:
    name = "x" * 20_000
    asked = [
        client.get(f"/{name}"),
        client.get(f"/v2/models/{name}"),
        client.post(f"/v2/models/{name}/infer", content=body()),
        client.post(INFER, content=body().replace(b'"x"', f'"{name}"'.encode())),
        client.post(INFER, content=body(outputs=[{"name": name}])),
        client.post(INFER, content=body(), headers={"X-Request-Timeout-Seconds": name}),
        client.post(INFER, content=body(), headers={"Content-Encoding": name}),
        client.post(INFER, content=body(), headers={"Inference-Header-Content-Length": name}),
        client.post(INFER, content=body(), headers={"Inference-Header-Content-Length": "9" * 20_000}),
    ]
    for answer in await asyncio.gather(*asked):
        assert answer.status_code in (400, 404)
        assert len(answer.json()["error"].encode()) <= 1024


async def test_a_defect_is_logged_under_the_name_of_its_request(
    client: httpx.AsyncClient, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    echo.fails = ValueError("mine")
    with caplog.at_level(logging.ERROR):
        answer = await client.post(INFER, content=body(), headers={"X-Request-ID": "a-1"})
        assert (answer.status_code, "ValueError" in answer.json()["error"]) == (500, True)
        answer = await client.get("/v2/models/m", headers={"X-Request-ID": "b-2"})  # an Echo has no metadata
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "b-2")
    assert caplog.messages == [f"a request failed (X-Request-ID {name})" for name in ("a-1", "b-2")]


async def test_large_json_is_read_in_a_thread_and_small_json_is_not(client: httpx.AsyncClient, echo: Echo) -> None:
    for rows in (1, 30_000):
        answer = await client.post(INFER, content=body(rows))
        assert answer.json()["outputs"][0]["data"] == [0.5] * rows * 2
    assert echo.threads == [threading.current_thread().name, "offload_0"]


async def test_a_large_answer_comes_in_pieces_with_its_length(echo: Echo) -> None:
    config = GatewayConfig()
    async with client_of(echo, config) as client:
        answer = await client.post(INFER, **binary(60_000))
    assert answer.json()["outputs"][0]["data"] == [1.0] * 120_000
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_json_has_a_limit_of_its_own_and_binary_data_does_not_count(client: httpx.AsyncClient) -> None:
    answer = await client.post(INFER, content=b" " * 600_001)
    assert (answer.status_code, "gateway.max_json_bytes" in answer.json()["error"]) == (413, True)
    long = body() + b" " * 600_000
    answer = await client.post(INFER, content=long, headers={"Inference-Header-Content-Length": str(len(long))})
    assert (answer.status_code, "gateway.max_json_bytes" in answer.json()["error"]) == (413, True)
    answer = await client.post(INFER, **binary(80_000))
    assert (answer.status_code, "gateway.max_request_rows" in answer.json()["error"]) == (400, True)


async def test_who_finds_the_gateway_full_of_bodies_is_told_to_come_again(
    client: httpx.AsyncClient, echo: Echo
) -> None:
    echo.goes_on.clear()
    padded = [body() + b" " * 500_000 for _ in range(2)]
    waiting = [asyncio.create_task(client.post(INFER, content=content)) for content in padded]
    for _ in waiting:
        await echo.arrived.get()
    refused = await client.post(INFER, content=padded[0])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "gateway.max_reading_bytes" in refused.json()["error"]
    small = asyncio.create_task(client.post(INFER, content=body()))
    await echo.arrived.get()
    echo.goes_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting, small)] == [200] * 3
    assert (await client.post(INFER, content=padded[0])).status_code == 200


async def test_the_time_a_client_gives_counts_from_its_arrival_and_is_not_cut(
    client: httpx.AsyncClient, echo: Echo
) -> None:
    given = {"X-Request-Timeout-Seconds": "5"}
    assert (await client.post(INFER, content=body(), headers=given)).status_code == 200
    assert (await client.post(INFER, content=body(parameters={"timeout": 2_000_000}), headers=given)).status_code == 200
    assert (await client.post(INFER, content=body())).status_code == 200
    header, parameter, none = echo.patience
    assert header is not None
    assert parameter is not None
    assert 4 < header < 5
    assert 1 < parameter < 2
    assert none is None


async def test_time_that_has_passed_before_the_run_is_a_504(client: httpx.AsyncClient) -> None:
    answer = await client.post(INFER, content=body(), headers={"X-Request-Timeout-Seconds": "1e-9"})
    assert answer.status_code == 504


@pytest.mark.parametrize(("coding", "window"), [("gzip", 31), ("deflate", 15)])
async def test_request_and_answer_may_be_compressed(client: httpx.AsyncClient, coding: str, window: int) -> None:
    """The length of the JSON part is that of what is not compressed, as Triton's clients take it."""
    sent = binary(1000)
    plain = await client.post(INFER, **sent)
    packed = zlib.compress(sent["content"], wbits=window)
    headers = {"Content-Encoding": coding, "Accept-Encoding": coding}
    answer = await client.post(INFER, content=packed, headers=sent["headers"] | headers)
    assert answer.status_code == plain.status_code == 200
    assert answer.headers["content-encoding"] == coding
    assert int(answer.headers["content-length"]) < len(plain.content)
    assert answer.content == plain.content
    both = await client.post(INFER, content=body(), headers={"Accept-Encoding": "gzip, deflate"})
    assert "content-encoding" not in both.headers
