"""Ctrl-C once, and twice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from aoti_serve.launcher.processes.background import in_background
from aoti_serve.launcher.processes.stop_request import StopRequest


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield StopRequest()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_asks_and_the_second_means_at_once(stop: StopRequest) -> None:
    stop.catch()
    assert not stop.wait(0)
    signal.raise_signal(signal.SIGTERM)
    assert (stop.asked, stop.at_once, stop.wait(0)) == (True, False, True)
    signal.raise_signal(signal.SIGINT)
    assert (stop.asked, stop.at_once, stop.number) == (True, True, signal.SIGTERM)


def test_a_terminal_that_goes_away_asks_too_unless_it_is_not_to_matter(stop: StopRequest) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop.catch()
    signal.raise_signal(signal.SIGHUP)
    assert not stop.asked
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop.catch()
    signal.raise_signal(signal.SIGHUP)
    assert stop.asked


@pytest.fixture
def endless() -> Iterator[Future[bool]]:
    gate = threading.Event()
    work = in_background(gate.wait)
    yield work
    gate.set()
    work.result()


def test_work_is_waited_for_until_it_is_done_or_time_is_over_or_it_is_hopeless_or_must_be_at_once(
    stop: StopRequest, endless: Future[bool]
) -> None:
    assert not stop.outlasts(in_background(int), 30)
    assert stop.outlasts(endless, 0.01)
    assert stop.outlasts(endless, 30, lambda: True)
    stop.ask()
    stop.ask()
    assert stop.outlasts(endless, 30)
