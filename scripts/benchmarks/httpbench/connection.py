"""One connection of the open-loop client: requests are written and answers parsed by hand.

So that thousands per second leave most of a core to the server.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, cast

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


class Connection(asyncio.Protocol):
    """One request at a time. Callbacks, not tasks: they are what the client's time goes into.

    `alive` holds it while it is open, `idle` while it may be asked.
    """

    transport: asyncio.Transport

    def __init__(self, request: bytes, alive: set[Connection], idle: list[Connection]) -> None:
        self.asked: Asked | None = None
        self._request = request
        self._alive = alive
        self._idle = idle
        self._got = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self._alive.add(self)

    def ask(self, request: Asked) -> None:
        self.asked = request
        self.transport.write(self._request)

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
            self._idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._alive.discard(self)
        if self.asked is not None:
            self.asked.ended(BROKEN)
            self.asked = None
