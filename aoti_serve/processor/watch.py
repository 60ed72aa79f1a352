"""Ends a process whose call does not return.

The event loop sees it first, and can tell why. Code that holds the GIL stops the event loop as well: then a thread of
the interpreter's own, which needs no GIL, writes where the call stands, and ends the process.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
import traceback
from types import TracebackType

STDERR = 2
WATCHER_LATER_S = 1.0  # in which the event loop may still tell why


class Watch:
    """A context around each call, which may take `seconds`. Entered in one thread, read in another."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None
        self._thread = 0

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._end = time.monotonic() + self._seconds
        faulthandler.dump_traceback_later(self._seconds + WATCHER_LATER_S, exit=True, file=STDERR)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._end = None

    @property
    def left(self) -> float:
        """The seconds that the call under way still has, 0 or less if it is late; all of them between calls."""
        end = self._end
        return self._seconds if end is None else end - time.monotonic()

    @property
    def stands(self) -> str:
        """Where the call under way stands, as a traceback."""
        frame = sys._current_frames().get(self._thread)
        return "".join(traceback.format_stack(frame)) if frame else ""
