"""Asking Ray in threads: it may answer never, and in native code where no signal reaches it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


class Work(threading.Thread):
    """Runs one function; what it raises is raised again by `result`. A daemon: it keeps no process from ending."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """For when it has ended."""
        if self._error is not None:
            raise self._error


def leave(status: int) -> NoReturn:
    """End this process on the spot: Ray's own exit would wait for a head that is gone, for a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
