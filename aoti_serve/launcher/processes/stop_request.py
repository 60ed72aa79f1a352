"""What Ctrl-C, SIGTERM, and a terminal that goes away ask for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from aoti_serve.launcher.processes.background import BackgroundTask

STOP_POLL_S = 0.05


class StopRequest:
    """Once: stop. Twice: at once. `number` is the signal that asked first."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at_once = threading.Event()
        self.number = signal.SIGTERM

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    @property
    def at_once(self) -> bool:
        return self._at_once.is_set()

    def catch(self) -> None:
        """Take over the signals; again whenever somebody may have put in handlers of his own."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, lambda number, _: self.ask(number))

    def ask(self, number: int = signal.SIGTERM) -> None:
        if not self.asked:
            self.number = signal.Signals(number)
        (self._at_once if self.asked else self._asked).set()

    def wait(self, seconds: float) -> bool:
        """Until it is asked for; whether it was."""
        return self._asked.wait(seconds)

    def outlasts(self, work: BackgroundTask, seconds: float, hopeless: Callable[[], bool] = bool) -> bool:
        """Whether the work goes on when the time is over, it is hopeless, or it must be at once."""
        deadline = time.monotonic() + seconds
        while not work.wait(STOP_POLL_S) and time.monotonic() < deadline and not hopeless() and not self.at_once:
            pass
        return not work.done
