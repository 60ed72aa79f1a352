"""The runners' streams: whose stream a thread gets; and what is said where there is no card."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aoti_serve.model.device import cuda
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


@pytest.mark.parametrize(
    ("toolkit", "cards", "index", "problem"),
    [
        pytest.param(None, [], 0, r"the torch installed here \(.*\) has no CUDA", id="no-cuda"),
        pytest.param("CUDA 12.8", [], 0, r"torch .* \(CUDA 12.8\) sees no card", id="no-card"),
        pytest.param("CUDA 12.8", ["80", "90"], 2, "there is no card 2: torch sees 2", id="index"),
        pytest.param("CUDA 12.8", ["80", "90"], -1, "there is no card -1", id="negative"),
    ],
)
def test_a_card_that_is_not_here_is_missed(
    monkeypatch: pytest.MonkeyPatch, toolkit: str | None, cards: list[str], index: int, problem: str
) -> None:
    monkeypatch.setattr(cuda, "accelerator", lambda: toolkit)
    monkeypatch.setattr(cuda, "visible_cards", lambda: cards)
    assert re.match(problem, cuda.missing_card(index) or "")


def test_a_card_that_is_here_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "accelerator", lambda: "CUDA 12.8")
    monkeypatch.setattr(cuda, "visible_cards", lambda: ["80", "90"])
    assert cuda.missing_card(1) is None
