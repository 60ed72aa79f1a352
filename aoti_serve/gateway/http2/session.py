"""What both ends of an HTTP/2 connection know of it: streams, windows, settings; and what each frame does to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.http2.floods import RESET_FRAMES, STREAMS_PER_FRAME, FloodMeter
from aoti_serve.gateway.http2.frames import (
    FIRST_WINDOW,
    LARGEST_WINDOW,
    BrokenConnection,
    ErrorCode,
    Flag,
    FrameType,
    Http2Frame,
    Setting,
    block_in,
    frame,
    number_in,
    reset,
    settings,
    settings_in,
    window_update,
)
from aoti_serve.gateway.http2.headers import NO_TABLE, READABLE, Head, HeaderReader, Malformed, TooManyHeaders
from aoti_serve.gateway.http2.receiver import Receiver
from aoti_serve.gateway.http2.stream import STREAM_WINDOW, Stream
from aoti_serve.gateway.http2.windows import ReceiveWindow, SendWindow

MAX_STREAMS = 1000  # of one connection at once
CONNECTION_WINDOW = 2**22  # bytes that are on their way at once; each stream has its own limit
TABLE_BYTES = 4096  # of each side's headers, if the other does not say otherwise
_PING_BYTES = 8

Serve = Callable[[Stream, Head], Receiver]


class _Block(NamedTuple):
    """Headers that are not complete yet."""

    stream: int
    flags: int
    content: bytearray


class Session:
    """One connection's state. `serve` is told of each request, `write` takes what is to be sent.

    Every frame is checked: BrokenConnection ends the connection, a stream's own faults end the stream.
    """

    def __init__(
        self, serve: Serve, write: Callable[[bytes | memoryview], None], config: GatewayConfig, client: tuple[str, int]
    ) -> None:
        self.client = client
        self.write = write
        self.window = SendWindow()
        self.flood = FloodMeter()
        self.paused = False
        self.opening = b""
        self.streams: dict[int, Stream] = {}
        self._blocked: dict[int, Stream] = {}
        self.last = 0
        self.block: _Block | None = None
        self.pinged = False
        self._serve = serve
        self._max_bytes = config.max_header_bytes
        self._headers = HeaderReader(config.max_header_bytes, config.max_headers)
        self._received = ReceiveWindow(CONNECTION_WINDOW)
        self._first_window = FIRST_WINDOW
        self.greeted = False

    def greet(self) -> None:
        values = {
            Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: self._max_bytes,
        }
        self.write(settings(values) + window_update(0, CONNECTION_WINDOW - FIRST_WINDOW))

    def take(self, arrived: Http2Frame) -> None:
        """Do what a frame asks for. Raises BrokenConnection."""
        kind, flags, number, payload = arrived
        if not self.greeted and kind != FrameType.SETTINGS:
            raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        if self.block is not None and (kind != FrameType.CONTINUATION or number != self.block.stream):
            raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, "headers are interrupted")
        if kind == FrameType.DATA:
            self._on_data(flags, number, payload)
        elif kind == FrameType.HEADERS:
            self._on_headers(flags, number, payload)
        else:
            self.flood.count()
            if handler := _HANDLERS.get(kind):
                handler(self, flags, number, payload)

    def end(self) -> None:
        """Nothing more comes, and nothing that is sent arrives."""
        for stream in list(self.streams.values()):
            stream.lose()

    def pump(self) -> None:
        """Send what had to wait, as far as it need not any more; in turns, since each goes to the end of the line."""
        while self._blocked and self.window.left > 0 and not self.paused:
            stream = self._blocked.pop(next(iter(self._blocked)))
            stream.pump()

    def hold(self, stream: Stream) -> None:
        """The stream has more to send than the connection lets through."""
        self._blocked[stream.number] = stream

    def forget(self, stream: Stream) -> None:
        self.streams.pop(stream.number, None)
        self._blocked.pop(stream.number, None)

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        self._received.take(len(payload))
        if more := self._received.give(len(payload)):
            self.write(window_update(0, more))
        if not payload:
            self.flood.count()
        if stream := self._known(number):
            stream.receive(flags, payload)

    def _known(self, number: int) -> Stream | None:
        """The stream, or None if it has ended. Raises BrokenConnection if it has never begun."""
        if number == 0 or number > self.last or number % 2 == 0:
            raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, f"a frame of stream {number}, which has not begun")
        return self.streams.get(number)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        content = block_in(flags, payload)
        if flags & Flag.END_HEADERS:
            self._on_block(number, flags, content)
        else:
            self.block = _Block(number, flags, bytearray(content))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if (block := self.block) is None:
            raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, "headers go on that have not begun")
        block.content.extend(payload)
        if len(block.content) > READABLE * self._max_bytes:
            raise TooManyHeaders
        if flags & Flag.END_HEADERS:
            self.block = None
            self._on_block(number, block.flags, bytes(block.content))

    def _on_block(self, number: int, flags: int, content: bytes) -> None:
        if number > self.last and number % 2:
            self.last = number
            self._begin(number, flags, content)
            return
        stream = self._known(number)
        self._headers.skip(content)  # trailers: nobody reads them
        if stream and flags & Flag.END_STREAM:
            stream.end()
        elif stream:
            stream.break_off(ErrorCode.PROTOCOL_ERROR)

    def _begin(self, number: int, flags: int, content: bytes) -> None:
        if len(self.streams) >= MAX_STREAMS:
            self._headers.skip(content)
            self._reset(number, ErrorCode.REFUSED_STREAM)
            return
        try:
            head = self._headers.read(content)
        except Malformed:
            self._reset(number, ErrorCode.PROTOCOL_ERROR)
            return
        stream = self.streams[number] = Stream(self, number, self._first_window)
        stream.open = not flags & Flag.END_STREAM
        receiver = self._serve(stream, head)
        stream.receiver = receiver
        if not stream.open:
            receiver.end()

    def _reset(self, number: int, code: ErrorCode) -> None:
        """End a stream before it begins."""
        self.flood.count(RESET_FRAMES)
        self.write(reset(number, code))

    def _on_reset(self, _: int, number: int, payload: bytes) -> None:
        number_in(payload)
        if stream := self._known(number):
            self.flood.count(RESET_FRAMES)
            stream.lose()

    def _on_window(self, _: int, number: int, payload: bytes) -> None:
        if not (more := number_in(payload)):
            raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
        if number == 0:
            self.window.grow(more)
            self.pump()
        elif stream := self._known(number):
            stream.window.grow(more)
            stream.pump()

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        self.greeted = True
        if number:
            raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, "settings of a stream")
        if flags & Flag.ACK:
            return
        values = dict(settings_in(payload))  # of several values the last one counts
        if values.get(Setting.HEADER_TABLE_SIZE, TABLE_BYTES) < TABLE_BYTES:
            self.opening = NO_TABLE
        self.write(frame(FrameType.SETTINGS, Flag.ACK, 0))
        if (size := values.get(Setting.INITIAL_WINDOW_SIZE)) is not None:
            self._resize(size)

    def _resize(self, size: int) -> None:
        if size > LARGEST_WINDOW:
            raise BrokenConnection(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {size} bytes")
        self.flood.count(len(self.streams) // STREAMS_PER_FRAME)
        more, self._first_window = size - self._first_window, size
        for stream in list(self.streams.values()):
            stream.window.grow(more)
            if more > 0:
                stream.pump()

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != _PING_BYTES:
            raise BrokenConnection(ErrorCode.FRAME_SIZE_ERROR, "a ping of a stream, or not of 8 bytes")
        if flags & Flag.ACK:
            self.pinged = False
        else:
            self.write(frame(FrameType.PING, Flag.ACK, 0, payload))

    def _on_push(self, *_: object) -> None:
        raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, "a client pushes nothing")


_HANDLERS: dict[int, Callable[[Session, int, int, bytes], None]] = {
    FrameType.RST_STREAM: Session._on_reset,
    FrameType.SETTINGS: Session._on_settings,
    FrameType.PUSH_PROMISE: Session._on_push,
    FrameType.PING: Session._on_ping,
    FrameType.WINDOW_UPDATE: Session._on_window,
    FrameType.CONTINUATION: Session._on_continuation,
}
