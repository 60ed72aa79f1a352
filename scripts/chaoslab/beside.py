"""What goes on beside the rest, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Loop = Callable[[threading.Event], object]  # goes on until the event is set


@contextmanager
def going_on(loop: Loop) -> Iterator[None]:
    """The loop goes on inside, and has ended afterwards."""
    stop = threading.Event()
    thread = threading.Thread(target=loop, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
