"""Requests to stop: Ctrl-C, SIGTERM, and the hangup of a terminal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from aoti_serve.launcher.processes.background import is_done

STOP_POLL_S = 0.05


class StopRequest:
    """A request of the user to stop, which begins with the first signal, `number`. The second one sets `at_once`."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.at_once = False
        self.number = signal.SIGTERM

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def catch(self) -> None:
        """Install the signal handlers. To be called again after code that may have installed its own."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, lambda number, _: self.ask(number))

    def ask(self, number: int = signal.SIGTERM) -> None:
        if self.asked:
            self.at_once = True
        else:
            self.number = signal.Signals(number)
            self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Wait for a request, `seconds` at most. Returns true if there is one."""
        return self._asked.wait(seconds)

    def outlasts(self, work: Future[Any], seconds: float, hopeless: Callable[[], bool] = bool) -> bool:
        """Wait for `work`. Returns true if it was still running when the wait ended.

        The wait ends after `seconds`, when `hopeless` returns true, or with the second signal.
        """
        deadline = time.monotonic() + seconds
        while not is_done(work, STOP_POLL_S) and time.monotonic() < deadline and not hopeless() and not self.at_once:
            pass
        return not work.done()
