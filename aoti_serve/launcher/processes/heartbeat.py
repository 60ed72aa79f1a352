"""Heartbeat of a peer that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

INTERVAL_S = 0.5


class Heartbeat:
    """Calls `ask` again and again in a daemon thread. A call that hangs or fails does not keep this process alive."""

    def __init__(self, ask: Callable[[], object], patience_s: float) -> None:
        self._ask = ask
        self._patience_s = patience_s
        self._heard = time.monotonic()

    def start(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def lost(self) -> bool:
        """True if there has been no answer for longer than the patience allows."""
        return time.monotonic() - self._heard > self._patience_s

    def _listen(self) -> None:
        while not self.lost():
            try:
                self._ask()
            except Exception:
                return
            self._heard = time.monotonic()
            time.sleep(INTERVAL_S)
