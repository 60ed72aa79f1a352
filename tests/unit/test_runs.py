"""On which thread batches run."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from aoti_serve.cluster.runs import RECENT, SHORT_S, SMALL_BYTES, Runs
from aoti_serve.link.messages import Answer, Batch

SMALL = Batch([np.zeros(8, np.float32)], fence=0)
LARGE = Batch([np.zeros(SMALL_BYTES + 1, np.uint8)], fence=0)


class Model:
    """Notes the thread of each run; the next ones take as long, by its own clock, as they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.threads: list[threading.Thread] = []
        self._now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self._now)

    def __call__(self, batch: Batch, deadline: float | None) -> Answer:
        self.threads.append(threading.current_thread())
        self._now += self.seconds
        return Answer(1, 1, list(batch.arrays))

    @property
    def stayed(self) -> list[bool]:
        return [thread is threading.current_thread() for thread in self.threads]


async def answered(runs: Runs, *batches: Batch) -> None:
    for batch in batches:
        await runs.answer(batch, None)


async def test_short_runs_stay_on_the_loop_once_they_are_known_to_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(monkeypatch)
    await answered(Runs(1, model), *[SMALL] * (RECENT + 1))
    assert model.stayed == [*[False] * RECENT, True]


async def test_one_long_run_sends_the_next_ones_to_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(monkeypatch)
    runs = Runs(1, model)
    await answered(runs, *[SMALL] * RECENT)
    model.seconds = SHORT_S
    await answered(runs, SMALL, SMALL)
    assert model.stayed[-2:] == [True, False]


@pytest.mark.parametrize(("runners", "batch"), [(2, SMALL), (1, LARGE)], ids=["several runners", "a large batch"])
async def test_what_may_hold_others_up_never_stays(runners: int, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(monkeypatch)
    await answered(Runs(runners, model), *[batch] * 2 * RECENT)
    assert not any(model.stayed)


async def test_nothing_stays_while_a_thread_has_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    model, go = Model(monkeypatch), threading.Event()

    def held(batch: Batch, deadline: float | None) -> Answer:
        if batch is LARGE:
            go.wait()
        return model(batch, deadline)

    runs = Runs(1, held)
    await answered(runs, *[SMALL] * RECENT)
    first = asyncio.create_task(runs.answer(LARGE, None))
    await asyncio.sleep(0)
    second = asyncio.create_task(runs.answer(SMALL, None))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, second)
    assert model.stayed[-2:] == [False, False]
