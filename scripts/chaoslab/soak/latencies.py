"""How long answers took, by minute."""

from __future__ import annotations

import threading
import time
from array import array

import numpy as np


class Latencies:
    """Hears of every answer, in milliseconds; thread-safe. Minute 0 begins when this is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._minutes: list[array[float]] = [array("f")]

    def take(self, milliseconds: float) -> None:
        minute = int((time.monotonic() - self._began) // 60)
        with self._lock:
            while len(self._minutes) <= minute:
                self._minutes.append(array("f"))
            self._minutes[minute].append(milliseconds)

    def by_minute(self) -> list[dict[str, float]]:
        """Requests, p50, p99 and the slowest of each minute; a minute without any is left out."""
        with self._lock:
            minutes = [np.array(minute) for minute in self._minutes]
        return [_row(number, minute) for number, minute in enumerate(minutes, 1) if len(minute)]


def _row(number: int, milliseconds: np.ndarray[tuple[int], np.dtype[np.float32]]) -> dict[str, float]:
    p50, p99, slowest = np.percentile(milliseconds, [50, 99, 100])
    figures = {"p50_ms": p50, "p99_ms": p99, "slowest_ms": slowest}
    return {"minute": number, "requests": len(milliseconds)} | {name: round(float(f), 1) for name, f in figures.items()}
