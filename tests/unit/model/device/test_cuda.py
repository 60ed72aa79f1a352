"""The runners' streams: whose stream a thread gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aoti_serve.model.device.cuda import StreamPool

RUNNERS = 4


class Streams(StreamPool):
    """A pool of names in place of streams."""

    def __init__(self, count: int) -> None:
        names: Any = [f"stream {number}" for number in range(count)]
        super().__init__(names)


@pytest.fixture
def runners() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(RUNNERS) as pool:
        yield pool


def test_as_many_threads_as_streams_make_as_many_pairs(runners: ThreadPoolExecutor) -> None:
    """cuBLAS keeps a workspace for each pair, so a thread that went through all streams would hold one for each."""
    streams, met = Streams(RUNNERS), set()
    together = threading.Barrier(RUNNERS)

    def run(turn: int) -> None:
        together.wait()
        stream = streams.take()
        met.add((threading.get_ident(), stream))
        together.wait()
        streams.give_back(stream)

    for turn in range(10):
        list(runners.map(run, [turn] * RUNNERS))
    assert len(met) == RUNNERS


def test_threads_that_run_one_after_the_other_have_a_stream_each() -> None:
    streams, given = Streams(2), []

    def run() -> None:
        for _ in range(3):
            stream = streams.take()
            given.append(stream)
            streams.give_back(stream)

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert given == ["stream 0"] * 3 + ["stream 1"] * 3


def test_a_thread_whose_stream_is_busy_gets_an_idle_one_and_later_its_own_again() -> None:
    streams = Streams(2)
    first = streams.take()
    borrowed = streams.take()  # this thread's own is taken: by itself, which stands for another thread
    assert first != borrowed
    streams.give_back(borrowed)
    streams.give_back(first)
    assert streams.take() == first
