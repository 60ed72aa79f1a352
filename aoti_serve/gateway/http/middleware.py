"""What stands before all routes: the inference token, and web pages of other origins (CORS)."""

from __future__ import annotations

import re
from functools import lru_cache

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.http.responses import error_response
from aoti_serve.gateway.http.unserved import METHODS

EXPOSED = ("Inference-Header-Content-Length", "Retry-After", "X-Request-ID")  # a page may read these of an answer
# Probes carry no token, the weights API asks for an admin's by itself, and what is left tells nothing of models.
is_open = re.compile(
    r"/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready|/v2/models/[^/]+/weights(/.*)?"
    r"|(?!/v2|/openapi\.json$).*",
    re.S,
).fullmatch


def protected(app: ASGIApp, access: Access, config: GatewayConfig) -> ASGIApp:
    """The application behind what the configuration asks for; itself if that is nothing."""
    if access.asks_for_inference:
        app = TokenMiddleware(app, access)
    if config.cors_origins:  # before the token: browsers send none with the question whether they may ask
        # Without credentials: a page must hold a token of its own, and none of the browser's counts.
        app = CORSMiddleware(app, config.cors_origins, METHODS, ["*"], expose_headers=EXPOSED)
    return app


class TokenMiddleware:
    """An ASGI application that passes on who sends an inference token, and what needs none. It reads no body."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _needs_none(scope["path"], scope.get("root_path", "")):
            try:
                self._access.check_inference(*_asker(scope))
            except AotiServeError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


@lru_cache(1024)
def _needs_none(path: str, root_path: str) -> bool:
    inner = path.removeprefix(root_path)
    return is_open(inner if inner.startswith("/") else path) is not None


def _asker(scope: Scope) -> tuple[str | None, str]:
    """The Authorization header, and the address that has connected."""
    address: str = (scope.get("client") or ("",))[0]
    for name, value in scope["headers"]:
        if name == b"authorization":
            return value.decode("latin-1"), address
    return None, address
