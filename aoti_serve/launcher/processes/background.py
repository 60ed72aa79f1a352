"""Calls to Ray in threads: a call may never return, or hang in native code that no signal interrupts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


class BackgroundTask(threading.Thread):
    """Runs one function in a daemon thread; `result` raises what the function raised.

    The thread of a `parent` stays alive until the process ends: the kernel kills Ray's processes when the thread that
    started them is gone.
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
        """Wait until the function has returned, `seconds` at most. Returns true if it has."""
        return self._done.wait(seconds)

    def result(self) -> None:
        """Raise what the function raised, if anything. To be called once it is done."""
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
    """End this process at once. Ray's own exit would wait a minute for a head that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
