"""The requests of one stream: many are answered at once, and their answers leave in the order of the requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from aoti_serve.gateway.grpc.call import GrpcCall
from aoti_serve.gateway.grpc.messages import GrpcMessage
from aoti_serve.gateway.in_flight import Share

STREAM_AHEAD = 64  # requests of one stream that are answered at once
ANSWERS_AHEAD_BYTES = 64 * 2**20  # of answers, made or expected: with more of them no further request is begun


class Turn:
    """One request of a stream until its answer is taken, and what both hold of the budget."""

    __slots__ = ("_share", "_turns", "answering", "size")

    def __init__(self, turns: Turns, share: Share) -> None:
        self._turns = turns
        self._share = share
        self.answering: asyncio.Task[bytes] | None = None
        self.size = 0  # bytes of the answer

    def hold(self, answer: bytes) -> None:
        """Count the answer, and the request no more. Raises ReadingTooMuch.

        The one that leaves next is free: there are no more of them than calls.
        """
        self._share.release()
        self.size = len(answer)
        if not self._turns.note(self, self.size):
            self._share.grow(self.size)

    def leave(self) -> None:
        """The answer is taken, or nobody waits for it any more."""
        if self.answering is not None:
            self.answering.cancel()
        self._share.release()


AnswerInTurn = Callable[[GrpcMessage, GrpcCall, Turn], Coroutine[Any, Any, bytes]]


class Turns:
    """The turns of one call, in the gateway's event loop. `answer` makes an answer, and has its turn hold it."""

    def __init__(self, call: GrpcCall, answer: AnswerInTurn) -> None:
        self._call = call
        self._answer = answer
        self._line: deque[Turn] = deque()
        self._largest = 0  # bytes of an answer so far
        self._begun, self._taken = asyncio.Event(), asyncio.Event()

    def note(self, turn: Turn, size: int) -> bool:
        """Note the size of an answer; returns whether it is the next to leave."""
        self._largest = max(self._largest, size)
        return bool(self._line) and self._line[0] is turn

    async def answers(self) -> AsyncIterator[bytes]:
        """The answers in order. Raises an AotiServeError behind them where a message cannot be read."""
        reading = asyncio.create_task(self._begin_all())
        reading.add_done_callback(lambda _: self._begun.set())
        try:
            while (answering := await self._next(reading)) is not None:
                yield await answering
                self._take()
            await reading
        finally:
            reading.cancel()
            while self._line:
                self._line.pop().leave()

    async def _next(self, reading: asyncio.Task[None]) -> asyncio.Task[bytes] | None:
        while not (self._line and self._line[0].answering) and not reading.done():
            self._begun.clear()
            await self._begun.wait()
        return self._line[0].answering if self._line else None

    def _take(self) -> None:
        self._line.popleft().leave()
        self._call.read_on()
        self._taken.set()

    @property
    def _is_ahead(self) -> bool:
        """Answers that are not made yet are expected to be as large as the largest one."""
        count = len(self._line)
        if count > STREAM_AHEAD:
            return True
        if count == 1 or count * self._largest <= ANSWERS_AHEAD_BYTES:  # nothing to add up
            return False
        return sum([each.size or self._largest for each in self._line]) > ANSWERS_AHEAD_BYTES

    async def _begin_all(self) -> None:
        """Begin to answer each message as it comes. Raises an AotiServeError if one cannot be read."""
        async for message in self._call.messages():
            turn = Turn(self, message.share)
            self._line.append(turn)
            while self._is_ahead:
                self._taken.clear()
                await self._taken.wait()
            turn.answering = asyncio.create_task(self._answer(message, self._call, turn))
            self._begun.set()
