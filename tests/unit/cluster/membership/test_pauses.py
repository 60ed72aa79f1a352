"""A process that was stopped knows that it was."""

from __future__ import annotations

import asyncio
import time

from aoti_serve.cluster.membership.pauses import STOPPED_S, PauseDetector, boottime


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.woken = 0

    def __call__(self) -> float:
        return self.now

    def wake(self) -> None:
        self.woken += 1

    def detector(self) -> PauseDetector:
        made = PauseDetector(self.wake, self)
        made.learn(self.now)
        return made


def test_one_that_is_only_busy_stays_fresh() -> None:
    clock = Clock()
    made = clock.detector()
    clock.now += STOPPED_S
    assert made.fresh
    assert clock.woken == 0


def test_one_that_was_stopped_is_not_fresh_until_it_has_asked_again() -> None:
    clock = Clock()
    made, asked = clock.detector(), clock.now
    clock.now += 60
    assert not made.fresh
    assert clock.woken == 1
    made.learn(asked)  # the answer to a question from before may be as old
    assert not made.fresh
    made.learn(clock.now)
    assert made.fresh


async def test_what_needs_news_waits_for_it() -> None:
    clock = Clock()
    made = clock.detector()
    await made.refreshed()
    clock.now += 60
    waiting = asyncio.create_task(made.refreshed())
    await asyncio.sleep(0)
    assert not waiting.done()
    made.learn(clock.now)
    await waiting


def test_the_clock_goes_on_while_the_machine_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)
