"""Holding: the last free runner waits a moment for clients that are about to come back, where that pays."""

from __future__ import annotations

import math
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

from aoti_serve.gateway.batching.backlog import Backlog
from aoti_serve.gateway.batching.measured.cost import Cost
from aoti_serve.gateway.batching.measured.returns import Expected, Returns

WORTH = 0.95  # of the time without a hold: a smaller gain may be an error of measurement
LONGEST_HOLD = 4.0  # times the expected
HOLD_TICK_S = 1e-3  # uvloop's timers fire by so much earlier or later
STAKE = 0.02  # of the time that batches take may be lost
SAVED = 4.0  # batches: their time is the most that may be lost at once
LOOK = 64  # occasions


class HoldPlan(NamedTuple):
    """A plan to hold a runner until `target` rows wait, for `seconds` at most. The run after it takes `run` seconds.

    When it was made, `waiting` rows waited, and `everybody` more rows were expected.
    """

    waiting: int
    everybody: int
    target: int
    seconds: float
    run: float


def time_saved(waiting: int, company: int, everybody: int, cost: Cost) -> float:
    """The seconds saved if `company` of the expected rows run with the waiting ones, and not all of them after."""
    together = cost.seconds(waiting + company) + cost.seconds(everybody - company)
    return cost.seconds(waiting) + cost.seconds(everybody) - together


def plan_hold(waiting: int, largest: int, everybody: int, expected: Sequence[Expected], cost: Cost) -> HoldPlan | None:
    """The best plan for the waiting rows; None if they should run now. `everybody` is how many rows may come back.

    The best plan answers all of them soonest. In a closed loop that time is one turn, and so the latency of all clients
    and the throughput as well. Clients that run together ask again together, and the runner waits for all of them each
    time; of two groups, one comes back while the other runs.
    """
    if not expected:  # as in most cases: then no cost is asked for, since that takes longest
        return None
    most = (1 - WORTH) * (cost.seconds(waiting) + cost.seconds(everybody))
    best = None
    for back, seconds, again in expected:
        company = min(back, largest - waiting)
        saved = time_saved(waiting, company, everybody, cost)
        if saved - max(seconds, again) > most:
            most = saved - max(seconds, again)
            limit = min(saved, max(LONGEST_HOLD * seconds, HOLD_TICK_S))
            best = HoldPlan(waiting, everybody, waiting + company, limit, cost.seconds(waiting + company))
    return best


class Hold:
    """Decides before each batch that would leave for the last free runner. Lives in the gateway's event loop.

    The expected rows end a hold; a timer, which calls `over`, fires only if they do not come. An account limits the
    cost of wrong estimates. It is credited with a `STAKE` of the time of each batch, and with the time that each hold
    has saved beyond its own; no hold begins that the account could not pay for. Every `LOOK`th occasion is skipped, so
    that costs without a hold are measured again.
    """

    def __init__(self, largest: int, backlog: Backlog, cost: Cost, returns: Returns, over: Callable[[], None]) -> None:
        self._largest = largest
        self._backlog = backlog
        self._cost = cost
        self._returns = returns
        self._over = over
        self.plan: HoldPlan | None = None
        self._began = self._until = 0.0
        self._timer: TimerHandle | None = None
        self._account = math.inf  # until the first balance: credit to begin with
        self._credited = 0.0
        self._occasions = count(1)

    def lasts(self, free: int, now: float, deadline: float, loop: AbstractEventLoop) -> bool:
        """True if the waiting rows stay for others, with `free` runners. They must be answered by `deadline`."""
        rows, plan = self._backlog.rows, self.plan
        if rows >= self._largest or free != 1 or self._backlog.shapes != 1:
            self._end(now)
        elif plan is None:
            return self._returns.out > 0 and self._begins(rows, now, deadline, loop)
        else:
            late = now >= self._until
            if late or rows >= plan.target or deadline < self._until + 2 * HOLD_TICK_S + plan.run:
                self._end(now)
            if late:
                self._returns.forget()
        return self.plan is not None

    def _end(self, now: float) -> None:
        plan, self.plan = self.plan, None
        if plan is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        company = min(max(0, self._backlog.rows - plan.waiting), plan.everybody)
        # If clients have gone instead of coming back, nothing ends the hold in time.
        lasted = min(now - self._began, plan.seconds + 2 * HOLD_TICK_S)
        self._account += time_saved(plan.waiting, company, plan.everybody, self._cost) - lasted

    def _begins(self, rows: int, now: float, deadline: float, loop: AbstractEventLoop) -> bool:
        found = plan_hold(rows, self._largest, self._returns.out, self._returns.expected(rows, now), self._cost)
        if found is None or deadline < now + found.seconds + 2 * HOLD_TICK_S + found.run:
            return False
        if found.seconds + HOLD_TICK_S > self._balance():
            return False
        if next(self._occasions) % LOOK == 0:
            return False
        self.plan = found
        self._began, self._until = now, now + found.seconds
        self._timer = loop.call_at(self._until + HOLD_TICK_S, self._on_timer)
        return True

    def _balance(self) -> float:
        credit, self._credited = self._cost.spent - self._credited, self._cost.spent
        self._account = min(self._account + STAKE * credit, SAVED * self._cost.seconds(self._largest))
        return self._account

    def _on_timer(self) -> None:
        self._until = 0.0
        self._over()
