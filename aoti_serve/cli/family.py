"""The processes that this one has started, directly or not; so that none of them outlives it."""

from __future__ import annotations

import signal
from collections.abc import Collection
from contextlib import suppress

import psutil

LAST_WORDS_S = 1.0
HEAD = "gcs_server"
HAPROXY, HAPROXY_S = "haproxy", 0.3


class Family:
    """All descendants that were ever seen. HAProxy loses its parents when Ray ends, and would keep the ports."""

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

    def end_haproxy(self) -> None:
        """Have it take no more connections, and end it after a moment for what it is about to say."""
        self.see()
        found = [process for process in self._seen if _name(process) == HAPROXY]
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGUSR1)
        _kill_after(HAPROXY_S, found)

    def end(self) -> None:
        """Kill whoever is left, after a moment to end by themselves."""
        killed = _kill_after(LAST_WORDS_S, self._seen)
        psutil.wait_procs(killed, timeout=LAST_WORDS_S)


def _kill_after(seconds: float, processes: Collection[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended by themselves by then."""
    alive: list[psutil.Process] = psutil.wait_procs(processes, timeout=seconds)[1]
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return alive


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
