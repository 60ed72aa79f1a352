"""How soon callers who have been answered ask again."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

RECENT = 0.2  # the weight of the latest


class Lap:
    """Rows that were answered together, and how many have come since then in their place."""

    __slots__ = ("answered", "back", "end", "first", "latest", "rows")

    def __init__(self, rows: int, answered: float, end: float) -> None:
        self.rows = rows
        self.answered = answered
        self.end = end
        self.back = 0
        self.first = self.latest = answered


class Expected(NamedTuple):
    """Rows that should be back in so many seconds."""

    rows: int
    seconds: float


class Returns:
    """Clients that ask one thing after the other come again a moment after each answer: each row that comes counts as
    the return of the one that was answered first.

    Averaged over recent batches: when the first of its rows was back, in what time each further one, and what share of
    them came at all, within the time that the batch had taken. `out` counts rows that may still come.
    """

    def __init__(self) -> None:
        self.out = 0
        self._laps: deque[Lap] = deque()
        self._share = 1.0
        self._first: float | None = None
        self._gap = 0.0

    def answered(self, rows: int, now: float, seconds: float) -> None:
        """These have had their answers, `seconds` after they had left."""
        while self._laps and self._laps[0].end <= now:
            self._close()
        if rows:
            self._laps.append(Lap(rows, now, now + seconds))
            self.out += rows

    def came(self, rows: int, now: float) -> None:
        while rows and self._laps:
            lap = self._laps[0]
            if lap.end > now:
                taken = min(rows, lap.rows - lap.back)
                if not lap.back:
                    lap.first = now
                lap.latest = now
                lap.back += taken
                rows -= taken
                self.out -= taken
                if lap.back < lap.rows:
                    return
            self._close()

    def expected(self, now: float) -> list[Expected]:
        """Batch by batch, how many rows are still to come back, with those of the batches before it, and how soon."""
        if self._first is None:
            return []
        found: list[Expected] = []
        rows = 0
        for lap in self._laps:
            missing = round(self._share * lap.rows) - lap.back
            if missing > 0 and lap.end > now:
                rows += missing
                last = lap.answered + self._first + self._gap * (lap.back + missing - 1)
                found.append(Expected(rows, max(last - now, self._gap)))
        return found

    def forget(self) -> None:
        """Who is not back by now does not come."""
        while self._laps:
            self._close()

    def _close(self) -> None:
        lap = self._laps.popleft()
        self.out -= lap.rows - lap.back
        self._share += RECENT * (lap.back / lap.rows - self._share)
        if lap.back:
            first = lap.first - lap.answered
            self._first = first if self._first is None else self._first + RECENT * (first - self._first)
        if lap.back > 1:
            gap = (lap.latest - lap.first) / (lap.back - 1)
            self._gap += RECENT * (gap - self._gap)
