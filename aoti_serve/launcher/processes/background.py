"""Calls to Ray in threads: a call may never return, or hang in native code that no signal interrupts."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import NoReturn, TypeVar

HEARTBEAT_INTERVAL_S = 0.5

T = TypeVar("T")


def in_background(work: Callable[[], T], *, parent: bool = False) -> Future[T]:
    """Run `work` in a daemon thread, which does not keep this process alive.

    The thread of a `parent` stays alive until the process ends: the kernel kills Ray's processes when the thread that
    started them is gone.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        if parent:
            threading.Event().wait()

    threading.Thread(target=run, daemon=True).start()
    return future


def is_done(work: Future[T], seconds: float) -> bool:
    """Wait until `work` is done, `seconds` at most. Returns true if it is."""
    return bool(wait([work], seconds).done)


class Heartbeat:
    """Calls `ask` again and again in a daemon thread. A call that hangs or fails does not keep this process alive."""

    def __init__(self, ask: Callable[[], object], patience_s: float) -> None:
        self._ask = ask
        self._patience_s = patience_s
        self._heard = time.monotonic()

    def start(self) -> None:
        in_background(self._listen)

    def lost(self) -> bool:
        """True if there has been no answer for longer than the patience allows."""
        return time.monotonic() - self._heard > self._patience_s

    def _listen(self) -> None:
        while not self.lost():
            self._ask()
            self._heard = time.monotonic()
            time.sleep(HEARTBEAT_INTERVAL_S)


def leave(status: int) -> NoReturn:
    """End this process at once. Ray's own exit would wait a minute for a head that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
