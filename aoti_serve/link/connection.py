"""One connection, as both ends see it: some bytes of a handshake, then frames."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

from aoti_serve.errors import AotiServeError, LinkRefused
from aoti_serve.link.frames import PART, Frame
from aoti_serve.link.incoming import Incoming
from aoti_serve.link.outgoing import Outgoing

LINK_HANDSHAKE_S = 5.0
SOCKET_BYTES = 2**20  # measured: with less a large message waits for the other end's wake-ups, more is no quicker

Step = Callable[[bytes], None]


class LinkConnection(asyncio.BufferedProtocol, ABC):
    """Runs in an event loop. `established` is done when the handshake is, `closed` when the connection is over."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._incoming = Incoming(self.deliver)
        self._hello, self._filled = bytearray(), 0
        self._step: Step
        self._error: AotiServeError | None = None

    @abstractmethod
    def begin(self) -> None:
        """Start the handshake. Called when the connection is made."""

    @abstractmethod
    def deliver(self, frame: Frame) -> None:
        """Take a frame that has arrived."""

    @abstractmethod
    def end(self) -> None:
        """Give up what waits for this connection. Called when it is over."""

    def expect(self, nbytes: int, step: Step) -> None:
        """Call `step` with the next `nbytes` bytes of the handshake."""
        self._hello, self._filled, self._step = bytearray(nbytes), 0, step

    def establish(self) -> None:
        """End the handshake; frames follow."""
        self._timer.cancel()
        self._hello = bytearray()
        if not self.established.done():
            self.established.set_result(None)

    def abort(self, error: AotiServeError | None = None) -> None:
        """End the connection at once, because of `error`."""
        self._error = self._error or error
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.outgoing = Outgoing(self.transport)
        self.transport.set_write_buffer_limits(PART)
        _widen(transport.get_extra_info("socket"))
        self._timer = asyncio.get_running_loop().call_later(LINK_HANDSHAKE_S, self._late)
        self.begin()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        if not self.established.done():
            self.established.set_exception(self._error or LinkRefused(detail="the other end has hung up"))
            self.established.exception()  # asyncio logs an exception that nobody has looked at
        self.end()
        if not self.closed.done():
            self.closed.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._hello)[self._filled :] if self._hello else self._incoming.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._hello:
                self._greeted(nbytes)
            else:
                self._incoming.received(nbytes)
        except AotiServeError as error:
            self.abort(error)

    def pause_writing(self) -> None:
        self.outgoing.pause()

    def resume_writing(self) -> None:
        self.outgoing.resume()

    def _greeted(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._hello):
            self._step(bytes(self._hello))

    def _late(self) -> None:
        self.abort(LinkRefused(detail=f"the other end has not introduced itself within {LINK_HANDSHAKE_S:g} s"))


def _widen(sock: socket.socket) -> None:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
