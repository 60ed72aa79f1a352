"""A gateway in this process: real application, data plane, batcher, link. The coordinator and the runner are played."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from aoti_serve import errors
from aoti_serve.address import Address
from aoti_serve.cluster.coordinator.gathered import Gathered
from aoti_serve.cluster.membership.pauses import PauseDetector
from aoti_serve.config import BatchingConfig, GatewayConfig, ModelConfig
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.app import build_app
from aoti_serve.gateway.served_model import ServedModel
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.link.server import LinkServer
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.token import TokenSet
from aoti_serve.weights.swap.target import Target
from aoti_serve.weights.version import Committed, Version

NAME, NODE, TOKEN = "doubling", "node", "the-token-of-the-tests"
INFER, WEIGHTS = f"/v2/models/{NAME}/infer", f"/v2/models/{NAME}/weights"
VERSION = 7
BATCH = Dim(symbol="batch", min=1, max=64)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(BATCH, 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(BATCH, 2)),),
    constants=(),
)


class Runner:
    """Doubles rows, one after the other, as soon as it may; fails over negative ones. Knows which rows it has begun.

    Rows of zeros are the gateway's probes, which do not count.
    """

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.may_run = asyncio.Event()
        self.may_run.set()
        self._free = asyncio.Lock()
        self._news = asyncio.Condition()

    async def __call__(self, gateway: str, batch: BatchMessage) -> AnswerMessage:
        async with self._free:
            return await self._run(batch)

    async def _run(self, batch: BatchMessage) -> AnswerMessage:
        (x,) = batch.arrays
        async with self._news:
            self.begun += x[x[:, 0] != 0, 0].tolist()
            self._news.notify_all()
        await self.may_run.wait()
        if (x < 0).any():
            raise ValueError("below zero")
        return AnswerMessage(VERSION, 1, [2 * x])

    async def has_begun(self, row: float) -> None:
        async with self._news:
            await self._news.wait_for(lambda: row in self.begun)


async def echoed(gateway: str, batch: BatchMessage) -> AnswerMessage:
    """A runner that gives back what it takes."""
    return AnswerMessage(VERSION, 1, list(batch.arrays))


class Coordinator:
    """Serve's handle of a coordinator: every call is answered with an error, or with what a test has put here."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"exchange_statistics": Gathered([], [])}  # there is no other gateway
        self.calls: list[tuple[Any, ...]] = []

    def options(self, **_: Any) -> Coordinator:
        return self

    def __getattr__(self, method: str) -> Remote:
        async def call(*arguments: Any) -> Any:
            self.calls.append((method, *arguments))
            answer = self.answers.get(method)
            if isinstance(answer, Exception):
                raise answer
            return await answer(*arguments) if callable(answer) else answer

        return Remote(call)


class Remote:
    """A method of a handle."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class Gateway:
    """A client of the gateway, and what is behind it."""

    def __init__(
        self,
        app: FastAPI,
        client: httpx.AsyncClient,
        runner: Runner,
        coordinator: Coordinator,
        served: ServedModel,
        plane: DataPlane,
    ) -> None:
        self.plane = plane
        self.app = app
        self.served = served
        self.client = client
        self.runner = runner
        self.coordinator = coordinator

    async def infer(self, *rows: float, headers: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        body = json.dumps({"inputs": [tensor(rows)], **request}).encode()
        return await self.client.post(INFER, content=body, headers=headers)


@asynccontextmanager
async def running(
    config: GatewayConfig,
    batching: BatchingConfig,
    signature: Signature = SIGNATURE,
    run: Callable[[str, BatchMessage], Awaitable[AnswerMessage]] | None = None,
    name: str = NAME,
) -> AsyncIterator[Gateway]:
    """With one replica, which has one runner; `run` is played in its place."""
    runner, coordinator = Runner(), Coordinator()
    model = ModelConfig.model_validate({"name": name, "package": f"{name}.pt2", "batching": batching})
    handle = cast(DeploymentHandle[Any], coordinator)
    served = ServedModel("gateway", NODE, model, signature, handle, config)
    served.membership.pauses = PauseDetector(lambda: None, clock=lambda: 0.0)  # nobody stops this process
    served.membership.pauses.learn(0.0)
    served.membership.joined = True
    await served.reconcile(Target(1, 1, Committed(epoch=1, version=Version(number=VERSION))))
    link = LinkServer(run or runner)
    await link.open()
    beats = asyncio.create_task(link.tick())
    served.route((Address("replica", NODE, link.path, 1, link.key),))
    async with asyncio.timeout(10):
        while not served.ready:
            await asyncio.sleep(0.001)
    access = Access(config, TokenSet(b"key", {TOKEN: ""}))
    plane = DataPlane([served], config.max_reading_bytes)
    app = build_app(plane, access, config)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as client:
            yield Gateway(app, client, runner, coordinator, served, plane)
    finally:
        served.close()
        beats.cancel()
        link.close()


def tensor(rows: tuple[float, ...], **changes: Any) -> dict[str, Any]:
    data = [value for row in rows for value in (row, row)]
    return {"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": data} | changes


def rows_of(response: httpx.Response) -> NDArray[np.float32]:
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    return np.asarray(output["data"], np.float32).reshape(output["shape"])


def assert_error(response: httpx.Response, status: int) -> str:
    """The error's text; the answer holds no more than this and the error's class."""
    assert response.status_code == status, response.text
    assert set(response.json()) - {"type"} == {"error"}
    assert hasattr(errors, response.json().get("type", "AotiServeError"))
    assert response.headers["Content-Type"] == "application/json"
    assert set(response.headers) - {"www-authenticate", "allow", "retry-after", "connection"} == {
        "content-type",
        "content-length",
        "x-request-id",
    }
    assert ("www-authenticate" in response.headers) == (status == 401)
    text: str = response.json()["error"]
    assert text
    return text
