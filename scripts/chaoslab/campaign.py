"""All faults, one after the other, each followed by the proof that nothing was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import httpx

from chaoslab import deployments, endurance, freezes, kills, storage, storm
from chaoslab.connections import Cut, Refused
from chaoslab.counts import Counts
from chaoslab.lab import Lab
from chaoslab.moments import COMMITTING, PHASES, STAGING, Missed
from chaoslab.trials import others, rollouts, stages
from chaoslab.trials.strikes import STRIKES

STORM = 20
STAGES = stages.STAGES | rollouts.STAGES
QUIET = ("canary", "shadow")  # stages in which no change is under way


@dataclass(frozen=True)
class Fault:
    name: str
    done: str
    cause: Callable[[Lab], object]


@dataclass
class Finding:
    """What one fault came to. `seconds` from the fault until everyone was on one version again."""

    fault: Fault
    counts: Counts
    outcomes: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    problem: str = ""
    missed: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return bool(self.problem) or self.counts.lost > 0


def faults(swaps: int) -> list[Fault]:
    return [
        Fault("swaps", f"{swaps} swaps back to back, every tenth a rollback", partial(endurance.swaps, count=swaps)),
        Fault("replica-staging", "kill -9 the last replica to stage", partial(kills.replica_in_stage, staged=False)),
        Fault("replica-staged", "kill -9 one that has staged", partial(kills.replica_in_stage, staged=True)),
        Fault("replica-committing", "kill -9 a replica in commit", kills.replica_in_commit),
        *_in_each_phase("coordinator", "kill -9 the coordinator"),
        Fault("transfer-staging", "kill -9 the process that hands out the bytes", _killed("transfer", STAGING)),
        *_in_each_phase("controller", "kill -9 Serve's controller"),
        Fault("gateway", "kill -9 a gateway while swapping", kills.gateway),
        Fault("node", "kill -9 a node with the coordinator on it while swapping", kills.node),
        Fault("freeze-replica", "SIGSTOP a replica in commit, SIGCONT after the swap", freezes.replica_in_commit),
        Fault(
            "freeze-gateway",
            "SIGSTOP a gateway in commit, SIGCONT three swaps later",
            partial(freezes.gateway_in_commit, with_replica=False),
        ),
        Fault(
            "freeze-both",
            "the same with a gateway and a replica",
            partial(freezes.gateway_in_commit, with_replica=True),
        ),
        Fault("freeze-coordinator", "SIGSTOP the coordinator, SIGCONT when replaced", freezes.idle_coordinator),
        *[
            Fault(f"freeze-coordinator-{phase}", f"the same in {phase}", partial(freezes.coordinator_in, phase=phase))
            for phase in (STAGING, COMMITTING)
        ],
        Fault("scale", "to 1, 4 and 2 replicas while swapping", partial(deployments.scale, counts=(1, 4, 2, 3))),
        Fault(
            "scale-gateways",
            "to 1 and 3 gateways while swapping",
            partial(deployments.scale_gateways, counts=(1, 3, 2)),
        ),
        Fault("redeploy", "another configuration while swapping", deployments.redeploy),
        Fault("storm", f"{STORM} faults at random moments while swapping", partial(storm.strikes, count=STORM)),
        Fault("bad-files", "truncated, wrong digest, no safetensors", storage.bad_files),
        Fault("damaged-version", "rollback to a stored file that has rotted", storage.damaged_version),
        Fault("full-disk", "an upload cannot be written", storage.full_disk),
        Fault("full-disk-commit", "the commit cannot be written", storage.full_disk_at_the_commit),
        Fault("starved-replica", "one replica gets no more memory", storage.starved_replica),
        Fault("full-object-store", "pinned objects fill it on every node", storage.full_object_store),
        *[
            Fault(
                f"cluster-{phase}",
                f"kill -9 everything in {phase}, start again",
                partial(kills.cluster_in, phase=phase),
            )
            for phase in PHASES
        ],
    ]


def trials() -> list[Fault]:
    """Faults while a candidate is out, then every strike at every stage of it and of a rollout, stage by stage."""
    return [
        Fault("damaged-candidate", "its file rots, and a new replica reads it", others.damaged_candidate),
        Fault("candidate-storm", f"{STORM} faults at random moments", partial(others.storm, count=STORM)),
        *_struck_everywhere(),
    ]


def _struck_everywhere() -> list[Fault]:
    return [
        Fault(f"{name}@{stage}", f"{strike.done}: {stage}", struck_at(stage, name))
        for stage in STAGES
        for name, strike in STRIKES.items()
        if not strike.quiet or stage in QUIET
    ]


def struck_at(stage: str, strike: str) -> Callable[[Lab], None]:
    """The cause of a strike at a stage."""
    return lambda lab: STAGES[stage](lab, STRIKES[strike])


def found(lab: Lab, fault: Fault) -> Finding:
    """Cause the fault, wait for recovery, and see that swaps work again."""
    lab.judge.taken()
    lab.outcomes.clear()
    lab.notes.clear()
    finding = Finding(fault, Counts())
    try:
        fault.cause(lab)
        finding.seconds = lab.settle()
        # What was killed last may be on its way: until then a swap is refused, and changes nothing.
        lab.wait_until(lambda: lab.swap() == "committed", "swap that is committed")
        lab.settle()
    except Missed as error:
        finding.missed = True
        finding.notes.append(f"the phase {error} was not seen; nothing was caused")
    except (AssertionError, Cut, Refused, httpx.HTTPError, OSError, ValueError) as error:
        finding.problem = f"{type(error).__name__}: {error}"
    finally:
        lab.events.forget()
    finding.counts = lab.judge.taken()
    finding.outcomes = dict(lab.outcomes)
    finding.notes += lab.notes
    return finding


def _in_each_phase(kind: kills.Kind, done: str) -> list[Fault]:
    return [Fault(f"{kind}-{phase}", f"{done} in {phase}", _killed(kind, phase)) for phase in PHASES]


def _killed(kind: kills.Kind, phase: str) -> Callable[[Lab], object]:
    return partial(kills.process_in, kind=kind, phase=phase)
