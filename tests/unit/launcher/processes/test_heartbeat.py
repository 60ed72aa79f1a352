"""Whether something still answers."""

from __future__ import annotations

import threading

from aoti_serve.launcher.processes.heartbeat import Heartbeat


def test_it_is_lost_when_an_answer_does_not_come() -> None:
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


def test_it_is_lost_when_asking_fails() -> None:
    pulse = Heartbeat(lambda: 1 / 0, 0.1)
    pulse.start()
    while not pulse.lost():
        pass


def test_it_is_not_lost_while_answers_come() -> None:
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
