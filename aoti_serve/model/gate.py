"""Entry to a container: at most `slots` runs at a time, in order of arrival, and none while it is closed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """A counting semaphore that gives a free slot to the run that waits longest, and that can be closed.

    The runtime's own lock lets readers overtake the writer, so a swap under load starves for seconds
    (upstream #144459). Here closing stops entry first, then waits for the runs in flight. Thread-safe.
    """

    def __init__(self, slots: int) -> None:
        self._lock = threading.Lock()
        self._free = slots
        self._slots = slots
        self._closed = False
        self._waiting: deque[threading.Event] = deque()
        self._drained = threading.Condition(self._lock)
        self._closing = threading.Lock()

    def __enter__(self) -> None:
        """Take a slot for the length of a run; waits for one."""
        with self._lock:
            if self._free and not self._closed and not self._waiting:
                self._free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:
            self._give_up(turn)
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._leave()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Hold the gate closed with no run inside: for the length of a flip. One closer at a time."""
        with self._closing:
            try:
                with self._lock:
                    self._closed = True
                    self._drained.wait_for(lambda: self._free == self._slots)
                yield
            finally:
                with self._lock:
                    self._closed = False
                    self._admit()

    def _admit(self) -> None:
        while self._waiting and self._free and not self._closed:
            self._free -= 1
            self._waiting.popleft().set()

    def _give_up(self, turn: threading.Event) -> None:
        """Leave after an interruption: a slot may have been given in the meantime."""
        with self._lock:
            if turn.is_set():
                self._leave()
            else:
                self._waiting.remove(turn)

    def _leave(self) -> None:
        self._free += 1
        self._admit()
        if self._closed:
            self._drained.notify_all()
