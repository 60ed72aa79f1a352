"""The processes that this process has started, directly or not, so that none of them outlives it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import psutil

LAST_WORDS_S = 1.0
HEAD = "gcs_server"


class ProcessTree:
    """All descendants that were ever seen, since Ray's processes lose their parents when Ray ends."""

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()
        self._heads: set[psutil.Process] = set()

    def update(self) -> None:
        """Add the processes that were started since the last call."""
        new = set(psutil.Process().children(recursive=True)) - self._seen
        self._seen |= new
        self._heads |= {process for process in new if _name(process) == HEAD}

    def alive(self) -> list[psutil.Process]:
        """This process and all descendants that still live."""
        return [psutil.Process(), *filter(_alive, self._seen)]

    @property
    def head_alive(self) -> bool:
        """True if the head of the Ray cluster that we started is alive, or if we started none."""
        return all(_alive(process) for process in self._heads)

    def end(self) -> None:
        """Kill all descendants that are left, after a moment in which they may end by themselves."""
        left = _left_after(LAST_WORDS_S, self._seen)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _left_after(LAST_WORDS_S, left)


def _left_after(seconds: float, processes: Collection[psutil.Process]) -> list[psutil.Process]:
    """Those that still live then, or when none is left."""
    try:
        left: list[psutil.Process] = psutil.wait_procs(processes, timeout=seconds)[1]
    except FileNotFoundError:  # pidfd_open() of a process that is being reaped, which psutil 7.2 does not expect
        return list(filter(_alive, processes))
    return left


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
