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
        self._past: dict[str, deque[tuple[float, Any]]] = {}  # by gateway: of several, any may take a connection

    def take(self, found: Any, now: float) -> Sample | None:
        """What happened in the last `SPAN_S`; None for the first answer of a gateway, or after a restart."""
        self._past = {gateway: past for gateway, past in self._past.items() if now - past[-1][0] <= SPAN_S}
        past = self._past.setdefault(found["gateway"], deque())
        if past and _starts_anew(past[-1][1], found):
            past.clear()
        past.append((now, found))
        while len(past) > 2 and now - past[1][0] >= SPAN_S:
            past.popleft()
        since, before = past[0]
        return _sample(before, found, now - since) if now > since else None


def _starts_anew(before: Any, after: Any) -> bool:
    fewer = after["answered"] < before["answered"]
    return fewer or (_are_of_all(before, after) and after["all"]["answered"] < before["all"]["answered"])


def _are_of_all(before: Any, after: Any) -> bool:
    return before["all"] is not None and after["all"] is not None


def _sample(before: Any, after: Any, seconds: float) -> Sample:
    of_all = _are_of_all(before, after)
    first, last = (found["all"] if of_all else _own_totals(found) for found in (before, after))
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


def _own_totals(found: Any) -> dict[str, int]:
    """Of the gateway that has told them: while there is no coordinator it knows no others'."""
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
