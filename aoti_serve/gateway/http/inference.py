"""`POST /v2/models/{m}[/versions/{v}]/infer`: the hot path, with nothing between the listener and the batcher.

A plain ASGI application: FastAPI, which routes everything else, costs more than all the work here.
"""

from __future__ import annotations

import logging
import re
import time
from functools import lru_cache
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError, JsonTooLarge, Stopping
from aoti_serve.gateway.client_facts import patience_from, remaining, routing_key
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.counted import CountedRequest
from aoti_serve.gateway.figures.model_figures import HTTP
from aoti_serve.gateway.figures.outcomes import outcome_of
from aoti_serve.gateway.http.bodies import Headers, read_body
from aoti_serve.gateway.http.compression import coding_of, compressed, wished_coding
from aoti_serve.gateway.http.request_id import REQUEST_ID
from aoti_serve.gateway.http.responses import error_response, internal_error
from aoti_serve.gateway.in_flight import BodyLimits, Share
from aoti_serve.gateway.inflation import decompressed
from aoti_serve.gateway.listener.scope import VIEWS
from aoti_serve.gateway.offload import LARGE_HEAD_BYTES, Offload
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.gateway.tracing import adopt_trace
from aoti_serve.protocol.decode import arrays_of, head_length
from aoti_serve.protocol.encode import Encoded, encode_response, takes_long

logger = logging.getLogger("ray.serve")
HEADER_LENGTH = b"inference-header-content-length"
TIMEOUT = b"x-request-timeout-seconds"
STICKY = b"x-routing-key"
TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"  # of the W3C
PATHS = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")


class Route(NamedTuple):
    """The model of an inference path, and the version if the path names one."""

    name: str
    version: str | None


class Inference:
    """The ASGI application that answers the inference requests of one gateway."""

    def __init__(self, plane: DataPlane, config: GatewayConfig) -> None:
        self._plane = plane
        self._offload = Offload()
        self._body = BodyLimits(config.max_body_bytes, "gateway.max_body_bytes")
        json = BodyLimits(config.max_json_bytes, "gateway.max_json_bytes", JsonTooLarge)
        self._json = min(self._body, json, key=lambda bound: bound.limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path `route_of` knows."""
        try:
            with self._plane.door, Share(self._plane.budget) as share:
                await self._answer(scope, receive, send, share)
        except Stopping as error:
            self._plane.figures.of(_route(scope).name).note_unanswered(HTTP, outcome_of(error), 0.0)
            await error_response(error)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, share: Share) -> None:
        try:
            asked, headers = _route(scope), dict(scope["headers"])
            with self._plane.figures.request(HTTP, asked.name) as counted:
                sent = headers.get(STICKY)
                key = routing_key(None if sent is None else sent.decode("latin-1"), scope.get("client"))
                encoded = await self._infer(asked, headers, receive, share, counted, key)
            wish = wished_coding(headers)
            if wish is not None:
                encoded = encoded._replace(pieces=[await compressed(encoded.pieces, wish, self._offload)])
        except AotiServeError as error:
            await error_response(error)(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:
            logger.exception("a request failed (X-Request-ID %s)", scope.get(REQUEST_ID))
            await internal_error(error)(scope, receive, send)
        else:
            await _send(encoded, wish, send, views=VIEWS in scope.get("extensions", ()))

    async def _infer(
        self, asked: Route, headers: Headers, receive: Receive, share: Share, counted: CountedRequest, key: str
    ) -> Encoded:
        arrived = time.monotonic()
        adopt_trace(headers.get(TRACEPARENT), headers.get(TRACESTATE))
        served = self._plane.model(asked.name)
        length, coding = headers.get(HEADER_LENGTH), coding_of(headers)
        bound = self._json if length is None else self._body
        body = await read_body(receive, headers, bound, share)
        if coding is not None:
            body = await decompressed(body, coding, bound, share, self._offload)
        split = head_length(body, None if length is None else length.decode("latin-1"))
        request = await self._read(served.checker, bytes(body[:split]))
        arrays = arrays_of(request.head, memoryview(body)[split:])
        left = remaining(_timeout_of(headers, request.head.timeout), arrived, asked.name)
        response = counted.response = await served.infer(request, arrays, asked.version, left, key)
        if takes_long(response, request.head):
            return await self._offload.run(encode_response, response, request.head)
        return encode_response(response, request.head)

    async def _read(self, checker: RequestChecker, head: bytes) -> CheckedRequest:
        return checker.read(head) if len(head) <= LARGE_HEAD_BYTES else await self._offload.run(checker.read, head)


def route_of(scope: Scope) -> Route | None:
    """The route of an inference request; None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    return _asked(scope["path"], scope.get("root_path", ""))


def _route(scope: Scope) -> Route:
    route = route_of(scope)
    assert route is not None
    return route


@lru_cache(1024)
def _asked(path: str, root_path: str) -> Route | None:
    match = re.fullmatch(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer", path.removeprefix(root_path))
    return Route(match[1], match[2]) if match else None


def _timeout_of(headers: Headers, parameter: float | None) -> float | None:
    """The client's timeout in seconds: the shorter of the request's parameter and the header; None for no limit."""
    value = headers.get(TIMEOUT)
    if value is None:
        return parameter
    limits = [limit for limit in (parameter, patience_from(value.decode("latin-1"))) if limit is not None]
    return min(limits, default=None)


async def _send(encoded: Encoded, coding: bytes | None, send: Send, *, views: bool) -> None:
    headers = [(b"content-length", str(sum(map(len, encoded.pieces))).encode())]
    if coding is not None:
        headers.append((b"content-encoding", coding))
    if encoded.header_length is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers.append((b"content-type", b"application/octet-stream"))
        headers.append((HEADER_LENGTH, str(encoded.header_length).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    # Serve's proxies pickle the body, so they need bytes.
    *before, last = encoded.pieces if views else map(bytes, encoded.pieces)
    for piece in before:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": last})
