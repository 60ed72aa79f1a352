"""The resident memory of a server's processes while something goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from httpbench.servers import Running

EVERY_S, LOOK_AGAIN = 1.0, 10


def resident(processes: list[psutil.Process]) -> float:
    """MB of all together; pages that several share count for each."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


@contextmanager
def watched(server: Running) -> Iterator[list[float]]:
    """MB, once a second; complete after."""
    seen: list[float] = [resident(server.processes())]
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(EVERY_S):
            if len(seen) % LOOK_AGAIN == 1:
                processes[:] = server.processes()
            seen.append(resident(processes))

    processes = server.processes()
    watcher = threading.Thread(target=run)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()
        seen.append(resident(server.processes()))
