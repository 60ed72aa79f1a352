"""The steps of a rollout, each struck; the rollout must end as it would have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from aoti_serve.weights.swap.members import ENDED_S
from chaoslab.changes import POLL_S, RECOVERY_S, Lost
from chaoslab.connections import Cut, Refused
from chaoslab.face import Status, in_phase
from chaoslab.lab import Lab
from chaoslab.model import values_in
from chaoslab.moments import ABORTING, COMMITTING, REACH_S, STAGING, Missed, frozen, in_commit
from chaoslab.trials.candidate import Candidate
from chaoslab.trials.stages import Stage, candidate_tried, make_struck
from chaoslab.trials.strikes import Strike

RULES = {"error_rate": None, "p99": None, "non_finite": "any"}
PLAN: dict[str, Any] = {
    "canary": ["50%"],
    "shadow": "25%",
    "each": "3s",
    "min_requests": 20,
    "if_undecided": "hold",
    "watch": "3s",
    "abort_if": RULES,
}
LONG = "300s"
LAST_S = 1.5  # of a step: the commit is near
IN_FORCE_S = 5.0
MANY = 50  # requests of the active version, which show that its answers are finite
KEYS = 64
ASKED = 6


def staging(lab: Lab, strike: Strike) -> None:
    """It is promoted if it has become a candidate, and else nothing has changed."""
    with candidate_tried(lab, strike) as candidate:
        before = lab.quiet()["epoch"]
        with ExitStack() as undo:
            make_struck(lab, strike, STAGING, partial(candidate.roll_out, **PLAN), undo)
            over(lab)
        after = lab.quiet()["epoch"]
        if after != before + candidate.is_current():
            raise Lost(f"epoch {before} became {after}, and {candidate.value} is current: {candidate.is_current()}")


def step(lab: Lab, strike: Strike) -> None:
    """It passes the step all the same."""
    with _rolled_out(lab, strike, each="6s") as candidate:
        _reached(lab, _in_phase("trying"))
        _struck(lab, strike)
        _ends_as(lab, candidate, current=True)


def promotion(lab: Lab, strike: Strike) -> None:
    """It is committed, and watched."""
    with _rolled_out(lab, strike) as candidate:
        _reached(lab, lambda status: _in_phase("trying")(status) and status["rollout"]["seconds_left"] < LAST_S)
        _struck_in(lab, strike, COMMITTING)
        _ends_as(lab, candidate, current=True)


def watch(lab: Lab, strike: Strike) -> None:
    """It stays."""
    with _rolled_out(lab, strike, watch="8s") as candidate:
        _reached(lab, _in_phase("watching"))
        _struck(lab, strike)
        _ends_as(lab, candidate, current=True)


def rollback(lab: Lab, strike: Strike) -> None:
    """One infinite answer in the watch rolls it back; struck before the commit point of that."""
    with _rolled_out(lab, strike, watch=LONG) as candidate:
        _reached(lab, _in_phase("watching"))
        _struck_in(lab, strike, STAGING, breach=partial(_breach, lab, candidate, "anybody"))
        _ends_as(lab, candidate, current=False)


def rollback_commit(lab: Lab, strike: Strike) -> None:
    """The same, past the commit point."""
    with _rolled_out(lab, strike, watch=LONG) as candidate:
        _reached(lab, _in_phase("watching"))
        with ExitStack() as undo:
            with in_commit(lab, partial(_breach, lab, candidate, "anybody")):
                lab.strike(lambda: undo.enter_context(strike.cause(lab)))
            _in_force(lab, strike)
        _ends_as(lab, candidate, current=False)


def withdrawal(lab: Lab, strike: Strike) -> None:
    """One infinite answer of the canary withdraws it."""
    with _rolled_out(lab, strike, each=LONG) as candidate:
        _reached(lab, lambda status: _in_phase("trying")(status) and status["trial"]["active"]["requests"] > MANY)
        _struck_in(lab, strike, ABORTING, breach=partial(_breach, lab, candidate, _key_of(lab, candidate)))
        _ends_as(lab, candidate, current=False)


def over(lab: Lab) -> None:
    """Return when no rollout is on, and no candidate out; nothing that happens meanwhile is judged before.

    Raises Lost.
    """
    status: Status = {}
    limit = RECOVERY_S + ENDED_S  # a commit is settled when a lost node is known to be gone
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            status = lab.face.status()
            on = status["rollout"] and status["rollout"]["outcome"] is None
            if not on and not status["swap"] and not status["candidate"] and status["settled"]:
                return
        time.sleep(POLL_S)
    raise Lost(f"the rollout has not ended in {limit:g} s: {status}")


@contextmanager
def _rolled_out(lab: Lab, strike: Strike, **changes: Any) -> Iterator[Candidate]:
    with candidate_tried(lab, strike) as candidate:
        if (outcome := candidate.roll_out(**PLAN | changes)) != "candidate":
            raise Lost(f"a rollout of {candidate.value} should have begun: {outcome}")
        yield candidate


def _struck(lab: Lab, strike: Strike) -> None:
    with ExitStack() as undo:
        lab.strike(lambda: undo.enter_context(strike.cause(lab)))
        _in_force(lab, strike)


def _struck_in(lab: Lab, strike: Strike, phase: str, breach: Callable[[], object] | None = None) -> None:
    """Strike while the rollout's own change is in this phase, which one stopped replica holds.

    `breach` makes the rollout begin that change; without it, it begins by itself.
    """
    with ExitStack() as undo, ThreadPoolExecutor(1) as pool:
        with frozen(lab.rng.choice(lab.replica_pids())):
            if breach is not None:
                pool.submit(breach)
            if not strike.early and not lab.events.at(in_phase(phase)).wait(REACH_S):
                raise Missed(phase)
            lab.strike(lambda: undo.enter_context(strike.cause(lab)))
        _in_force(lab, strike)


def _in_force(lab: Lab, strike: Strike) -> None:
    """The strike goes on until the rollout has ended; one that keeps everything from going on ends before."""
    if strike.early:
        time.sleep(IN_FORCE_S)
    else:
        over(lab)


def _breach(lab: Lab, candidate: Candidate, key: str) -> str:
    """Ask for what is infinite of the candidate alone; some of the requests may wait for a stopped replica."""
    least = np.finfo(np.float32).max / (candidate.value - 0.5)  # values grow: those before it stay finite
    with ThreadPoolExecutor(ASKED) as pool:
        for _ in range(ASKED):
            pool.submit(_ask_for_infinity, lab, np.full((1, 1), least, np.float32), key)
    return "asked"


def _ask_for_infinity(lab: Lab, x: NDArray[np.float32], key: str) -> None:
    with suppress(Cut, Refused):
        lab.traffic.ask(x, key)


def _ends_as(lab: Lab, candidate: Candidate, *, current: bool) -> None:
    """The outcome is decided before it is carried out, which a full disk delays."""
    over(lab)
    ending = f"end of the rollout of {candidate.value} in which it is {'' if current else 'not '}current"
    lab.wait_until(lambda: candidate.is_current() == current, ending)
    lab.settle()


def _key_of(lab: Lab, candidate: Candidate) -> str:
    """The key of a client whom the candidate answers."""
    x = np.ones((1, 1), np.float32)
    for key in map(str, range(KEYS)):
        if values_in(x, lab.traffic.ask(x, key)[1]) == {candidate.value}:
            return key
    raise Lost(f"none of {KEYS} keys falls to candidate {candidate.value}, half of them should")


def _in_phase(phase: str) -> Callable[[Status], bool]:
    return lambda status: bool(status["rollout"]) and status["rollout"]["phase"] == phase and not status["swap"]


def _reached(lab: Lab, fits: Callable[[Status], bool]) -> None:
    if not lab.events.at(fits).wait(REACH_S):
        raise Lost(f"a step of the rollout did not come in {REACH_S:g} s: {lab.face.status()['rollout']}")


STAGES: dict[str, Stage] = {
    "rollout-staging": staging,
    "rollout-step": step,
    "rollout-promotion": promotion,
    "rollout-watch": watch,
    "rollout-rollback": rollback,
    "rollout-rollback-commit": rollback_commit,
    "rollout-withdrawal": withdrawal,
}
