"""One client's HTTP/2 connection: its socket, its limits, and an end that loses no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.http2.frames import (
    LARGEST_WINDOW,
    PREFACE,
    BrokenConnection,
    ErrorCode,
    FrameReader,
    FrameType,
    frame,
    goaway,
)
from aoti_serve.gateway.http2.session import Serve, Session
from aoti_serve.gateway.listener.ending import goes_on, has_unread
from aoti_serve.gateway.listener.meters import AnswerMeter, LingerMeter
from aoti_serve.gateway.listener.refusals import NOT_HTTP_2
from aoti_serve.gateway.listener.shared import Shared

GONE = ("gone", 0)  # in the place of the address of a client that has left before it was accepted
UNSENT_BYTES = 256 * 2**10  # which wait in the transport, before streams wait


class Http2Connection(asyncio.Protocol):
    """The connection of one client, in the gateway's event loop. The listener's sweep calls `look` about once a second.

    `serve` is told of each request. While the client takes nothing, nothing is read of it either. A client that has
    been told of the end is read for a while, since a close with unread bytes would be a reset.
    """

    transport: asyncio.Transport
    session: Session

    def __init__(
        self, serve: Serve, shared: Shared, config: GatewayConfig, clock: Callable[[], float], surplus: bool = False
    ) -> None:
        self._serve = serve
        self._shared = shared
        self._limits = config
        self._clock = clock
        self._surplus = surplus
        self._preface: bytes | None = b""
        self._frames = FrameReader()
        self._taken = AnswerMeter()
        self._linger: LingerMeter | None = None
        self._since = self._heard = clock()
        self._idle_s = 0.0

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.transport.set_write_buffer_limits(UNSENT_BYTES)
        client = (self.transport.get_extra_info("peername") or GONE)[:2]
        self.session = Session(self._serve, self.transport.write, self._limits, client)
        self._shared.connections.add(self)
        if self._surplus:
            self.session.greet()
            text = "this gateway has gateway.max_connections connections"
            self._fail(BrokenConnection(ErrorCode.ENHANCE_YOUR_CALM, text))

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.connections.discard(self)
        self.session.end()

    def pause_writing(self) -> None:
        self.session.paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.session.paused = False
        self.session.pump()
        if not self.session.paused and self._linger is None:
            self._take(b"")
        if not self.session.paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        return False  # the transport closes itself: without a client that reads windows nothing more can be sent

    def data_received(self, data: bytes) -> None:
        self._heard = self._clock()
        if self._linger is not None:
            if self._linger.take(len(data)):
                self.transport.abort()
            return
        if self._preface is None or (data := self._behind_preface(data)):
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            for arrived in self._frames.feed(data):
                if arrived[0] == FrameType.HEADERS:
                    self._since = self._heard
                self.session.take(arrived)
                if self.session.paused:  # the others wait as well, since they may have answers too
                    break
        except BrokenConnection as error:
            self._fail(error)

    def _behind_preface(self, data: bytes) -> bytes:
        """What follows the bytes with which HTTP/2 begins."""
        assert self._preface is not None
        self._preface += data
        if not PREFACE.startswith(self._preface[: len(PREFACE)]):
            self.transport.write(NOT_HTTP_2.answer)
            self._end()
        elif len(self._preface) >= len(PREFACE):
            data, self._preface = self._preface[len(PREFACE) :], None
            self.session.greet()
            return data
        return b""

    # The end

    def _fail(self, error: BrokenConnection) -> None:
        """End the connection for what its client has done."""
        if self._linger is None:
            self._shared.log.refused(self.session.client, error.code, error.text)
            self._end(error.code, error.text)

    def _end(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "") -> None:
        if self.transport.is_closing() or self._linger is not None:
            return
        self.session.end()
        self._linger = LingerMeter()
        self.transport.write(goaway(self.session.last, code, text))
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS, where nothing else can end what is sent
            self.transport.close()

    def shutdown(self) -> None:
        """Ask the client to begin nothing more here. What begins until it has heard is answered as well."""
        if self._linger is None:
            self.transport.write(goaway(LARGEST_WINDOW, ErrorCode.NO_ERROR, "this server is being stopped"))
            for stream in list(self.session.streams.values()):
                stream.receiver.leave()

    def end_if_quiet(self, now: float, seconds: float) -> None:
        """End the connection if no request has begun for `seconds`, none waits in the socket, and no answer here."""
        transport = self.transport
        ending = transport.is_closing() or self._linger is not None
        busy = ending or self.session.streams or transport.get_write_buffer_size()
        if not busy and now - self._since >= seconds and not has_unread(self.transport):
            self._end()

    # The sweep

    def look(self, now: float, elapsed: float) -> None:
        """End the connection, or a stream, if it takes too long. `elapsed` is the time since the last call."""
        if goes_on(self.transport, self._taken, self._linger, elapsed, self._limits.write_timeout_s):
            self.session.flood.renew()
            self._look_at_streams(elapsed)
            busy = self.session.streams or self.transport.get_write_buffer_size()
            self._idle_s = 0.0 if busy else self._idle_s + elapsed
            self._look_at_silence(now - self._heard, now - self._since)

    def _look_at_streams(self, elapsed: float) -> None:
        for stream in list(self.session.streams.values()):
            if stream.stuck_for(elapsed) >= self._limits.write_timeout_s:
                stream.reset(ErrorCode.CANCEL)
            stream.receiver.look(elapsed)

    def _look_at_silence(self, silent: float, unasked: float) -> None:
        limits, session = self._limits, self.session
        if not session.greeted or session.block is not None:
            if unasked > limits.header_timeout_s:
                self._end(ErrorCode.NO_ERROR, "headers did not arrive within gateway.header_timeout_s")
        elif min(self._idle_s, unasked) > limits.idle_timeout_s:
            self._end(ErrorCode.NO_ERROR, "gateway.idle_timeout_s")
        elif silent > limits.idle_timeout_s:
            self._ask_whether_alive(silent)

    def _ask_whether_alive(self, silent: float) -> None:
        """A client that waits for answers is silent, and so is one whose machine is no more."""
        if not self.session.pinged:
            self.session.pinged = True
            self.transport.write(frame(FrameType.PING, 0, 0, bytes(8)))
        elif silent > 2 * self._limits.idle_timeout_s:
            self.transport.abort()
