"""X-Request-ID, the client's or a generated one, in each response and in the log; and the access log."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aoti_serve.gateway.client_facts import identity_from

access = logging.getLogger("aoti_serve.access")
REQUEST_ID_HEADER = b"x-request-id"
REQUEST_ID = "aoti_serve.request_id"  # where a scope has it, as text
LONGEST_METHOD, LONGEST_PATH = 16, 256


class RequestIdMiddleware:
    """An ASGI application that adds the request's id to each response, and writes the access log."""

    def __init__(self, app: ASGIApp, *, access_log: bool) -> None:
        self._app = app
        self._access_log = access_log
        if access_log:
            _open(access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = _identity(scope["headers"])
        scope[REQUEST_ID] = identity.decode()
        began, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, identity)]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if self._access_log:
                _note(scope, status, time.monotonic() - began)


def _identity(headers: list[tuple[bytes, bytes]]) -> bytes:
    given = next((value for name, value in headers if name == REQUEST_ID_HEADER), None)
    return identity_from(None if given is None else given.decode("latin-1")).encode()


def _open(logger: logging.Logger) -> None:
    logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())


def _note(scope: Scope, status: int, seconds: float) -> None:
    """Write one line. Status 0 means that the client went away before it had an answer."""
    client = scope.get("client") or ("unknown", 0)
    path = scope["path"][:LONGEST_PATH].encode("unicode_escape").decode()
    facts = client[0], client[1], scope["method"][:LONGEST_METHOD], path, status, seconds * 1e3, scope[REQUEST_ID]
    access.info('%s:%s "%s %s" %d %.1f ms %s', *facts)
