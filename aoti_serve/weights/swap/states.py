"""The states of a swap and what moves it from one to the next: a table. And what a change is called."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple
from uuid import uuid4


def new_id() -> str:
    """The id of a change; a swap's is what members report that they have staged."""
    return uuid4().hex[:12]


class ChangeName(NamedTuple):
    """What one change is called wherever it is told of: in the status, the story, the log and the audit log."""

    action: str
    id: str

    def __str__(self) -> str:
        return f"{self.action} {self.id}"


class Phase(StrEnum):
    """The phases of a swap, as users see them."""

    CHECKING = "checking"
    STAGING = "staging"
    CANDIDATE = "candidate"
    COMMITTING = "committing"
    ABORTING = "aborting"


class State(StrEnum):
    """The states of a swap. The last three are ends."""

    STAGING = "staging"
    HELD = "held"
    STORING = "storing"
    FOLLOWING = "following"
    SETTLING = "settling"
    CONFIRMING = "confirming"
    ABORTING = "aborting"
    SETTLED = "settled"
    UNSETTLED = "unsettled"
    ABORTED = "aborted"


class Cause(StrEnum):
    """The causes that move a swap from one state to the next."""

    ALL_STAGED = "all staged"
    ALL_HOLD = "all staged a candidate"
    PROMOTED = "it is promoted"
    WITHDRAWN = "it is withdrawn"
    FAILED = "one failed, ended, or was late"
    STORED = "the store has it"
    REFUSED = "the store refused"
    ALL_FOLLOW = "all answer with it"
    ALL_FENCED = "all let out nothing older"
    ALL_ENDED = "all expelled have ended"
    ALL_FREED = "all freed, or late"
    SUPERSEDED = "a newer coordinator"
    UNCONFIRMED = "an end is not confirmed"


TRANSITIONS: Mapping[State, Mapping[Cause, State]] = {
    State.STAGING: {Cause.ALL_STAGED: State.STORING, Cause.ALL_HOLD: State.HELD, Cause.FAILED: State.ABORTING},
    State.HELD: {Cause.PROMOTED: State.STAGING, Cause.WITHDRAWN: State.ABORTING, Cause.FAILED: State.ABORTING},
    State.STORING: {Cause.STORED: State.FOLLOWING, Cause.REFUSED: State.ABORTING},
    State.FOLLOWING: {Cause.ALL_FOLLOW: State.SETTLING, Cause.SUPERSEDED: State.UNSETTLED},
    State.SETTLING: {Cause.ALL_FENCED: State.CONFIRMING, Cause.SUPERSEDED: State.UNSETTLED},
    State.CONFIRMING: {
        Cause.ALL_ENDED: State.SETTLED,
        Cause.UNCONFIRMED: State.UNSETTLED,
        Cause.SUPERSEDED: State.UNSETTLED,
    },
    State.ABORTING: {Cause.ALL_FREED: State.ABORTED},
}
PHASES: Mapping[State, Phase] = {
    **dict.fromkeys((State.STAGING, State.STORING), Phase.STAGING),
    State.HELD: Phase.CANDIDATE,
    **dict.fromkeys((State.FOLLOWING, State.SETTLING, State.CONFIRMING), Phase.COMMITTING),
    **dict.fromkeys((State.SETTLED, State.UNSETTLED), Phase.COMMITTING),
    **dict.fromkeys((State.ABORTING, State.ABORTED), Phase.ABORTING),
}
ENDS = frozenset(State) - TRANSITIONS.keys()
