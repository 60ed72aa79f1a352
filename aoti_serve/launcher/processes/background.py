"""Asking Ray in threads: it may answer never, and in native code where no signal reaches it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


class BackgroundTask(threading.Thread):
    """Runs one function; what it raises is raised again by `result`. A daemon: it keeps no process from ending.

    The thread of a `parent` stays: Ray's processes ask the kernel for a SIGKILL when the thread that has started them
    is gone.
    """

    def __init__(self, work: Callable[[], object], *, parent: bool = False) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._parent = parent
        self._error: BaseException | None = None
        self._done = threading.Event()
        self.start()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Until it is done; whether it is."""
        return self._done.wait(seconds)

    def result(self) -> None:
        """For when it is done."""
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
        self._done.set()
        if self._parent:
            threading.Event().wait()


def leave(status: int) -> NoReturn:
    """End this process on the spot: Ray's own exit would wait for a head that is gone, for a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
