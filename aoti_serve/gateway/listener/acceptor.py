"""Accepting of connections, until the listening sockets are closed without losing one."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from aoti_serve.gateway.listener.port import BoundPort, refuse_handshakes

logger = logging.getLogger(__name__)

ACCEPTS_AT_ONCE = 64  # connections, before the loop turns to those that have been accepted
TCP_HANDSHAKE_S = 0.05  # a handshake that has begun somewhere in a network is complete after this, or hardly ever
TLS_END_S = 2.0  # how long TLS waits for the client's close_notify
EXHAUSTED_S = 1.0  # between two tries to accept while no descriptors are left


class Acceptor:
    """Accepts connections in one event loop. `connection` makes the protocol of a socket, if there is `room`."""

    def __init__(
        self,
        bound: list[BoundPort],
        connection: Callable[[], asyncio.BaseProtocol],
        room: Callable[[], bool],
        tls: ssl.SSLContext | None,
        handshake_s: float,
    ) -> None:
        self._bound = bound
        self._connection = connection
        self._room = room
        self._tls: dict[str, Any] = {}
        if tls is not None:
            self._tls = {"ssl": tls, "ssl_handshake_timeout": handshake_s, "ssl_shutdown_timeout": TLS_END_S}
        self._loop = asyncio.get_running_loop()
        self.handshaking: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for bound in self._bound:
            self._loop.add_reader(bound.socket, self._accept, bound.socket)

    def _accept(self, listening: socket.socket, most: int = ACCEPTS_AT_ONCE) -> int:
        """Accept the waiting connections, up to a number. Returns how many there were."""
        for count in range(most):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return count
            except OSError as error:
                self._pause(listening, error)
                return count
            if not self._room():
                sock.close()
                continue
            sock.setblocking(False)
            task = self._loop.create_task(self._connect(sock))
            self.handshaking.add(task)
            task.add_done_callback(self.handshaking.discard)
        return most

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        logger.warning("no connections are accepted for %.0f s: %s", EXHAUSTED_S, error)
        self._loop.remove_reader(listening)
        self._loop.call_later(EXHAUSTED_S, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._loop.add_reader(listening, self._accept, listening)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._connection, sock, **self._tls)
        except (OSError, ssl.SSLError) as error:  # it has gone, or does not speak TLS, or not in time
            logger.debug("no handshake: %s", error)

    async def close(self) -> None:
        """Close the sockets. Clients that have connected, or are about to, get a connection all the same."""
        going, self._bound = self._bound, []
        for bound in going:
            refuse_handshakes(bound.socket)
        if not all(ip_address(bound.socket.getsockname()[0]).is_loopback for bound in going):
            await asyncio.sleep(TCP_HANDSHAKE_S)
        for bound in going:
            self._loop.remove_reader(bound.socket)
            while self._accept(bound.socket):
                pass
            bound.close()
