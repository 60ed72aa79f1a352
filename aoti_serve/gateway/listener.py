"""The gateway's own HTTP server (to be replaced by the room of that name)."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from aoti_serve.config import GatewayConfig


class Listener:
    """The HTTP server of one gateway process."""

    def __init__(self, app: ASGIApp, config: GatewayConfig, owner: str) -> None:
        self._config = config
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, http="httptools", ws="none", lifespan="off", proxy_headers=False
        )
        self._server = uvicorn.Server(settings)

    async def open(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((self._config.host, self._config.http_port or 0))
        sock.listen(2048)
        self._task = asyncio.get_running_loop().create_task(self._server.serve([sock]))

    async def close(self, seconds: float) -> None:
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=seconds)
