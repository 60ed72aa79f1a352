"""What a model did in the last seconds, from the totals that its gateway tells. Pure: totals and times in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

SPAN_S = 5.0  # gateways tell each other their counts so often


class Sample(NamedTuple):
    """Rates per second, latencies in milliseconds; None where nothing was answered or run."""

    requests: float
    p50: float | None
    p99: float | None
    rows: float | None
    waiting: float
    errors: float


class FiguresWindow:
    """Takes the answers of `/figures` one after the other."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, Any]] = deque()

    def take(self, found: Any, now: float) -> Sample | None:
        """What happened in the last `SPAN_S`; None for the first answer, also of another gateway."""
        if self._past and _starts_anew(self._past[-1][1], found):
            self._past.clear()
        self._past.append((now, found))
        while len(self._past) > 2 and now - self._past[1][0] >= SPAN_S:
            self._past.popleft()
        since, before = self._past[0]
        return _sample(before, found, now - since) if now > since else None


def _starts_anew(before: Any, after: Any) -> bool:
    other = before["gateway"] != after["gateway"] or (before["all"] is None) != (after["all"] is None)
    return other or after["answered"] < before["answered"]


def _sample(before: Any, after: Any, seconds: float) -> Sample:
    first, last = _totals(before), _totals(after)
    answered, failed, rows, runs = (last[name] - first[name] for name in ("answered", "failed", "rows", "runs"))
    bounds = after["latency"]["bounds"]
    pairs = zip(before["latency"]["counts"], after["latency"]["counts"], strict=True)
    counts = [count - earlier for earlier, count in pairs]
    return Sample(
        requests=(answered + failed) / seconds,
        p50=quantile(counts, bounds, 0.5),
        p99=quantile(counts, bounds, 0.99),
        rows=rows / runs if runs > 0 else None,
        waiting=after["waiting"],
        errors=failed / seconds,
    )


def _totals(found: Any) -> dict[str, int]:
    """Of all gateways, or of the one that has told them while there is no coordinator."""
    if found["all"] is not None:
        totals: dict[str, int] = found["all"]
        return totals
    return {"answered": found["answered"], "failed": sum(found["failed"].values()), "rows": 0, "runs": 0}


def quantile(counts: Sequence[int], bounds: Sequence[float], part: float) -> float | None:
    """In milliseconds, on the straight line through its bucket; None if nothing was counted."""
    left = part * sum(counts)
    low = 0.0
    for count, high in zip(counts, [*bounds, bounds[-1]], strict=True):
        if count and left <= count:
            return 1000 * (low + (high - low) * left / count)
        left -= count
        low = high
    return None
