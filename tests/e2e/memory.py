"""How much memory processes have for themselves, while a test runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

LOOK_S = 0.1


class MemoryGrowth:
    """The most that each process has had for itself, beyond what it had first, in bytes: shared pages do not count."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._first = {process: _own(process) for process in map(psutil.Process, pids)}
        self._most = dict(self._first)

    @property
    def bytes(self) -> list[int]:
        return [most - self._first[process] for process, most in self._most.items()]

    def look(self) -> None:
        for process, most in self._most.items():
            self._most[process] = max(most, _own(process))


@contextmanager
def memory_growth(pids: Iterable[int]) -> Iterator[MemoryGrowth]:
    """Of these processes, ten times a second; they may not end meanwhile."""
    growth, done = MemoryGrowth(pids), threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            growth.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield growth
    finally:
        done.set()
        thread.join()
    growth.look()


def _own(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)
