"""Serve changes what runs while weights change: more replicas, fewer, another configuration."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from chaoslab.changes import Lost
from chaoslab.kills import Kind, pids_of
from chaoslab.lab import Lab


def scale(lab: Lab, counts: Sequence[int]) -> None:
    """Other numbers of replicas, one after the other, while swapping; no connection breaks by that."""
    with lab.swapping(), _untouched(lab, "gateway", "coordinator"):
        for count in counts:
            lab.strike(partial(lab.deploy, count))
            lab.settle_while_swapping()


def scale_gateways(lab: Lab, counts: Sequence[int]) -> None:
    """Other numbers of gateways, one after the other, while swapping; those that go answer what they have in hand."""
    with lab.swapping(), _untouched(lab, "replica", "coordinator"):
        for count in counts:
            lab.gateways = count
            lab.strike(partial(lab.deploy, lab.replicas))
            lab.wait_until(partial(gateways_run, lab, count), f"{count} gateways")
            lab.settle_while_swapping(1)


@contextmanager
def _untouched(lab: Lab, *kinds: Kind) -> Iterator[None]:
    """Raises Lost if a process of these kinds has gone in between."""
    before = {pid for kind in kinds for pid in pids_of(lab, kind)}
    yield
    if gone := before - {pid for kind in kinds for pid in pids_of(lab, kind)}:
        raise Lost(f"of {', '.join(kinds)} the processes {sorted(gone)} were replaced")


def redeploy(lab: Lab) -> None:
    """Another package and other settings, while swapping: each process is replaced by a new one."""
    before = _processes(lab)
    with lab.swapping():
        lab.strike(partial(deploy_anew, lab))
        while _processes(lab) & before:
            lab.settle_while_swapping(1)
        lab.settle_while_swapping()
    lab.settle()
    lab.deploy(lab.replicas)
    lab.settle()


def deploy_anew(lab: Lab) -> None:
    """Put a configuration on the cluster that replaces every process."""
    package = shutil.copy(lab.telltales.package, lab.folder / "again.pt2")
    lab.deploy(
        lab.replicas, package=str(package), num_runners=2, batching={"max_batch_size": 32, "max_queue_wait_ms": None}
    )


def gateways_run(lab: Lab, count: int) -> bool:
    return len(pids_of(lab, "gateway")) == count


def _processes(lab: Lab) -> set[int]:
    kinds: tuple[Kind, ...] = ("replica", "gateway", "coordinator")
    return {pid for kind in kinds for pid in pids_of(lab, kind)}
