"""Latencies as counts in buckets of an eighth of an octave, so that those of many gateways can be summed."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate
from operator import add, lt, sub
from typing import Annotated

from pydantic import Field

from aoti_serve.signature.tensors import Frozen

SHORTEST_S = 1e-4
PER_OCTAVE = 8
OCTAVES = 20
LAST_BUCKET = PER_OCTAVE * OCTAVES + 1
LONGEST_S = SHORTEST_S * 2**OCTAVES
# Bucket i holds what is at least _EDGES[i] and below _EDGES[i + 1]; the last one what is longer than the longest.
_EDGES = (0.0, *(SHORTEST_S * 2 ** (i / PER_OCTAVE) for i in range(LAST_BUCKET)))
_OF_SHORTEST = 1 / SHORTEST_S


def bucket_of(seconds: float) -> int:
    if seconds < SHORTEST_S:
        return 0
    return int(math.log2(seconds * _OF_SHORTEST) * PER_OCTAVE) + 1 if seconds < LONGEST_S else LAST_BUCKET


class LatencyCounts(Frozen):
    """`counts` has a number for each bucket: below 0.1 ms, 160 up to 105 s, and beyond."""

    counts: Annotated[tuple[int, ...], Field(min_length=LAST_BUCKET + 1, max_length=LAST_BUCKET + 1)] = (0,) * (
        LAST_BUCKET + 1
    )

    @property
    def total(self) -> int:
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Seconds within which the share `q` of the requests were answered; at most 9 % too long.

        None without requests; the longest that is told apart, 105 s, for what took longer.
        """
        total = self.total
        return self._at_rank(max(1, math.ceil(q * total))) if total else None

    def quantile_bound(self, q: float, z: float) -> float | None:
        """Seconds above which the true quantile does not lie, but by a chance of `z` standard deviations.

        An order statistic: of n requests the number of those below the true quantile is binomial, so that its rank is
        at most n q + z sqrt(n q (1 - q)). None if there are too few requests to have such a rank.
        """
        total = self.total
        rank = math.ceil(total * q + z * math.sqrt(total * q * (1 - q)))
        return self._at_rank(rank) if 0 < rank <= total else None

    def above(self, seconds: float) -> int:
        """How many took certainly longer; those in the bucket of `seconds` itself do not count."""
        return sum(self.counts[bisect_left(_EDGES, seconds) :])

    def __add__(self, other: LatencyCounts) -> LatencyCounts:
        return LatencyCounts(counts=tuple(map(add, self.counts, other.counts)))

    def __sub__(self, other: LatencyCounts) -> LatencyCounts:
        counts = tuple(map(sub, self.counts, other.counts))
        return LatencyCounts(counts=counts if min(counts) >= 0 else tuple(max(0, count) for count in counts))

    def has_fallen(self, earlier: LatencyCounts) -> bool:
        return any(map(lt, self.counts, earlier.counts))

    def _at_rank(self, rank: int) -> float:
        upto = next(bucket for bucket, count in enumerate(accumulate(self.counts)) if count >= rank)
        return _EDGES[min(upto + 1, LAST_BUCKET)]
