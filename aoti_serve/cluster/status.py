"""The values of the weights API: the current version, the swap under way, and the outcome of the last attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.audit import AttemptOutcome
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.state import RolloutProgress
from aoti_serve.weights.sources.follow import FollowStatus
from aoti_serve.weights.swap.target import Receipt
from aoti_serve.weights.version import Version


class ReplicaProgress(Frozen):
    """One replica in a swap; `nbytes` of the new weights have arrived there. Done with the phase under way, or not."""

    replica: str
    nbytes: int
    done: bool


class SwapProgress(Frozen):
    """A swap under way. `version` is None, and `nbytes` 0, while the weights are being checked."""

    id: str
    action: str
    phase: str
    version: int | None
    nbytes: int
    replicas: tuple[ReplicaProgress, ...]


class Outcome(Frozen):
    """The end of an attempt, with an `error` if it has failed, or nobody asked for it. `phases` are in seconds, `ended`
    in UTC.
    """

    id: str
    action: str
    version: int | None
    outcome: AttemptOutcome
    error: str | None
    seconds: float
    phases: dict[str, float]
    ended: float


class CandidateStatus(Frozen):
    """A candidate that is out, since `since` in UTC, and the shares of the requests that meet it; see `Exposure`.

    With a `plan` a rollout decides what becomes of it, else a person.
    """

    version: Version
    share: float
    shadow: float
    since: float
    plan: RolloutPlan | None = None


class FollowedApplication(Frozen):
    """Another application leads the store since `since`, in UTC, by its coordinator `newer`; this one follows.

    `behind` says what this one does not answer with although that one has committed it, and why; "" if nothing.
    """

    newer: str
    since: float
    behind: str


class WeightsStatus(Frozen):
    """The current and the previous version, and every replica's receipt. `revision` grows with every change.

    In the answer to a swap, `unchanged` says that the same bytes answered already, so that nothing was staged.
    `rollout` is the one that is on, or the last one; `trial` has what gateways have counted of both versions while a
    candidate is out, see `TrialFigures.summary`.
    `labels` are those that can be moved, with the versions that they name; `follow` is about the place that is
    followed, if there is one. `assets` are the names of the files that the processor reads with a version;
    `superseded` is about the application that leads, if it is another one.
    """

    model: str
    revision: int
    epoch: int
    settled: bool  # whether no gateway lets anything older out any more
    current: Version
    previous: Version | None
    replicas: tuple[Receipt, ...]
    candidate: CandidateStatus | None
    swap: SwapProgress | None
    last: Outcome | None
    unchanged: bool = False
    rollout: RolloutProgress | None = None
    trial: Mapping[str, Any] | None = None
    labels: dict[str, int] = {}
    follow: FollowStatus | None = None
    assets: tuple[str, ...] = ()
    superseded: FollowedApplication | None = None
