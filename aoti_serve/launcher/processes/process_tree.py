"""The processes that this one has started, directly or not; so that none of them outlives it."""

from __future__ import annotations

from contextlib import suppress

import psutil

LAST_WORDS_S = 1.0
HEAD = "gcs_server"


class ProcessTree:
    """All descendants that were ever seen: those of Ray lose their parents when it ends."""

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()
        self._heads: set[psutil.Process] = set()

    def see(self) -> None:
        """Take in what has been started since."""
        new = set(psutil.Process().children(recursive=True)) - self._seen
        self._seen |= new
        self._heads |= {process for process in new if _name(process) == HEAD}

    def alive(self) -> list[psutil.Process]:
        """This process and those of the others that live."""
        return [psutil.Process(), *filter(_alive, self._seen)]

    @property
    def whole(self) -> bool:
        """Whether the head of the Ray cluster that we have started, if any, is alive."""
        return all(_alive(process) for process in self._heads)

    def end(self) -> None:
        """Kill whoever is left, after a moment to end by themselves."""
        left = psutil.wait_procs(self._seen, timeout=LAST_WORDS_S)[1]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=LAST_WORDS_S)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
