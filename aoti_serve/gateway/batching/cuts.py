"""The division of a request that is larger than a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Cut(NamedTuple):
    """The rows from `start` to `stop` of a request."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Cuts:
    """The fewest pieces of at most `largest` rows, of nearly equal size.

    If equal pieces would be below `smallest`, they have that size and the last one overlaps the one before. Then some
    rows are computed twice, but every model takes the pieces.
    """

    rows: int
    largest: int
    smallest: int

    @property
    def count(self) -> int:
        return -(-self.rows // self.largest)

    @property
    def overlap(self) -> bool:
        return self.rows // self.count < self.smallest

    @property
    def total(self) -> int:
        """The rows of all pieces together."""
        return self.count * self.smallest if self.overlap else self.rows

    def cut(self, index: int) -> Cut:
        rows, count, smallest = self.rows, self.count, self.smallest
        if not self.overlap:
            return Cut(rows * index // count, rows * (index + 1) // count)
        if index < count - 1:
            return Cut(index * smallest, (index + 1) * smallest)
        return Cut(rows - smallest, rows)
