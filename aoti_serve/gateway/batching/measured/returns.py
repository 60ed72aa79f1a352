"""Estimates of when answered clients ask again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

RECENT_LAPS = 16  # batches
FEW_LAPS = 0.05  # of all rows


@dataclass(slots=True)
class Lap:
    """Rows that were answered together. `back` counts those that have come back since then, until `end`.

    `first` and `latest` are the times of the first and the latest return. `strangers` counts the rows that came when no
    return was expected, before these were answered.
    """

    rows: int
    answered: float
    end: float
    strangers: int
    back: int = 0
    first: float = 0.0
    latest: float = 0.0


class Expected(NamedTuple):
    """Rows that should be back in `seconds`. If all of them run together, they return `again` seconds later."""

    rows: int
    seconds: float
    again: float


class Returns:
    """Estimates when clients come back that send one request after the other.

    Each row that arrives counts as the return of the row that was answered first. The estimate comes from the last
    `RECENT_LAPS` batches: the time until the first of their rows was back, the time between further rows, and the share
    of rows that came at all within the time that the batch had taken. `out` counts rows that may still come back;
    `strangers` counts rows that came when no return was expected, since the last answer.
    """

    def __init__(self) -> None:
        self.out = 0
        self.strangers = 0
        self._open: deque[Lap] = deque()
        self._closed: deque[Lap] = deque(maxlen=RECENT_LAPS)

    def note_answered(self, rows: int, now: float, seconds: float) -> None:
        """Note that these rows were answered `seconds` after they had left."""
        while self._open and self._open[0].end <= now:
            self._close()
        if rows:
            self._open.append(Lap(rows, now, now + seconds, self.strangers))
            self.out += rows
            self.strangers = 0

    def note_arrived(self, rows: int, now: float) -> None:
        """Note that these rows have arrived."""
        while rows and self._open:
            lap = self._open[0]
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
        self.strangers += rows

    def expected(self, waiting: int, now: float) -> list[Expected]:
        """The rows that should still come back: for each batch its own and those of the batches before it.

        Empty if more than a few strangers come: saved time helps all clients only in a closed loop.
        """
        seen = [lap for lap in self._closed if lap.back]
        answered = sum([lap.rows for lap in self._closed])
        if not seen or sum([lap.strangers for lap in self._closed]) > FEW_LAPS * answered:
            return []
        back = sum([lap.back for lap in seen])
        first = sum([lap.first - lap.answered for lap in seen]) / len(seen)
        gap = sum([lap.latest - lap.first for lap in seen]) / max(1, back - len(seen))
        found: list[Expected] = []
        rows = 0
        for lap in self._open:
            missing = round(lap.rows * back / answered) - lap.back
            if missing > 0 and lap.end > now:
                rows += missing
                last = lap.answered + first + gap * (lap.back + missing - 1)
                found.append(Expected(rows, max(last - now, gap), first + gap * (waiting + rows - 1)))
        return found

    def forget(self) -> None:
        """Expect no row any more."""
        while self._open:
            self._close()

    def _close(self) -> None:
        lap = self._open.popleft()
        self.out -= lap.rows - lap.back
        self._closed.append(lap)
