"""A client that asks at a constant rate, whether it is answered or not: what wrk cannot do.

One event loop; each request on a connection that is idle, or on a new one. Requests are written and answers parsed by
hand, so that thousands per second leave most of a core to the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from httpbench.bodies import Request

PATIENCE_S, LOOK_S = 30.0, 0.05
BROKEN = 0


class Piece(NamedTuple):
    """So many requests a second for so many seconds."""

    rate: float
    seconds: float


class Answer(NamedTuple):
    """In seconds: when in its piece the request was due, how much later it was sent, and from then to the whole answer.

    A status of BROKEN: the connection broke, or there was no answer in 30 s.
    """

    due: float
    late: float
    seconds: float
    status: int
    says_when: bool = False  # there is a Retry-After

    @property
    def ended(self) -> float:
        return self.due + self.late + self.seconds


class Asked(NamedTuple):
    """A request on its way; `started` is when its piece did."""

    started: float
    due: float
    sent: float
    answers: list[Answer]

    def ended(self, status: int, *, says_when: bool = False) -> None:
        seconds = time.perf_counter() - self.sent
        self.answers.append(Answer(self.due, self.sent - self.started - self.due, seconds, status, says_when))


def asked(url: str, request: Request, *pieces: Piece) -> list[list[Answer]]:
    """One piece after the other without a pause; returns when all is answered. By piece, in the order of answers."""
    return uvloop.run(_Client(url, request).run(pieces))


class _Client:
    def __init__(self, url: str, request: Request) -> None:
        parts = urlsplit(url)
        assert parts.hostname, url
        assert parts.port, url
        self.place = parts.hostname, parts.port
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(request.body)}"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        self.bytes = "\r\n".join([*lines, "", ""]).encode() + request.body
        self.idle: list[_Connection] = []
        self.connections: set[_Connection] = set()
        self.opening: set[asyncio.Task[None]] = set()

    async def run(self, pieces: Sequence[Piece]) -> list[list[Answer]]:
        answers: list[list[Answer]] = [[] for _ in pieces]
        started = time.perf_counter()
        for piece, found in zip(pieces, answers, strict=True):
            await self._send(piece, started, found)
            started += piece.seconds
        while self.opening or any(connection.asked for connection in self.connections):
            await asyncio.sleep(LOOK_S)
            self._give_up()
        for connection in self.connections:
            connection.transport.abort()
        return answers

    async def _send(self, piece: Piece, started: float, answers: list[Answer]) -> None:
        for index in range(round(piece.rate * piece.seconds)):
            due = index / piece.rate
            if (ahead := started + due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            request = Asked(started, due, time.perf_counter(), answers)
            if connection := self._idle():
                connection.ask(request)
            else:
                opening = asyncio.create_task(self._open(request))
                self.opening.add(opening)
                opening.add_done_callback(self.opening.discard)

    def _idle(self) -> _Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def _open(self, request: Asked) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                made = asyncio.get_running_loop().create_connection(lambda: _Connection(self), *self.place)
                _, connection = await made
        except (OSError, TimeoutError):
            request.ended(BROKEN)
        else:
            connection.ask(request)

    def _give_up(self) -> None:
        """Whoever has waited too long is not answered any more."""
        limit = time.perf_counter() - PATIENCE_S
        for connection in self.connections:
            if connection.asked and connection.asked.sent < limit:
                connection.transport.abort()


class _Connection(asyncio.Protocol):
    """One request at a time. Callbacks, not tasks: they are what the client's time goes into."""

    transport: asyncio.Transport

    def __init__(self, client: _Client) -> None:
        self.asked: Asked | None = None
        self._client = client
        self._got = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self._client.connections.add(self)

    def ask(self, request: Asked) -> None:
        self.asked = request
        self.transport.write(self._client.bytes)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0 or self.asked is None:
            return
        head = bytes(self._got[:end]).lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        if len(self._got) >= end + 4 + length:
            self._answered(int(head[9:12]), head)

    def _answered(self, status: int, head: bytes) -> None:
        request, self.asked = self.asked, None
        assert request is not None
        request.ended(status, says_when=b"\r\nretry-after:" in head)
        self._got.clear()
        if b"\r\nconnection: close" in head:
            self.transport.close()
        else:
            self._client.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.connections.discard(self)
        if self.asked is not None:
            self.asked.ended(BROKEN)
            self.asked = None
