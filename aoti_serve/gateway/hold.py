"""The last free runner waits a moment for those who are about to come back, where that pays."""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aoti_serve.gateway.cost import Cost
from aoti_serve.gateway.returns import Expected, Returns

WORTH = 0.95  # of the time without it: less is within what is measured wrongly
PATIENCE = 4.0  # times what is expected
TICK_S = 1e-3  # uvloop's timers go off by so much earlier or later
LONGEST_PAUSE = 255  # occasions
LOOK = 64  # occasions


class Plan(NamedTuple):
    """To wait until `rows` wait, for `seconds` at most, and then to be answered within `run` seconds."""

    rows: int
    seconds: float
    run: float


def plan(rows: int, largest: int, expected: Sequence[Expected], cost: Cost) -> Plan | None:
    """What is best for all: `rows`, which could run now, and those that are expected, who run after them or with them.

    The time in which all of them are answered counts: in a closed loop that is the time of a turn, and so everybody's
    latency and the throughput as well. None if they should run now.
    """
    if not expected:
        return None
    everybody = expected[-1].rows
    apart = cost.seconds(rows) + cost.seconds(everybody)
    shortest, best = WORTH * apart, None
    for back, seconds in expected:
        company = min(back, largest - rows)
        run = cost.seconds(rows + company)
        together = run + cost.seconds(everybody - company)
        if seconds + together < shortest:
            shortest = seconds + together
            best = Plan(rows + company, min(apart - together, max(PATIENCE * seconds, TICK_S)), run)
    return best


class Hold:
    """In the gateway's event loop. The batcher asks before each batch that would leave for the last free runner.

    The rows that it waits for end it; a timer, which calls `over`, is only there if they do not come. After a hold that
    has gone wrong the next occasions are passed over: about twice as many as the last time, and half as many after each
    that went well. Every `LOOK`th occasion is passed over as well, so that costs without it are measured again.
    """

    def __init__(self, largest: int, cost: Cost, returns: Returns, over: Callable[[], None]) -> None:
        self._largest = largest
        self._cost = cost
        self._returns = returns
        self._over = over
        self._plan: Plan | None = None
        self._until = 0.0
        self._timer: TimerHandle | None = None
        self._pause = self._pass = self._occasions = 0

    def lasts(self, rows: int, now: float, deadline: float, loop: AbstractEventLoop) -> bool:
        """Whether these rows, all of one shape, wait on; whoever waits must be answered by `deadline`."""
        if self._plan is None:
            return self._returns.out > 0 and self._begins(rows, now, deadline, loop)
        if rows >= self._plan.rows:
            self._pause //= 2
            self.end()
        elif now >= self._until:
            self._went_wrong()
        elif deadline < self._until + 2 * TICK_S + self._plan.run:
            self.end()
        return self._plan is not None

    def end(self) -> None:
        """There is a reason that says nothing of the next one: another runner is free, another shape has come."""
        self._plan = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begins(self, rows: int, now: float, deadline: float, loop: AbstractEventLoop) -> bool:
        found = plan(rows, self._largest, self._returns.expected(now), self._cost)
        if found is None or deadline < now + found.seconds + 2 * TICK_S + found.run or not self._now():
            return False
        self._plan = found
        self._until = now + found.seconds
        self._timer = loop.call_at(self._until + TICK_S, self._fired)
        return True

    def _now(self) -> bool:
        """Whether this occasion is one to be taken."""
        if self._pass:
            self._pass -= 1
            return False
        self._occasions += 1
        return self._occasions % LOOK > 0

    def _fired(self) -> None:
        self._timer = None
        self._went_wrong()
        self._over()

    def _went_wrong(self) -> None:
        self._pass = self._pause = min(2 * self._pause + 1, LONGEST_PAUSE)
        self._returns.forget()
        self.end()
