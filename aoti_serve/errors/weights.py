"""Errors of swaps, versions and stores of weights."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from aoti_serve.errors.base import AotiServeError

MAKE_ROOM = (
    "make room on this disk, or move the store to a larger one (`keep_versions` and `keep_bytes` bound what it takes)"
)


class WeightsError(AotiServeError):
    """Something about weights; the version that answered before goes on answering."""


class UploadFailed(WeightsError, status=400, text="the upload was not finished, nothing has changed: {detail}"):
    """Not all bytes have arrived: the client disconnected, was too slow or sent too much, or the disk is full."""

    detail: str


class SwapInProgress(WeightsError, status=409):
    """Only one swap at a time may run on a model."""

    text = "model '{model}': a swap is in progress (phase {phase}); try again when it has ended"
    model: str
    phase: str


class StageFailed(WeightsError):
    """A replica could not stage, so none has changed. `cause` is that replica's error, `story` what came before."""

    text = "replica {replica} could not stage version {version}, nothing has changed: {cause}"
    replica: str
    version: int
    cause: BaseException | None
    story: Sequence[str] = ()

    @property
    def http_status(self) -> int:
        return getattr(self.cause, "http_status", 500)


class BaseVersionMismatch(WeightsError, status=409):
    """A partial swap, or a swap with a condition, was made on another version than the current one."""

    text = "model '{model}': base_version {base} is not what answers, version {current} is; make the changes anew on it"
    model: str
    base: int
    current: int


class DeltaBaseMismatch(BaseVersionMismatch):
    """A delta was made from other bytes than those of the version that answers."""

    text = (
        "model '{model}': the delta was made from weights with sha256 {made_from}, and those of version {base} have "
        "{digest}; version {current} answers, make it anew from that one"
    )
    made_from: str
    digest: str


class BaseHasNoFile(WeightsError, status=409):
    """A delta or an adapter on the package's built-in weights; or a partial swap, where they could not be read."""

    text = (
        "model '{model}': version 0 is built into the package and in no file to change{reason}; swap in a complete "
        "file first"
    )
    model: str
    reason: str = ""


class NotSettled(WeightsError, status=503):
    """The version is committed, but older answers may still go out; `reason` says why.

    Or, as `done` says then, it is withdrawn, and answers with it may still go out; or it is exposed, and gateways may
    still go by the shares before.
    """

    text = "model '{model}': version {version} is {done}, but {reason}; ask for the status"
    model: str
    version: int
    reason: str
    done: str = "committed"


class VersionTaken(WeightsError, status=409):
    """A stage was asked for under the number that answers, or under a negative one."""

    text = "version {version} cannot be staged: choose a number of 0 or more that does not answer already"
    version: int


class StageWithdrawn(WeightsError, status=409):
    """A stage was stopped, since its swap has failed on another replica or was aborted."""

    text = "the stage of version {version} was withdrawn before it ended; nothing has changed"
    version: int


class NothingStaged(WeightsError, status=409, text="nothing is staged: call stage() before commit()"):
    """A commit without a stage before it."""


class VersionNotResident(WeightsError, status=404, text="version {version} is not in this replica's memory"):
    """A run asked for a version that is neither the active one nor the one behind it."""

    version: int


class NothingToRollBack(WeightsError, status=409, text="model '{model}': {reason}"):
    """There is no previous version, or the one that is asked for answers."""

    model: str
    reason: str = "no previous version to roll back to"


class BuiltInWeightsReleased(WeightsError, status=409):
    """Version 0 is in no file, so it is lost when two other versions have been committed."""

    text = (
        "model '{model}': version 0 is built into the package, and replica {replica} no longer holds it; swap instead"
    )
    model: str
    replica: str


class UnknownWeightsVersion(WeightsError, status=404):
    """The store does not hold this version."""

    text = "model '{model}': version {version} is not stored; available: {known}"
    model: str
    version: int
    known: Sequence[int]


class NotInStore(WeightsError, status=404):
    """A command on a store asks for a version that is not in it."""

    text = "weights store {path}: version {version} is not stored; available: {known}"
    path: Path | str
    version: int
    known: Sequence[int]


class LabelMoved(WeightsError, status=409):
    """A label that can be moved names another version than was expected. None stands for no version: no such label."""

    text = (
        "model '{model}': label '{label}' names version {version} now, not {expected} (None: there is no such label); "
        "read the labels again before you decide"
    )
    model: str
    label: str
    version: int | None
    expected: int | None


class TooManyLabels(WeightsError, status=409):
    """A model's versions have as many labels that can be moved as they may have."""

    text = "model '{model}': it has {limit} labels, which is the most; delete one that is not used"
    model: str
    limit: int


class SourceRefused(WeightsError, status=403, text="weights from '{uri}' are refused: {reason}"):
    """A weights URI that the configuration does not allow."""

    uri: str
    reason: str


class BadIndexInWeights(WeightsError):
    """The weights that answer hold an index outside its table; no answer can be computed with them."""

    text = "tensor '{name}': an index in it is outside {low}..{high}, the range of '{table}'; swap back"
    name: str
    low: int | None
    high: int | None
    table: str


class NotEnoughMemory(WeightsError, status=507):
    """The inactive buffer does not fit into the memory that is left."""

    text = (
        "not enough memory on {place}: the weights need {needed} bytes more, and {spare} to spare; {available} are "
        "available. Nothing has changed; free memory there, raise its limit, or place fewer replicas on it"
    )
    place: str
    needed: int
    spare: int
    available: int


class WeightsMissing(WeightsError, status=503, text="no weights have been loaded yet: stage and commit some first"):
    """The package carries no weights and none have been committed yet."""


class StoreFailed(WeightsError, status=507, text="weights store {path}: {detail}"):
    """The store could not be written or read; committed versions stay whole."""

    path: Path | str
    detail: str

    @classmethod
    def of(cls, path: Path | str, error: OSError, what: str = "") -> StoreFailed:
        """A call of the operating system has failed; `what` says what it was for. Of a full disk with the way out."""
        way_out = f": {MAKE_ROOM}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return cls(path=path, detail=f"{what}{': ' * bool(what)}{error}{way_out}")


class StoreDamaged(StoreFailed):
    """A file of the store has changed since it was written: it was cut, overwritten or removed."""

    text = (
        "weights store {path}: {file} is damaged: {detail}. `aoti-serve store check` shows which versions are whole, "
        "`aoti-serve store set-current` makes one of them answer"
    )
    file: str


class CommitUnknown(WeightsError, status=503):
    """The store did not answer during a commit. The coordinator ends, and its successor reads what is committed."""

    text = "weights store {path}: it cannot be told whether epoch {epoch} was committed: {detail}; ask for the status"
    path: Path | str
    epoch: int
    detail: str
