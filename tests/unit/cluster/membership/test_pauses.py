"""A process that was stopped knows that it was."""

from __future__ import annotations

import asyncio

import pytest

from aoti_serve.cluster.membership import pauses as wakefulness
from aoti_serve.cluster.membership.pauses import STOPPED_S, PauseDetector


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(wakefulness, "time", made)
    return made


def test_one_that_is_only_busy_stays_fresh(clock: Clock) -> None:
    made = PauseDetector()
    made.learnt(clock.now)
    clock.now += STOPPED_S
    assert made.fresh


def test_one_that_was_stopped_is_not_fresh_until_it_has_asked_again(clock: Clock) -> None:
    made = PauseDetector()
    made.learnt(clock.now)
    asked = clock.now
    clock.now += 60
    assert not made.fresh
    made.learnt(asked)  # the answer to a question from before may be as old
    assert not made.fresh
    made.learnt(clock.now)
    assert made.fresh


async def test_whoever_needs_news_waits_for_it(clock: Clock) -> None:
    made = PauseDetector()
    made.learnt(clock.now)
    await made.refreshed()
    clock.now += 60
    waiting = asyncio.create_task(made.refreshed())
    await asyncio.sleep(0)
    assert not waiting.done()
    made.learnt(clock.now)
    await waiting
