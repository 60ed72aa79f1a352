"""A call that does not return is seen from another thread, and ends its process where nobody can see it."""

from __future__ import annotations

import subprocess
import sys
import threading

from aoti_serve.processor.watch import Watch

HOLDS_THE_GIL = """
from aoti_serve.processor import watch
watch.WATCHER_LATER_S = 0.0
with watch.Watch(0.2):
    sum(range(10**12))
"""


def test_it_tells_how_long_a_call_has_left_and_where_it_stands() -> None:
    watch, entered, leave = Watch(60.0), threading.Event(), threading.Event()

    def a_call_that_waits() -> None:
        with watch:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=a_call_that_waits)
    assert watch.left == 60.0
    thread.start()
    entered.wait()
    assert 0 < watch.left < 60.0
    assert "a_call_that_waits" in watch.stands
    leave.set()
    thread.join()
    assert watch.left == 60.0
    assert watch.stands == ""


def test_a_call_that_holds_the_gil_ends_its_process_and_says_where() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HOLDS_THE_GIL], check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "Timeout (0:00:00.200000)!" in ended.stderr
