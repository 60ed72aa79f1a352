"""One event loop per process, in a thread of its own, for blocking callers of asynchronous code."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_LOCK = threading.Lock()
_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}  # by process id: a forked process inherits no thread


def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in the event loop that this process shares, and return its result.

    The loop and its thread start with the first call and end with the process. If the wait is interrupted, by Ctrl-C
    for example, the work is cancelled.
    """
    future = asyncio.run_coroutine_threadsafe(work, _background_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _background_loop() -> asyncio.AbstractEventLoop:
    with _LOCK:
        if (loop := _LOOPS.get(os.getpid())) is None:
            loop = _LOOPS[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="aoti-serve-clients", daemon=True).start()
        return loop
