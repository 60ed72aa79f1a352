"""Acting at a chosen moment of a swap: what holds a phase open, and what is done then."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress

from chaoslab.changes import Lost
from chaoslab.face import has_staged, in_phase
from chaoslab.lab import Lab

CHECKING, STAGING, COMMITTING, ABORTING = "checking", "staging", "committing", "aborting"
PHASES = (CHECKING, STAGING, COMMITTING)
REACH_S = 30.0
Act = Callable[[], object]


class Missed(Exception):
    """The moment never came; nothing was caused."""


def struck_in(lab: Lab, phase: str, act: Act) -> str:
    """Make a swap, act while it is in this phase, and answer how it ended; raises Missed."""
    return {CHECKING: _in_checking, STAGING: _in_staging, COMMITTING: _in_committing}[phase](lab, act)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stopped inside; goes on after, if it still lives."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        thaw(pid)


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def swap_under_way(lab: Lab) -> Iterator[Future[str]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(lab.swap)


def _in_checking(lab: Lab, act: Act) -> str:
    """Nothing holds this phase: the events tell of it, and the act comes within milliseconds."""
    moment = lab.events.at(in_phase(CHECKING), lambda _: lab.strike(act))
    with swap_under_way(lab) as swap:
        outcome = swap.result()
    lab.events.forget()
    if not moment.wait(0):
        raise Missed(CHECKING)
    return outcome


def _in_staging(lab: Lab, act: Act) -> str:
    """One stopped replica holds it."""
    held = lab.rng.choice(lab.replica_pids())
    with swap_held(lab, held) as swap:
        reach(lab, STAGING)
        lab.strike(act)
    return swap.result()


def _in_committing(lab: Lab, act: Act) -> str:
    """The swap is held in its stage by one replica until another one has staged and is stopped; that one holds it."""
    with in_commit(lab) as (swap, _):
        lab.strike(act)
    return swap.result()


def swap_held(lab: Lab, pid: int) -> AbstractContextManager[Future[str]]:
    """A swap under way that this replica, stopped, keeps from being staged; the replica goes on after."""
    return change_held(lab.swap, pid)


@contextmanager
def change_held(change: Callable[[], str], pid: int) -> Iterator[Future[str]]:
    """A change under way that waits for this replica, stopped; the replica goes on after."""
    with ThreadPoolExecutor(1) as pool, frozen(pid):
        yield pool.submit(change)


@contextmanager
def in_commit(lab: Lab, change: Callable[[], str] | None = None) -> Iterator[tuple[Future[str], int]]:
    """A swap that is being committed, and the stopped replica that it waits for; the replica goes on after.

    `change` makes it be begun, and is a swap if it is None.
    """
    holder, late = lab.rng.sample(lab.replica_pids(), 2)
    try:
        with ThreadPoolExecutor(1) as pool:
            with frozen(holder):
                swap = pool.submit(change or lab.swap)
                staged = lab.events.at(has_staged(late), lambda _: freeze(late))
                if not staged.wait(REACH_S):
                    raise Lost(f"replica {late} did not stage in {REACH_S:g} s")
            reach(lab, COMMITTING)
            yield swap, late
            thaw(late)
    finally:
        thaw(late)


def reach(lab: Lab, phase: str) -> None:
    if not lab.events.at(in_phase(phase)).wait(REACH_S):
        raise Lost(f"no swap reached the phase {phase} in {REACH_S:g} s")
