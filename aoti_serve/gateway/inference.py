"""`POST /v2/models/{m}[/versions/{v}]/infer`: the hot path, with nothing between the ingress and the batcher.

A plain ASGI application. FastAPI, which routes all the rest, costs more than all that is done here.
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
from aoti_serve.errors import AotiServeError, DeadlineExceeded, InvalidBody, Unavailable
from aoti_serve.gateway.bodies import Headers, read_body
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.replies import failure, refusal
from aoti_serve.protocol.decode import arrays_of, head_length
from aoti_serve.protocol.encode import Encoded, encode_response

logger = logging.getLogger("ray.serve")
HEADER_LENGTH = b"inference-header-content-length"
TIMEOUT = b"x-request-timeout-seconds"
PATHS = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
# Serve acts on the header as well, and says less about it: be a little earlier.
EARLIER_S, EARLIER_SHARE = 0.1, 0.1


class Asked(NamedTuple):
    """Which model a path means, and which version of it, if it says so."""

    name: str
    version: str | None


class Inference:
    """One gateway's inference, as an ASGI application."""

    def __init__(self, plane: DataPlane, config: GatewayConfig) -> None:
        self._plane = plane
        self._limit = config.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of which `asked_of` knows the path."""
        try:
            with self._plane.door:
                await self._answer(scope, receive, send)
        except Unavailable as error:
            await refusal(error)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = asked_of(scope)
            assert asked is not None
            encoded = await self._infer(asked, dict(scope["headers"]), receive)
        except AotiServeError as error:
            await refusal(error)(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:
            logger.exception("a request failed")
            await failure(error)(scope, receive, send)
        else:
            await _send(encoded, send)

    async def _infer(self, asked: Asked, headers: Headers, receive: Receive) -> Encoded:
        began = time.monotonic()
        served = self._plane.model(asked.name)
        body = await read_body(receive, headers, self._limit, "gateway.max_body_bytes")
        length = headers.get(HEADER_LENGTH)
        split = head_length(body, None if length is None else length.decode("latin-1"))
        plan = served.plan(bytes(body[:split]))
        arrays = arrays_of(plan.head, memoryview(body)[split:])
        patience = _left(_patience(headers, plan.head.timeout), began, asked.name)
        response = await served.infer(plan, arrays, asked.version, patience)
        return encode_response(response, plan.head)


def asked_of(scope: Scope) -> Asked | None:
    """What an inference request asks for; None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    return _asked(scope["path"], scope.get("root_path", ""))


@lru_cache(1024)
def _asked(path: str, root_path: str) -> Asked | None:
    match = re.fullmatch(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer", path.removeprefix(root_path))
    return Asked(match[1], match[2]) if match else None


def _patience(headers: Headers, parameter: float | None) -> float | None:
    """For how many seconds the client waits: by the request's parameter, or the header, whichever is shorter."""
    value = headers.get(TIMEOUT)
    if value is None:
        return parameter
    try:
        seconds = float(value)
    except ValueError:
        raise InvalidBody(detail=f"X-Request-Timeout-Seconds {value.decode('latin-1')!r} is no number") from None
    if not seconds > 0:  # as Serve has it: no limit
        return parameter
    seconds -= min(EARLIER_S, EARLIER_SHARE * seconds)
    return seconds if parameter is None else min(seconds, parameter)


def _left(patience: float | None, began: float, model: str) -> float | None:
    """Of its seconds, after reading; raises DeadlineExceeded, before Serve can, if that has taken all of them."""
    if patience is None:
        return None
    left = patience - (time.monotonic() - began)
    if left <= 0:
        raise DeadlineExceeded(model=model, timeout=f"{patience:g}")
    return left


async def _send(encoded: Encoded, send: Send) -> None:
    headers = [(b"content-length", str(len(encoded.body)).encode())]
    if encoded.header_length is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers.append((b"content-type", b"application/octet-stream"))
        headers.append((HEADER_LENGTH, str(encoded.header_length).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": encoded.body})
