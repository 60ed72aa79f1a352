"""One request and its answer: the ASGI side of a connection."""

from __future__ import annotations

from asyncio import Event
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from aoti_serve.gateway.listener.refusals import FAILED

if TYPE_CHECKING:
    from aoti_serve.gateway.listener.connection import Connection

# Below this copying the body behind its head is quicker than a system call over two buffers.
JOINED_BYTES = 64 * 2**10
# What a piece costs beside its bytes, so that a body of one-byte chunks does not cost forty times as much.
OBJECT_BYTES = 64


class Exchange(RequestResponseCycle):
    """uvicorn's cycle, with three differences.

    Its answer's head waits for the first bytes of the body, so that both go in one system call. Its request's body
    stays in the pieces that have arrived. An answer that begins before the request has arrived ends the connection.
    """

    def __init__(self, connection: Connection, keep_alive: bool) -> None:
        super().__init__(
            scope=connection.scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=False,
            default_headers=connection.server_state.default_headers,
            message_event=Event(),
            expect_100_continue=connection.expect_100_continue,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        self._connection = connection
        self._pieces: list[bytes] = []
        self._head: bytes | None = None
        self._bodiless = connection.scope["method"] == "HEAD"
        self.held = 0

    def take(self, piece: bytes) -> None:
        """A piece of the body has arrived. `held` counts what it costs until the application reads it."""
        self._pieces.append(piece)
        self.held += len(piece) + OBJECT_BYTES
        self.message_event.set()

    def disconnect(self) -> None:
        """Nobody waits for the answer any more."""
        self.disconnected = True
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """The application's next piece of the body: everything that has arrived since the last."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.more_body:
                self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self._pieces, self.held = self._pieces, [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: ASGISendEvent) -> None:
        """The application's answer. Waits while the client does not take it."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete:
            raise RuntimeError(f"{message['type']} after the answer was complete")
        if not self.response_started:
            self._start(cast("HTTPResponseStartEvent", message))
        else:
            self._continue(cast("HTTPResponseBodyEvent", message))

    def _start(self, message: HTTPResponseStartEvent) -> None:
        if message["type"] != "http.response.start":
            raise RuntimeError(f"{message['type']} before http.response.start")
        self.response_started = True
        self.waiting_for_100_continue = False
        if self.more_body or self._connection.leaving:
            self.keep_alive = False
        self._head = self._head_of(message["status"], [*self.default_headers, *message.get("headers", ())])

    def _head_of(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        self._bodiless = self._bodiless or status in (204, 304)
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            self._note(name.lower(), value)
            lines.append(b"%b: %b\r\n" % (name.lower(), value))
        if self.chunked_encoding is None and not self._bodiless:
            lines += self._chunked_or_until_the_end()
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        # A line break in a value, which may be a client's own, would make two headers of one.
        if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
            raise RuntimeError("a header of the answer has a control character")
        return head

    def _note(self, name: bytes, value: bytes) -> None:
        """What a header says of the body and the connection."""
        if name == b"content-length" and self.chunked_encoding is None:
            self.expected_content_length = int(value)
            self.chunked_encoding = False
        elif name == b"transfer-encoding" and value.lower() == b"chunked":
            self.expected_content_length = 0
            self.chunked_encoding = True
        elif name == b"connection":
            raise RuntimeError("the connection is the server's")

    def _chunked_or_until_the_end(self) -> list[bytes]:
        if self.scope["http_version"] == "1.0":
            self.keep_alive = False
            return []
        self.chunked_encoding = True
        return [b"transfer-encoding: chunked\r\n"]

    def _continue(self, message: HTTPResponseBodyEvent) -> None:
        if message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} within the answer's body")
        more = message.get("more_body", False)
        self._write(self._framed(message.get("body", b""), more))
        if not more:
            if self.expected_content_length:
                raise RuntimeError("the answer is shorter than its content-length")
            self.response_complete = True
            self.message_event.set()
            self.on_response()

    def _framed(self, body: bytes, more: bool) -> list[bytes]:
        if self._bodiless:
            self.expected_content_length = 0
            return []
        if self.chunked_encoding:
            chunk = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            return chunk if more else [*chunk, b"0\r\n\r\n"]
        if self.chunked_encoding is not None:
            self.expected_content_length -= len(body)
        if self.expected_content_length < 0:
            raise RuntimeError("the answer is longer than its content-length")
        return [body]

    def _write(self, parts: list[bytes]) -> None:
        if self._head is not None:
            parts = [self._head, *parts]
            self._head = None
        if sum(map(len, parts)) <= JOINED_BYTES:
            self.transport.write(b"".join(parts))
        else:
            self.transport.writelines(parts)

    async def send_500_response(self) -> None:
        """The application has failed before it began to answer."""
        self.keep_alive = False
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(FAILED.body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": FAILED.body, "more_body": False})
