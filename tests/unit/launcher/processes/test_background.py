"""Work in threads of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from aoti_serve.launcher.processes.background import Heartbeat, in_background, is_done

# A child that asks the kernel to end it with the thread that has started it, as Ray's processes do.
CHILD = "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGKILL); print('up', flush=True); signal.pause()"


def test_what_it_raises_is_raised_again() -> None:
    work = in_background(lambda: 1 / 0)
    assert is_done(work, 30)
    with pytest.raises(ZeroDivisionError):
        work.result()


def test_it_is_done_when_it_has_returned() -> None:
    gate = threading.Event()
    work = in_background(gate.wait)
    assert not is_done(work, 0.01)
    gate.set()
    assert is_done(work, 30)
    assert work.result()


@pytest.mark.parametrize("parent", [False, True])
def test_the_children_of_a_parent_outlive_its_work(parent: bool) -> None:
    children = []

    def start() -> None:
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        children.append((child, child.stdout.readline()))

    assert is_done(in_background(start, parent=parent), 30)
    ((child, word),) = children
    assert word == "up\n"
    if not parent:
        assert child.wait(30) == -signal.SIGKILL
    os.kill(child.pid, 0) if parent else None
    child.kill()
    child.communicate()


def test_a_heartbeat_is_lost_when_an_answer_does_not_come() -> None:
    asked, never = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        never.wait()

    pulse = Heartbeat(ask, 0.2)
    pulse.start()
    assert asked.wait(10)
    while not pulse.lost():
        pass
    never.set()


def test_a_heartbeat_is_lost_when_asking_fails() -> None:
    pulse = Heartbeat(lambda: 1 / 0, 0.1)
    pulse.start()
    while not pulse.lost():
        pass


def test_a_heartbeat_is_not_lost_while_answers_come() -> None:
    answers = 0
    enough = threading.Event()

    def ask() -> None:
        nonlocal answers
        answers += 1
        if answers == 3:
            enough.set()

    pulse = Heartbeat(ask, 60)
    pulse.start()
    assert enough.wait(30)
    assert not pulse.lost()
