"""One request and its answer: the ASGI side of a connection."""

from __future__ import annotations

import asyncio
from asyncio import Event
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveEvent,
    ASGISendEvent,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
)
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from aoti_serve.gateway.listener.refusals import FAILED

JOINED_BYTES = (
    64 * 2**10
)  # up to this a copy of the body behind its head is quicker than a system call over two buffers
OBJECT_BYTES = 64  # the memory of a piece beside its bytes: a body of one-byte chunks takes forty times its size
HOP_BY_HOP = (b"transfer-encoding", b"connection")  # headers of an answer that the server writes itself


class Exchange(RequestResponseCycle):
    """uvicorn's request cycle, with four differences.

    The application is cancelled when its client has gone; uvicorn tells only an application that reads. The head of the
    answer waits for the first bytes of the body, so that both go in one system call. The body of the request stays in
    the pieces that have arrived. An answer that begins before the request has arrived ends the connection.
    """

    def __init__(self, connection: HttpToolsProtocol, keep_alive: bool) -> None:
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
        self._pieces: list[bytes] = []
        self._head: bytes | None = None
        self._bodiless = False
        self._held = 0
        self._work: asyncio.Task[Any] | None = None
        self._reads = False

    def begin(self, app: ASGI3Application, tasks: set[asyncio.Task[None]]) -> None:
        """Start the application's task. It is one of `tasks` while it runs."""
        work = self._work = asyncio.get_running_loop().create_task(self.run_asgi(partial(self._until_gone, app)))
        tasks.add(work)
        work.add_done_callback(tasks.discard)
        work.add_done_callback(self._end)

    def _end(self, _: asyncio.Task[None]) -> None:
        self._work = None  # it holds this exchange

    async def _until_gone(self, app: ASGI3Application, *request: Any) -> None:
        try:
            await app(*request)
        except asyncio.CancelledError:
            if not self.disconnected:
                raise

    def take(self, piece: bytes) -> int:
        """Take a piece of the body. Returns the bytes of memory that the application has not taken yet."""
        self._pieces.append(piece)
        self._held += len(piece) + OBJECT_BYTES
        self.message_event.set()
        return self._held

    def disconnect(self) -> None:
        """Cancel the application, since the client has gone."""
        self.disconnected = True
        self.message_event.set()
        if self._work is not None and not self._reads and not self.more_body:
            self._work.cancel()

    async def receive(self) -> ASGIReceiveEvent:
        """The next event for the application: everything of the body that has arrived since the last call."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.more_body:
                self.flow.resume_reading()
            self._reads = True
            await self.message_event.wait()
            self._reads = False
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self._pieces, self._held = self._pieces, [], 0
        return {"type": "http.request", "body": b"".join(pieces), "more_body": self.more_body}

    async def send(self, message: ASGISendEvent) -> None:
        """Send an event of the application. Waits while the client does not read."""
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
        self.waiting_for_100_continue = False
        if self.more_body:
            self.keep_alive = False
        status = message["status"]
        self._bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        self._head = self._head_of(status, [*self.default_headers, *message.get("headers", ())])
        self.response_started = True

    def _head_of(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif lowered == b"connection" and b"close" in value.lower():
                self.keep_alive = False
            if lowered not in HOP_BY_HOP:
                lines.append(b"%b: %b\r\n" % (lowered, value))
        if self.chunked_encoding is None and not self._bodiless and self.scope["http_version"] == "1.0":
            self.keep_alive = False  # the end of the connection is that of the body
        elif self.chunked_encoding is None and not self._bodiless:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        # A line break in a value, which may be a client's own, would make two headers of one.
        if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
            raise RuntimeError("a header of the answer has a control character")
        return head

    def _continue(self, message: HTTPResponseBodyEvent) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._bodiless:
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            body = _chunk(body, last=not more)
        elif self.chunked_encoding is not None:
            self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("the answer is not as long as its content-length")
        self._write(body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.on_response()

    def _write(self, body: bytes) -> None:
        head, self._head = self._head, None
        if head is None:
            self.transport.write(body)
        elif len(body) <= JOINED_BYTES:
            self.transport.write(b"%b%b" % (head, body))
        else:
            self.transport.writelines([head, body])

    async def send_500_response(self) -> None:
        """Answer for an application that failed before its answer began."""
        self.keep_alive = False
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(FAILED.body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": FAILED.body, "more_body": False})


def _chunk(body: bytes, last: bool) -> bytes:
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return chunk + b"0\r\n\r\n" if last else chunk
