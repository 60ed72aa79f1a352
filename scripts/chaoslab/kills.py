"""SIGKILL: a replica, the coordinator, Serve's controller, a gateway, a node, all of them."""

from __future__ import annotations

from functools import partial
from typing import Literal

from chaoslab.changes import Lost
from chaoslab.lab import START_S, Lab
from chaoslab.model import NAME
from chaoslab.moments import COMMITTING, STAGING, in_commit, kill, reach, struck_in, swap_held

Kind = Literal["coordinator", "transfer", "controller", "gateway", "replica"]
TITLES: dict[Kind, str] = {
    "coordinator": f"{NAME}-coordinator",
    "transfer": "ray::TransferActor",
    "controller": "ServeController",
    "gateway": "default:gateway",
    "replica": f"{NAME}-replica",
}


def pids_of(lab: Lab, kind: Kind) -> list[int]:
    return [process.pid for process in lab.nodes.titled(TITLES[kind])]


def one(lab: Lab, kind: Kind) -> int:
    """One of its processes, as soon as there is any: it may just be on its way."""
    lab.wait_until(lambda: bool(pids_of(lab, kind)), kind, START_S)
    return lab.rng.choice(pids_of(lab, kind))


def replica_in_stage(lab: Lab, *, staged: bool) -> None:
    """The one that the others wait for, or one that has perhaps staged already."""
    held, other, *_ = lab.rng.sample(lab.replica_pids(), lab.replicas)
    with swap_held(lab, held) as swap:
        reach(lab, STAGING)
        lab.strike(partial(kill, other if staged else held))
    swap.result()


def replica_in_commit(lab: Lab) -> None:
    with in_commit(lab) as (swap, late):
        lab.strike(partial(kill, late))
    if swap.result() != "committed":
        raise Lost(f"the swap was past its commit point, and ended so: {lab.notes[-1]}")


def process_in(lab: Lab, kind: Kind, phase: str) -> None:
    struck_in(lab, phase, partial(kill, one(lab, kind)))


def gateway(lab: Lab) -> None:
    with lab.traffic.cuts_expected(), lab.swapping():
        lab.strike(partial(kill, one(lab, "gateway")))
        lab.settle_while_swapping()
    lab.settle()


def node(lab: Lab) -> None:
    """The one with the coordinator; a fresh node joins afterwards."""
    doomed = lab.nodes.node_of(one(lab, "coordinator"))
    if doomed is None:
        raise Lost("the coordinator runs on the head")
    with lab.traffic.cuts_expected(), lab.swapping():
        lab.strike(partial(lab.nodes.kill_node, doomed))
        lab.settle_while_swapping()
    lab.settle()
    lab.nodes.add()


def cluster_in(lab: Lab, phase: str) -> None:
    """Everything at once, during a swap; then a new cluster on the same store."""
    before = lab.face.status()["epoch"]
    with lab.traffic.cuts_expected():
        struck_in(lab, phase, partial(all_anew, lab))
        lab.settle()
    after = lab.face.status()["epoch"]
    if phase == COMMITTING and after != before + 1:
        raise Lost(f"epoch {before + 1} was past its commit point, {after} has come back")
    if after not in (before, before + 1):
        raise Lost(f"epoch {before} was committed, {after} has come back")


def all_anew(lab: Lab) -> None:
    """Kill every process of the cluster; return when a new one serves the same store."""
    lab.nodes.kill()
    lab.nodes.start()
    lab.deploy(lab.replicas)
    lab.wait_ready(START_S)
