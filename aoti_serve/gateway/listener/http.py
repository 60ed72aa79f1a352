"""The HTTP server of one gateway process: an ASGI application behind uvicorn's protocol, on the configured port."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.config import Config

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.listener.connection import ClientConnection
from aoti_serve.gateway.listener.port import WantedPort
from aoti_serve.gateway.listener.server import Listener
from aoti_serve.gateway.listener.shared import Shared


def http_listener(
    app: ASGIApp, config: GatewayConfig, owner: str, clock: Callable[[], float] = time.monotonic
) -> Listener:
    """A server that answers with an ASGI application at `http_port`."""
    assert config.http_port is not None
    uvicorn = Config(
        cast("Any", app),  # starlette and uvicorn type one interface differently
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        proxy_headers=False,
        http=ClientConnection,
    )
    uvicorn.load()

    def connect(shared: Shared, surplus: bool) -> ClientConnection:
        return ClientConnection(uvicorn, shared, config, clock, surplus)

    return Listener(connect, WantedPort(config.host, config.http_port, owner), "http/1.1", config, clock)
