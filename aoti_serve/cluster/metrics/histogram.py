"""Histograms that cost less than a microsecond for each value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class BucketCounts:
    """Counts values by bucket; a bucket holds what is at most its bound and above the one before. For one thread."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def note(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def note_all(self, values: Iterable[float]) -> float:
        """Count each value; their sum."""
        bounds, counts = self.bounds, self._counts
        total = 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.sum += total
        return total

    def add(self, value: float, times: int) -> None:
        """Count a value that has come so many times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += times * value

    @property
    def counts(self) -> tuple[int, ...]:
        """By bucket; the last one holds what is above all bounds."""
        return tuple(self._counts)

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """How many values are at most each bound, as Prometheus names it in the label `le`."""
        names = [f"{bound:g}" for bound in self.bounds]
        return zip([*names, "+Inf"], accumulate(self._counts), strict=True)
