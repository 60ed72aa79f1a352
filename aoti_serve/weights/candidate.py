"""The records of a candidate and of its rollout in the store: a coordinator that starts anew goes on with them."""

from __future__ import annotations

from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.state import RolloutState
from aoti_serve.weights.swap.target import Exposure


class Candidate(Frozen):
    """The version under the id of its `swap`, a candidate since `since`, in seconds since 1970 (UTC).

    It stands for `epoch`, the one that was committed then: once another is, the record means nothing. With a `plan` it
    is to be promoted by a rollout.
    """

    swap: str
    version: int
    epoch: int
    since: float
    exposure: Exposure
    plan: RolloutPlan | None = None


class RolloutRecord(Frozen):
    """A rollout of the candidate of this `swap`, whose `version` is compared with `active`; it is never far behind."""

    swap: str
    version: int
    active: int
    plan: RolloutPlan
    state: RolloutState
