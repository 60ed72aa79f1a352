"""A client that asks at a constant rate, whether it is answered or not: what wrk cannot do.

One event loop; each request on a connection that is idle, or on a new one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import uvloop

from httpbench.bodies import Request
from httpbench.connection import BROKEN, Answer, Asked, Connection, Piece

PATIENCE_S, LOOK_S = 30.0, 0.05


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
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
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

    def _idle(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def _open(self, request: Asked) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                made = asyncio.get_running_loop().create_connection(
                    lambda: Connection(self.bytes, self.connections, self.idle), *self.place
                )
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
