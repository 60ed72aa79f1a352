"""Deadlines of requests: one heap and one timer for all, since a timer for each would cost more than the rest."""

from __future__ import annotations

import math
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from aoti_serve.gateway.batching.work_item import WorkItem

FEW_DEADLINES = 64  # entries that are not worth a clean-up
DEADLINE_TICK_S = 0.5e-3  # uvloop rounds to milliseconds: what is so near is due


class DeadlineQueue:
    """Calls `expire` for each piece that has no answer at its deadline, in the gateway's event loop.

    The timer is set for the earliest deadline. That piece may be gone when the timer fires, which is then set for the
    next one. The heap holds numbers, not pieces, so that an answered request is not kept in memory.
    """

    def __init__(self, expire: Callable[[WorkItem], None]) -> None:
        self._expire = expire
        self._pieces: dict[int, WorkItem] = {}
        self._heap: list[tuple[float, int]] = []
        self._timer: TimerHandle | None = None

    @property
    def next(self) -> float:
        """No piece expires before this time."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, piece: WorkItem, deadline: float, loop: AbstractEventLoop) -> None:
        self._pieces[piece.number] = piece
        heappush(self._heap, (deadline, piece.number))
        if self._heap[0][1] == piece.number:
            self._set(loop)

    def remove(self, piece: WorkItem) -> None:
        """Forget a piece that has its answer, or needs none. It may have expired already."""
        self._pieces.pop(piece.number, None)
        if len(self._heap) > 2 * len(self._pieces) + FEW_DEADLINES:
            self._heap = [entry for entry in self._heap if entry[1] in self._pieces]
            heapify(self._heap)

    def _set(self, loop: AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._heap[0][0], self._fire, loop)

    def _fire(self, loop: AbstractEventLoop) -> None:
        self._timer = None
        due = loop.time() + DEADLINE_TICK_S
        while self._heap and (self._heap[0][0] <= due or self._heap[0][1] not in self._pieces):
            piece = self._pieces.pop(heappop(self._heap)[1], None)
            if piece is not None:
                self._expire(piece)
        if self._heap:
            self._set(loop)
