"""Whether somebody else was quicker than a rollout: its candidate is gone, or its version does not answer any more."""

from __future__ import annotations

from typing import NamedTuple

from aoti_serve.weights.candidate import Candidate, RolloutRecord
from aoti_serve.weights.rollout.decisions import Decision, Expose, Promote, RollBack, Withdraw
from aoti_serve.weights.rollout.state import RolloutPhase

ANOTHER_COMMITTED = "another version was committed"


class Situation(NamedTuple):
    """What is there of a model: the candidate that is out, if one is, and the number of the version that answers."""

    candidate: Candidate | None
    committed: int


def overtaken_in(phase: RolloutPhase, record: RolloutRecord, there: Situation) -> str | None:
    """What somebody else has done in this phase of a rollout; None if it can go on."""
    promoted, out = there.committed == record.version, _is_out(record, there)
    match phase:
        case RolloutPhase.TRYING if not out:
            return _went(record, there)
        case RolloutPhase.PROMOTING if not out and not promoted:
            return "its candidate was withdrawn"
        case RolloutPhase.WATCHING if not promoted:
            return ANOTHER_COMMITTED
        case RolloutPhase.WATCHING if there.candidate is not None and not out:
            return "another candidate is out"
    return None


def overtaken_before(decision: Decision, record: RolloutRecord, there: Situation) -> str | None:
    """What somebody else has done, so that the decision would meet another version than the one that was judged."""
    promoted = there.committed == record.version
    match decision:
        case RollBack() if not promoted:
            return ANOTHER_COMMITTED
        case Promote() if promoted:
            return None
        case Expose() | Promote() | Withdraw() if not _is_out(record, there):
            return _went(record, there)
    return None


def _is_out(record: RolloutRecord, there: Situation) -> bool:
    return there.candidate is not None and there.candidate.swap == record.swap


def _went(record: RolloutRecord, there: Situation) -> str:
    """How a candidate that is no more has gone; what was committed since may hide it."""
    went = {record.version: "promoted", record.active: "withdrawn"}.get(there.committed, "promoted or withdrawn")
    return f"its candidate was {went}"
