"""What batches cost, by their rows."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from math import inf

QUICKER, SLOWER = 0.3, 0.1  # the weights of the latest run: a disturbance only ever makes a run longer
# A batch that takes longer counts as so many times the usual: a pause (a swap, a replica that died) is no slow model,
# and a model that has become slow shows after a few batches.
PAUSE = 4.0
GROWTH = 8.0


class Cost:
    """Seconds from leaving for a free runner to the answer, averaged over recent batches of about that size.

    Up to 8 rows each number is a size; above, there are four sizes between one power of two and the next. Between sizes
    that have been seen, costs are interpolated. Beyond them a guess is such that acting on it shows the truth: a larger
    batch costs no more than the largest seen, so that rows are held once to see it, and a smaller one no more than its
    part of the smallest, so that it leaves and is seen. More rows never cost less.
    """

    def __init__(self) -> None:
        self.spent = 0.0  # seconds, by all batches
        self._latest: deque[tuple[int, float]] = deque(maxlen=64)  # sorted in when a cost is asked for
        self._seen: dict[int, tuple[float, float]] = {}  # mean rows and seconds, by size
        self._rows: list[float] = []
        self._seconds: list[float] = []

    def note(self, rows: int, seconds: float) -> None:
        self.spent += seconds
        self._latest.append((rows, seconds))

    def knows(self, rows: int) -> bool:
        """Whether a batch of about so many rows has been seen."""
        self._learn()
        return _size(rows) in self._seen

    def _learn(self) -> None:
        if not self._latest:
            return
        for rows, took in self._latest:
            size = _size(rows)
            mean_rows, mean = self._seen.get(size, (rows, took))
            seconds = min(took, PAUSE * mean)
            weight = QUICKER if seconds < mean else SLOWER
            self._seen[size] = mean_rows + weight * (rows - mean_rows), mean + weight * (seconds - mean)
        self._latest.clear()
        self._rows, self._seconds = [], []
        for _, (each, cost) in sorted(self._seen.items()):
            self._rows.append(each)
            self._seconds.append(max(cost, self._seconds[-1]) if self._seconds else cost)

    def seconds(self, rows: int) -> float:
        """The seconds that a batch of `rows` takes; 0 while nothing is known."""
        self._learn()
        if not self._rows or not rows:
            return 0.0
        above = bisect_left(self._rows, rows)
        if above == len(self._rows):
            near = _size(rows) == _size(round(self._rows[-1]))
            return self._seconds[-1] * (rows / self._rows[-1] if near else 1)
        before, cost = (self._rows[above - 1], self._seconds[above - 1]) if above else (0.0, 0.0)
        part = (rows - before) / (self._rows[above] - before)
        return cost + part * (self._seconds[above] - cost)

    def guess(self, rows: int) -> float:
        """As `seconds`, but a larger batch than the largest seen costs more, by as much as sizes before it did.

        Infinite beyond `GROWTH` times the largest: so batches grow step by step, and only where that pays.
        """
        seconds = self.seconds(rows)
        if not self._rows or rows <= self._rows[-1]:
            return seconds
        if rows > GROWTH * self._rows[-1]:
            return inf
        first, cheapest = (self._rows[0], self._seconds[0]) if len(self._rows) > 1 else (0.0, 0.0)
        slope = (self._seconds[-1] - cheapest) / (self._rows[-1] - first)
        return self._seconds[-1] + slope * (rows - self._rows[-1])


def _size(rows: int) -> int:
    power = max(0, (rows - 1).bit_length() - 3)
    return 8 * power + (rows - 1 >> power)
