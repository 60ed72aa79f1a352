"""Faults that begin at a moment and end later: what is caused, and how it is undone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import psutil

from aoti_serve.weights.swap.members import ENDED_S
from chaoslab.changes import Lost
from chaoslab.deployments import deploy_anew
from chaoslab.freezes import freeze_until_replaced, gone
from chaoslab.kills import Kind, all_anew, one
from chaoslab.lab import Lab
from chaoslab.moments import freeze, kill, thaw
from chaoslab.storage import bad_contents, full_of_objects, limited

STOPPED_S = 4.0


@dataclass(frozen=True)
class Strike:
    """`cause(lab)` causes the fault on entry and ends it on exit.

    `cuts`: it breaks connections. `early`: it comes before the change that it is to hit, which is not held. `quiet`: it
    makes calls of its own, so it only fits where no change is under way.
    """

    done: str
    cause: Callable[[Lab], AbstractContextManager[object]]
    cuts: bool = False
    early: bool = False
    quiet: bool = False


@contextmanager
def _killed(lab: Lab, kind: Kind) -> Iterator[None]:
    kill(one(lab, kind))
    yield


@contextmanager
def _node(lab: Lab) -> Iterator[None]:
    doomed = lab.nodes.node_of(one(lab, "coordinator"))
    if doomed is None:
        raise Lost("the coordinator runs on the head")
    lab.nodes.kill_node(doomed)
    killed = time.monotonic()
    yield
    lab.nodes.add()
    # Nobody can tell a node that is lost from one that is cut off: for so long changes say that they are not settled.
    lab.wait_until(lambda: time.monotonic() > killed + ENDED_S, "end of doubt", 2 * ENDED_S)


@contextmanager
def _cluster(lab: Lab) -> Iterator[None]:
    all_anew(lab)
    yield


@contextmanager
def _stopped(lab: Lab, *kinds: Kind) -> Iterator[None]:
    """They wake up together, when the change is over or after a while, whichever is later."""
    pids = [one(lab, kind) for kind in kinds]
    for pid in pids:
        freeze(pid)
    try:
        time.sleep(STOPPED_S)
        yield
    finally:
        for pid in pids:
            thaw(pid)


@contextmanager
def _stopped_coordinator(lab: Lab) -> Iterator[None]:
    """It wakes up when its successor goes on with the candidate."""
    old = one(lab, "coordinator")
    try:
        freeze_until_replaced(lab, old)
        yield
    finally:
        thaw(old)
    gone(lab, old)


@contextmanager
def _scaled(lab: Lab, replicas: int) -> Iterator[None]:
    before = lab.replicas
    lab.deploy(replicas)
    yield
    lab.deploy(before)


@contextmanager
def _scaled_gateways(lab: Lab, gateways: int) -> Iterator[None]:
    before, lab.gateways = lab.gateways, gateways
    lab.deploy(lab.replicas)
    yield
    lab.gateways = before
    lab.deploy(lab.replicas)


@contextmanager
def _redeployed(lab: Lab) -> Iterator[None]:
    deploy_anew(lab)
    yield
    lab.deploy(lab.replicas)


@contextmanager
def _full_disk(lab: Lab) -> Iterator[None]:
    with limited(one(lab, "coordinator"), psutil.RLIMIT_FSIZE, 1):
        yield


@contextmanager
def _starved(lab: Lab) -> Iterator[None]:
    pid = lab.rng.choice(lab.replica_pids())
    with limited(pid, psutil.RLIMIT_AS, psutil.Process(pid).memory_info().vms // 2):
        yield


@contextmanager
def _other_changes(lab: Lab) -> Iterator[None]:
    """Swaps, bad files and rollbacks: refused while a candidate is out, and nothing of them stays."""
    before = lab.quiet()
    good = lab.telltales.weights(lab.fresh())
    answers = [lab.face.swap(content, "0", **params) for content, params in bad_contents(good)]
    answers += [lab.face.swap(good, "0"), lab.face.rollback()]
    if any(answer.status_code // 100 != 4 for answer in answers):
        raise Lost(f"beside a candidate these should have been refused: {[answer.text for answer in answers]}")
    after = lab.quiet()
    if any(after[name] != before[name] for name in ("current", "epoch", "candidate")):
        raise Lost(f"refused changes made {after} of {before}")
    yield


@contextmanager
def _nothing(lab: Lab) -> Iterator[None]:
    yield


STRIKES = {
    "nothing": Strike("no fault at all", _nothing),
    "replica": Strike("kill -9 a replica", partial(_killed, kind="replica")),
    "coordinator": Strike("kill -9 the coordinator", partial(_killed, kind="coordinator")),
    "transfer": Strike("kill -9 the process that hands out the bytes", partial(_killed, kind="transfer")),
    "controller": Strike("kill -9 Serve's controller", partial(_killed, kind="controller")),
    "gateway": Strike("kill -9 a gateway", partial(_killed, kind="gateway"), cuts=True),
    "node": Strike("kill -9 a node with the coordinator on it", _node, cuts=True),
    "cluster": Strike("kill -9 everything, start again", _cluster, cuts=True),
    "freeze-replica": Strike("SIGSTOP a replica", lambda lab: _stopped(lab, "replica")),
    "freeze-gateway": Strike("SIGSTOP a gateway", lambda lab: _stopped(lab, "gateway"), cuts=True),
    "freeze-both": Strike(
        "SIGSTOP a gateway and a replica", lambda lab: _stopped(lab, "gateway", "replica"), cuts=True
    ),
    "freeze-coordinator": Strike("SIGSTOP the coordinator, SIGCONT when replaced", _stopped_coordinator),
    "scale": Strike("to 4 replicas and back", partial(_scaled, replicas=4)),
    "scale-gateways": Strike("to 3 gateways and back", partial(_scaled_gateways, gateways=3)),
    "redeploy": Strike("another configuration and back", _redeployed),
    "full-disk": Strike("the coordinator cannot write", _full_disk, early=True),
    "starved-replica": Strike("one replica gets no more memory", _starved, early=True),
    "full-object-store": Strike("pinned objects fill it on every node", full_of_objects, early=True),
    "other-changes": Strike("bad files, swaps and rollbacks beside it", _other_changes, quiet=True),
}
