"""An HTTP/2 server that answers with what it is sent, and clients of it: `h2`'s, and one that sends any bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hpack import Encoder

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.http2.connection import Http2Connection
from aoti_serve.gateway.http2.frames import PREFACE, Flag, FrameReader, Http2Frame, frame, settings
from aoti_serve.gateway.http2.frames import FrameType as Kind
from aoti_serve.gateway.http2.headers import Head, block_of
from aoti_serve.gateway.http2.stream import Stream
from aoti_serve.gateway.listener.port import WantedPort
from aoti_serve.gateway.listener.server import Listener
from aoti_serve.gateway.listener.shared import Shared
from tests.unit.gateway.listener.wired import HOST, PATIENCE_S, Clock, Loop, free_port, loop_in_a_thread

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "here")]
BLOCK = Encoder().encode(REQUEST)
WAIT, FULL = (Encoder().encode([*REQUEST[:2], (":path", path)]) for path in ("/wait", "/full"))
HELLO = PREFACE + settings({})
ANSWER = block_of([(b":status", b"200")])
LAST = block_of([(b"end", b"of it")])


class Echo:
    """Answers with the body when it is complete; under /wait not before it is told to, under /full it takes little."""

    def __init__(self, stream: Stream, head: Head, shared: Shared, told: asyncio.Event) -> None:
        self._stream = stream
        self._body = bytearray()
        self._waits = told if head.path == "/wait" else None
        self._gives = head.path != "/full"
        self._tasks = shared.tasks
        self.lost = self.answered = False

    def take(self, data: bytes) -> None:
        self._body += data
        if self._gives:
            self._stream.give(len(data))

    def end(self) -> None:
        task = asyncio.get_running_loop().create_task(self._answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self) -> None:
        if self._waits is not None:
            await self._waits.wait()
        self._stream.respond(ANSWER, bytes(self._body), LAST)
        self.answered = True

    def lose(self) -> None:
        self.lost = True

    def leave(self) -> None: ...

    def look(self, elapsed: float) -> None: ...


class Echoing:
    """A listener of echoes, with a clock that the test moves."""

    def __init__(self, loop: Loop, **keys: Any) -> None:
        self._loop = loop
        self.clock, self.told = Clock(), asyncio.Event()
        self.calls: list[Echo] = []
        self.config = GatewayConfig(**{"host": HOST, "grpc_port": free_port(), **keys})
        assert self.config.grpc_port is not None
        wanted = WantedPort(HOST, self.config.grpc_port, "tests", "gateway.grpc_port")
        self.listener = Listener(self._connect, wanted, "h2", self.config, self.clock)
        loop.run(self.listener.open())

    def _connect(self, shared: Shared, surplus: bool) -> Http2Connection:
        def serve(stream: Stream, head: Head) -> Echo:
            self.calls.append(Echo(stream, head, shared, self.told))
            return self.calls[-1]

        return Http2Connection(serve, shared, self.config, self.clock, surplus)

    def after(self, seconds: float, step: float = 1.0) -> None:
        """So much later, with a sweep at every step."""
        for _ in range(round(seconds / step)):
            self.clock.now += step
            self._loop.call(self.listener.sweep)

    def tell(self) -> None:
        """Let those who wait answer."""
        self._loop.call(self.told.set)

    def in_loop(self, function: Callable[[], object]) -> None:
        """While it runs nothing is accepted or read."""
        self._loop.call(function)

    def becomes(self, true: Callable[[], bool]) -> None:
        """Wait until something is true in the event loop."""
        while not self._loop.call(true):
            pass

    def leave(self) -> None:
        """Begin to close the listener."""
        asyncio.run_coroutine_threadsafe(self.listener.close(PATIENCE_S), self._loop.loop)

    def client(self, **keys: Any) -> Client:
        return Client(self.listener.address, **keys)

    def raw(self, begin: bytes = HELLO) -> Raw:
        return Raw(self.listener.address, begin)

    def close(self) -> None:
        self._loop.run(self.listener.close(0))


@contextmanager
def echoing(**keys: Any) -> Iterator[Echoing]:
    with loop_in_a_thread() as loop:
        served = Echoing(loop, **keys)
        try:
            yield served
        finally:
            served.close()


class Client:
    """`h2`'s client, which checks what the server does."""

    def __init__(self, address: tuple[str, int], window: int | None = None) -> None:
        self.socket = socket.create_connection(address, PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.takes = True
        self._events: list[Event] = []
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._flush()

    def ask(self, body: bytes, path: str = "/echo") -> int:
        """Begin a request; returns the number of its stream. Of the body goes what the windows let through."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, [*REQUEST[:2], (":path", path), REQUEST[3]])
        while len(body) > self.h2.max_outbound_frame_size:
            self._send_data(number, body[: self.h2.max_outbound_frame_size])
            body = body[self.h2.max_outbound_frame_size :]
        self._send_data(number, body, end_stream=True)
        return number

    def _send_data(self, number: int, data: bytes, *, end_stream: bool = False) -> None:
        while self.h2.local_flow_control_window(number) < len(data):
            self._events += self._receive()
        self.h2.send_data(number, data, end_stream=end_stream)
        self._flush()

    def events(self) -> list[Event]:
        """What has come."""
        events, self._events = self._events or self._receive(), []
        return events

    def _receive(self) -> list[Event]:
        """What comes next. Gives the bytes of answers back."""
        data = self.socket.recv(2**16)
        if not data:
            raise EOFError
        events: list[Event] = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, DataReceived) and event.flow_controlled_length and self.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._flush()
        return events

    def answers(self, *numbers: int) -> list[bytes]:
        """The whole answers of streams."""
        bodies, waiting = dict.fromkeys(numbers, b""), set(numbers)
        while waiting:
            for event in self.events():
                assert not isinstance(event, StreamReset)
                if isinstance(event, DataReceived) and event.stream_id in bodies:
                    bodies[event.stream_id] += event.data
                elif isinstance(event, StreamEnded):
                    waiting.discard(event.stream_id)
        return list(bodies.values())

    def _flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def close(self) -> None:
        self.socket.close()


class Raw:
    """A client that sends any bytes, and takes frames."""

    def __init__(self, address: tuple[str, int], begin: bytes) -> None:
        self.socket = socket.create_connection(address, PATIENCE_S)
        self.socket.sendall(begin)
        self._reader = FrameReader()
        self.frames = self._received()  # until the server ends the connection

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def _received(self) -> Iterator[Http2Frame]:
        while data := self.socket.recv(2**16):
            yield from self._reader.feed(data)

    def until(self, kind: Kind, number: int = 0) -> Http2Frame:
        """The next frame of a kind, of a stream."""
        return next(found for found in self.frames if found[0] == kind and found[2] == number)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def headers(number: int, block: bytes = BLOCK, flags: int = Flag.END_HEADERS) -> bytes:
    return frame(Kind.HEADERS, flags, number, block)


def whole(number: int, body: bytes = b"", block: bytes = BLOCK) -> bytes:
    """A whole request."""
    return headers(number, block) + frame(Kind.DATA, Flag.END_STREAM, number, body)
