"""SIGSTOP and SIGCONT: processes that are neither dead nor alive, and come back when nobody waits for them."""

from __future__ import annotations

from functools import partial

import psutil

from chaoslab.changes import Lost
from chaoslab.kills import one, pids_of
from chaoslab.lab import Lab
from chaoslab.moments import freeze, in_commit, struck_in, thaw


def replica_in_commit(lab: Lab) -> None:
    """It is fenced out and replaced, the swap ends without it; awake again it must not answer with old weights."""
    with in_commit(lab) as (swap, late):
        lab.strike(lambda: None)
        if swap.result() != "committed":
            raise Lost(f"the swap was past its commit point, and ended so: {lab.notes[-1]}")
        lab.settle()
    gone(lab, late)


def gateway_in_commit(lab: Lab, *, with_replica: bool) -> None:
    """The swap ends without it, and the next ones; awake again it must not let an old answer out.

    `with_replica`: one that holds the old version is stopped as well, and they wake up together.
    """
    with lab.traffic.cuts_expected():
        with in_commit(lab) as (swap, late):
            stopped = one(lab, "gateway")
            lab.strike(partial(freeze, stopped))
            if not with_replica:
                thaw(late)
            try:
                swap.result()
                lab.settle()
                for _ in range(3):
                    lab.swap()
            finally:
                thaw(stopped)
                thaw(late)
        gone(lab, stopped)


def coordinator_in(lab: Lab, phase: str) -> None:
    """Stopped in the middle of a swap, replaced, awake again when its successor has committed something else."""
    old = one(lab, "coordinator")
    try:
        struck_in(lab, phase, partial(freeze_until_replaced, lab, old))
        lab.settle()
        _committed(lab)
    finally:
        _awake_among_others(lab, old)


def idle_coordinator(lab: Lab) -> None:
    """Stopped between swaps, replaced, awake again: only one of the two can commit."""
    old = one(lab, "coordinator")
    lab.strike(partial(freeze_until_replaced, lab, old))
    try:
        lab.settle()
        _committed(lab)
    finally:
        _awake_among_others(lab, old)


def freeze_until_replaced(lab: Lab, old: int) -> None:
    """Return when there is another coordinator."""
    freeze(old)
    lab.wait_until(lambda: bool(set(pids_of(lab, "coordinator")) - {old}), "successor of the stopped coordinator")


def _awake_among_others(lab: Lab, old: int) -> None:
    """What it had begun is over: it commits nothing, and ends nobody who follows its successor."""
    replicas = lab.replica_pids()
    thaw(old)
    for _ in range(3):
        _committed(lab)
    gone(lab, old)
    if lab.replica_pids() != replicas:
        raise Lost(f"a coordinator that was replaced woke up, and replicas {replicas} became {lab.replica_pids()}")


def _committed(lab: Lab) -> None:
    if lab.swap() != "committed":
        raise Lost(f"a swap after the coordinator was replaced: {lab.notes[-1]}")


def gone(lab: Lab, pid: int) -> None:
    """Wait until the process has ended; raises Lost if it never does."""
    lab.wait_until(lambda: not psutil.pid_exists(pid), f"end of process {pid}, which was replaced and has woken up")
