"""The steps of a request that need sockets: the listeners, and the link. CPU in µs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvloop
from httpbench import h2load
from httpbench.bodies import request, rows_of
from httpbench.contenders import GRPC_PATH, V2_PATH
from httpbench.environments import require_client
from httpbench.loads import BUSY
from httpbench.servers import free_port
from httpbench.wrk import Sample, measured
from link_ends import NODES, echoed, replica
from starlette.types import Receive, Scope, Send

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.grpc.answers import unary
from aoti_serve.gateway.grpc.call import GrpcCall
from aoti_serve.gateway.grpc.server import grpc_listener
from aoti_serve.gateway.in_flight import ReadingBudget
from aoti_serve.gateway.listener.http import http_listener
from aoti_serve.gateway.request_log import RequestLog
from aoti_serve.link.client import Link

SECONDS, BATCHES = 2.0, 1000
CLOSE_S = 5.0
ANSWER = np.ones(1024, np.float32).tobytes()


class Linked(NamedTuple):
    """What one batch there and back costs each end."""

    gateway: float
    replica: float


def listened(rounds: int, folder: Path) -> float:
    """The listener's part in a request at 64 connections: 4 KB read, 4 KB answered, nothing done."""
    require_client("wrk", "wrk")
    return min(uvloop.run(_listened(folder)) for _ in range(rounds))


def called(rounds: int, folder: Path) -> float:
    """The same of gRPC: 4 KB in the message, which is the answer."""
    require_client("h2load", "nghttp2-client")
    return min(uvloop.run(_called(folder)) for _ in range(rounds))


def linked(rows: int, rounds: int) -> Linked:
    """A batch of so many rows of 4 KB over a Unix socket and the same back."""
    with replica("uvloop") as address:

        async def trips() -> list[Linked]:
            link = await Link("mlp", address, "gateway").connect(NODES["Unix"])
            found = [await echoed(link, 4096 * rows, BATCHES) for _ in range(rounds)]
            link.transport.close()
            await link.closed
            return [Linked(trip.gateway, trip.replica) for trip in found]

        found = uvloop.run(trips())
    return Linked(*map(min, zip(*found, strict=True)))


async def _listened(folder: Path) -> float:
    port = free_port()
    noop: Any = _noop  # to uvicorn, types that Starlette does not have
    listener = http_listener(noop, GatewayConfig(http_port=port), f"steps {port}")
    await listener.open()
    url, row = f"http://127.0.0.1:{port}{V2_PATH}", request("v2", rows_of(1))
    spent = await _spent(lambda: measured(url, row, folder, connections=BUSY.connections, seconds=SECONDS))
    await listener.close(CLOSE_S)
    return spent


async def _called(folder: Path) -> float:
    port, methods = free_port(), {GRPC_PATH: unary("ModelInfer", _echoed, RequestLog(0.0))}
    listener = grpc_listener(methods, ReadingBudget(2**20), GatewayConfig(grpc_port=port), f"steps {port}")
    await listener.open()
    url, row = f"http://127.0.0.1:{port}{GRPC_PATH}", request("grpc", rows_of(1))
    spent = await _spent(lambda: h2load.measured(url, row, folder, connections=BUSY.connections, seconds=SECONDS))
    await listener.close(CLOSE_S)
    return spent


async def _spent(measure: Callable[[], Sample]) -> float:
    """This process's share of a request, in µs."""
    began = time.process_time()
    sample = await asyncio.to_thread(measure)
    return 1e6 * (time.process_time() - began) / (sample.rate * SECONDS)


async def _echoed(call: GrpcCall) -> bytes:
    return await call.message()


async def _noop(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the body as our application does, piece by piece."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    headers = [(b"content-length", str(len(ANSWER)).encode()), (b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})
