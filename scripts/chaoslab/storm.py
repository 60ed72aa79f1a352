"""Faults at moments that nobody has chosen, while swapping."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import psutil

from chaoslab.kills import Kind, one
from chaoslab.lab import Lab
from chaoslab.moments import kill, thaw

KINDS: tuple[Kind, ...] = ("replica", "coordinator", "gateway", "controller", "transfer")
LONGEST_STOP_S = 8.0


def strikes(lab: Lab, count: int) -> None:
    """Each kills or stops some process; the next one comes when everybody has committed something again."""
    with lab.traffic.cuts_expected(), lab.swapping():
        blow(lab, count, lambda: lab.settle_while_swapping(1))


def blow(lab: Lab, count: int, recovered: Callable[[], None]) -> None:
    """Kill or stop some process, wait until `recovered` returns; and again."""
    clock = threading.Event()
    acts: list[Callable[[Lab, Kind, threading.Event], None]] = [killed, stopped]
    for _ in range(count):
        clock.wait(lab.rng.uniform(0.0, 2.0))
        act, kind = lab.rng.choice(acts), lab.rng.choice(KINDS)
        lab.tell(f"  {act.__name__} {kind}")
        lab.strike(lambda: None)
        act(lab, kind, clock)
        recovered()


def killed(lab: Lab, kind: Kind, clock: threading.Event) -> None:
    kill(one(lab, kind))


def stopped(lab: Lab, kind: Kind, clock: threading.Event) -> None:
    process = psutil.Process(one(lab, kind))
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        clock.wait(lab.rng.uniform(0.5, LONGEST_STOP_S))
        thaw(process.pid)
