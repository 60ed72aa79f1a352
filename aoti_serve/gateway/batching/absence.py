"""Absence: while no replica lives, nobody waits for one longer than for a place in the queue."""

from __future__ import annotations

import math
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

from aoti_serve.errors import NoReplica
from aoti_serve.gateway.batching.backlog import Backlog
from aoti_serve.gateway.batching.work_item import WorkItem

LOOKS = 20  # at the waiting rows, in the time for which they may wait


class Absence:
    """Refuses rows that have waited `longest` seconds, or nearly so, with no replica alive in all that time.

    A replica that comes back before answers them. Lives in the gateway's event loop, and costs nothing while a replica
    lives: then nobody calls `watch`. `refuse` fails a piece with an error, and withdraws it.
    """

    def __init__(
        self, model: str, longest: float, backlog: Backlog, refuse: Callable[[WorkItem, NoReplica], None]
    ) -> None:
        self._model = model
        self._longest = longest
        self._backlog = backlog
        self._refuse = refuse
        self._since: float | None = None
        self._timer: TimerHandle | None = None

    def note(self, runners: int, now: float) -> None:
        """Note how many runners there are from now on."""
        if not runners:
            self._since = now if self._since is None else self._since
            return
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def watch(self, now: float, loop: AbstractEventLoop) -> None:
        """Rows wait, and no replica lives."""
        self.note(0, now)
        if self._timer is None and self._longest < math.inf:
            first = min(self._waited_from(piece) for piece in self._backlog.waiting())
            self._set(max(first + self._longest, now), loop)

    def _waited_from(self, piece: WorkItem) -> float:
        assert self._since is not None
        return max(piece.arrival, self._since)

    def _set(self, when: float, loop: AbstractEventLoop) -> None:
        self._timer = loop.call_at(when, self._look, loop)

    def _look(self, loop: AbstractEventLoop) -> None:
        """Refuse who has waited long enough. The others are looked at again, but not one by one."""
        assert self._since is not None
        self._timer = None
        now, soon = loop.time(), self._longest / LOOKS
        for piece in list(self._backlog.waiting()):
            if self._waited_from(piece) + self._longest <= now + soon and piece.queue:
                self._refuse(piece, NoReplica.since(self._model, now - self._since))
        left = [self._waited_from(piece) for piece in self._backlog.waiting()]
        if left:
            self._set(max(min(left) + self._longest, now + soon), loop)
