"""A stream: one request and its answer, in turns with those of the others on a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from aoti_serve.gateway.http2.floods import RESET_FRAMES, FloodMeter
from aoti_serve.gateway.http2.frames import (
    LONGEST_FRAME,
    ErrorCode,
    Flag,
    FrameType,
    frame,
    frame_head,
    reset,
    unpadded,
    window_update,
)
from aoti_serve.gateway.http2.receiver import NOBODY, Receiver
from aoti_serve.gateway.http2.windows import ReceiveWindow, SendWindow

STREAM_WINDOW = 2**16  # bytes of a request that its client may send before its receiver has looked at them


class Line(Protocol):
    """What streams need of their connection."""

    client: tuple[str, int]
    window: SendWindow
    flood: FloodMeter
    paused: bool
    opening: bytes  # of each header block

    def write(self, data: bytes | memoryview, /) -> None: ...

    def hold(self, stream: Stream) -> None:
        """The stream has more to send than the connection lets through."""

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""


class Stream:
    """One request and its answer. What does not fit the windows waits here."""

    __slots__ = (
        "_body",
        "_drained",
        "_line",
        "_received",
        "_stuck_s",
        "_trailers",
        "closed",
        "number",
        "open",
        "receiver",
        "window",
    )

    receiver: Receiver

    def __init__(self, line: Line, number: int, send_window: int) -> None:
        self.number = number
        self.open = True  # the client may still send
        self.closed = False
        self.window = SendWindow(send_window)
        self._line = line
        self._received = ReceiveWindow(STREAM_WINDOW)
        self._body: deque[memoryview] = deque()
        self._trailers: bytes | None = None
        self._drained: asyncio.Future[None] | None = None
        self._stuck_s = 0.0

    @property
    def client(self) -> tuple[str, int]:
        return self._line.client

    # The request

    def receive(self, flags: int, payload: bytes) -> None:
        """Take a DATA frame."""
        if not self.open:
            self.break_off(ErrorCode.STREAM_CLOSED)
            return
        self._received.take(len(payload))
        data = unpadded(flags, payload)
        if len(data) < len(payload):
            self.give(len(payload) - len(data))
        if data:
            self.receiver.take(data)
        if flags & Flag.END_STREAM:
            self.end()

    def end(self) -> None:
        """The client has sent everything."""
        if not self.open:
            self.break_off(ErrorCode.STREAM_CLOSED)
            return
        self.open = False
        self.receiver.end()

    def give(self, count: int) -> None:
        """Let the client send as many bytes more."""
        if (more := self._received.give(count)) and self.open and not self.closed:
            self._line.write(window_update(self.number, more))

    def lose(self) -> None:
        """The client has given up."""
        receiver = self.receiver
        self._close()
        receiver.lose()

    # The answer

    def respond(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """Send a whole answer: blocks of headers before and behind the body."""
        line, length = self._line, len(body)
        if length > LONGEST_FRAME or length > self.window.left or length > line.window.left or line.paused:
            self.start(head)
            self.write(body)
            self.finish(trailers)
        elif not self.closed:
            self.window.left -= length
            line.window.left -= length
            line.flood.sent += 1
            begin = self._headers(Flag.END_HEADERS, head)
            line.write(begin + frame_head(length, FrameType.DATA, 0, self.number) + body + self._last(trailers))
            self._close()

    def refuse(self, head: bytes) -> None:
        """Send an answer that is nothing but headers."""
        if not self.closed:
            self._line.write(self._last(head))
            self._close()

    def start(self, head: bytes) -> None:
        if not self.closed:
            self._line.write(self._headers(Flag.END_HEADERS, head))

    def write(self, data: bytes) -> None:
        """Send a part of the body; it waits here if it must."""
        if data and not self.closed:
            self._body.append(memoryview(data))
            self.pump()

    def finish(self, trailers: bytes) -> None:
        """Send the last headers, behind all of the body."""
        if not self.closed:
            self._trailers = trailers
            self.pump()

    async def drained(self) -> None:
        """Wait until nothing waits for a window, or nobody does."""
        if self._body and not self.closed:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def reset(self, code: ErrorCode) -> None:
        """End it at once, for both sides."""
        if not self.closed:
            self._line.write(reset(self.number, code))
            self.lose()

    def break_off(self, code: ErrorCode) -> None:
        """End it for what its client has done. Raises BrokenConnection if that is done too often."""
        self._line.flood.count(RESET_FRAMES)
        self.reset(code)

    def pump(self) -> None:
        """Send what the windows let through."""
        line = self._line
        while self._body and not line.paused:
            piece = self._body[0]
            count = min(len(piece), LONGEST_FRAME, self.window.left, line.window.left)
            if count <= 0:
                break
            line.write(b"".join((frame_head(count, FrameType.DATA, 0, self.number), piece[:count])))
            self.window.left -= count
            line.window.left -= count
            line.flood.sent += 1
            self._stuck_s = 0.0
            if count == len(piece):
                self._body.popleft()
            else:
                self._body[0] = piece[count:]
        if not self._body:
            self._all_sent()
        elif self.window.left > 0:  # else its own window's opening is waited for
            line.hold(self)

    def _all_sent(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._trailers is not None:
            self._line.write(self._last(self._trailers))
            self._close()

    def _last(self, block: bytes) -> bytes:
        """The frame that ends the answer. A client that has not ended its request yet is told that it need not."""
        last = self._headers(Flag.END_HEADERS | Flag.END_STREAM, block)
        return last + reset(self.number, ErrorCode.NO_ERROR) if self.open else last

    def _headers(self, flags: int, block: bytes) -> bytes:
        return frame(FrameType.HEADERS, flags, self.number, self._line.opening + block)

    def _close(self) -> None:
        self.closed = True
        self.receiver = NOBODY  # it holds the stream: in a cycle its request would outlive its answer
        self._body.clear()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._line.forget(self)

    def stuck_for(self, elapsed: float) -> float:
        """The seconds for which its window let nothing of a waiting answer out; `elapsed` since the last call."""
        if self._body and not self._line.paused:  # else the connection as a whole is not read
            self._stuck_s += elapsed
        return self._stuck_s
