"""X-Request-ID, the client's or a generated one, in each response and in the log."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aoti_serve.gateway.client_facts import identity_from
from aoti_serve.gateway.request_log import RequestLog, RequestNote

REQUEST_ID_HEADER = b"x-request-id"
REQUEST_ID = "aoti_serve.request_id"  # where a scope has it, as text


class RequestIdMiddleware:
    """An ASGI application that adds the request's id to each response, and tells the log of each request."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = _identity(scope["headers"])
        scope[REQUEST_ID] = identity.decode()
        with RequestNote(self._log, scope.get("client"), scope["method"], scope["path"], scope[REQUEST_ID]) as note:

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    note.status = message["status"]
                    message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, identity)]
                await send(message)

            await self._app(scope, receive, answer)


def _identity(headers: list[tuple[bytes, bytes]]) -> bytes:
    given = next((value for name, value in headers if name == REQUEST_ID_HEADER), None)
    return identity_from(None if given is None else given.decode("latin-1")).encode()
