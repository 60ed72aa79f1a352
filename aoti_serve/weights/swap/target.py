"""The two messages between a coordinator and its members: what all should hold, and what each one holds.

No member is told what to do. The coordinator publishes a `Target`; each member compares it with what it holds, does
what is missing, and reports. So a lost message, a repeated one, a newcomer and a member that was stopped for an hour
are one case: it sees the target and catches up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from aoti_serve.address import Address
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.version import Committed, Version

NO_EPOCH = -1  # the epoch of a member that holds no weights yet


class Receipt(Frozen):
    """A replica's signed-off answer to a stage and the commit that followed.

    `digest` is the sha256 of the bytes that arrived there, `package` that of the file whose code runs them; `previous`
    is the version that is resident behind, to which a rollback moves no data; `nbytes` is what this version moved, none
    if it was resident. Times are as measured there.
    """

    replica: str
    node: str
    pid: int
    device: str
    gpu_ids: tuple[str, ...]
    epoch: int
    version: int
    digest: str
    package: str = ""
    previous: int | None
    nbytes: int
    stage_milliseconds: float
    commit_milliseconds: float


class TargetRevision(NamedTuple):
    """The order of targets: those of later coordinators come after those of earlier ones."""

    term: int = 0
    revision: int = -1


NOTHING_FOLLOWED = TargetRevision()


class Exposure(Frozen):
    """The shares of the requests that meet a candidate, from 0 to 1.

    `share` of them are answered by it. `shadow` of the others run on it, too, and only the active version's answer
    goes out.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    shadow: Annotated[float, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True)
class Staging:
    """The version that every replica should have staged, under the id of its swap.

    With an `exposure` all have staged it: it is a candidate, and answers those who ask for it.
    """

    swap: str
    version: Version
    exposure: Exposure | None = None


@dataclass(frozen=True)
class Trial:
    """The numbers of two versions whose answers gateways count apart, under the id of the candidate's swap."""

    swap: str
    candidate: int
    active: int


@dataclass(frozen=True)
class Target:
    """The state that every member should hold.

    `term` counts the coordinators that the store has had: members ignore an earlier one. `revision` grows with every
    change. Gateways let out no answer of an epoch before `settled_epoch`. A `trial` begins with a candidate, and may go
    on after its commit. `spread`: members are on several nodes. `labels` are those that can be moved, with the versions
    that they name.
    """

    term: int
    revision: int
    committed: Committed
    settled_epoch: int = NO_EPOCH
    staging: Staging | None = None
    trial: Trial | None = None
    spread: bool = False
    labels: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def at(self) -> TargetRevision:
        return TargetRevision(self.term, self.revision)


@dataclass(frozen=True)
class Report:
    """A member's report of what it holds. A replica has runners; a `processor` the files of versions; a gateway has
    neither, and only a fence.

    `turn` counts its reports: one that was held up on the way must not replace a later one. `followed` is the last
    target that it has followed: it has done all it can for it. `staged` is the id of the swap whose version it has
    staged; `failed` is that of the swap whose version it could not stage, for the reason `error`. A gateway lets out no
    answer of an epoch before `settled_epoch`. A member that is `joining` answers nothing yet, and is not waited for. A
    member that is `leaving` will soon end by itself.
    """

    member: str
    node: str = ""
    address: Address | None = None
    turn: int = field(default=0, compare=False)
    followed: TargetRevision = NOTHING_FOLLOWED
    runners: int = 0
    processor: bool = False
    joining: bool = False
    leaving: bool = False
    epoch: int = NO_EPOCH
    settled_epoch: int = NO_EPOCH
    staged: str | None = None
    failed: str | None = None
    error: BaseException | None = None
    receipt: Receipt | None = None

    @property
    def is_gateway(self) -> bool:
        return not self.runners and not self.processor

    def holds(self, committed: Committed) -> bool:
        """Whether it answers with `committed`: by its epoch, and by what its receipt says of the bytes."""
        if self.epoch < committed.epoch:
            return False
        receipt, version = self.receipt, committed.version
        return receipt is None or (receipt.version, receipt.digest) == (version.number, version.digest)

    def freed(self, aborted: TargetRevision) -> bool:
        """Whether it has freed what it had staged, or was staging, when the swap was aborted."""
        return self.followed >= aborted and self.staged is None

    def follows(self, target: Target) -> bool:
        """Whether nothing is left to do for it."""
        if not self.holds(target.committed):
            return False
        return target.staging is None or target.staging.swap in (self.staged, self.failed)
