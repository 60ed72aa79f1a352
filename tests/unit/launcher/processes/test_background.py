"""Work in threads of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from aoti_serve.launcher.processes.background import BackgroundTask

# A child that asks the kernel to end it with the thread that has started it, as Ray's processes do.
CHILD = "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGKILL); print('up', flush=True); signal.pause()"


def test_what_it_raises_is_raised_again() -> None:
    work = BackgroundTask(lambda: 1 / 0)
    assert work.wait(30)
    with pytest.raises(ZeroDivisionError):
        work.result()


def test_it_is_done_when_it_has_returned() -> None:
    gate = threading.Event()
    work = BackgroundTask(gate.wait)
    assert not work.wait(0.01)
    gate.set()
    assert work.wait(30)
    work.result()


@pytest.mark.parametrize("parent", [False, True])
def test_the_children_of_a_parent_outlive_its_work(parent: bool) -> None:
    children = []

    def start() -> None:
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        children.append((child, child.stdout.readline()))

    work = BackgroundTask(start, parent=parent)
    assert work.wait(30)
    ((child, word),) = children
    assert word == "up\n"
    if not parent:
        assert child.wait(30) == -signal.SIGKILL
    os.kill(child.pid, 0) if parent else None
    child.kill()
    child.communicate()
