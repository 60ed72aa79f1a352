"""Errors of swaps, versions and stores of weights."""

from __future__ import annotations

from collections.abc import Sequence

from aoti_serve.errors.base import AotiServeError


class WeightsError(AotiServeError):
    """Something about weights; the version that answered before goes on answering."""


class UploadFailed(WeightsError, status=400, text="the upload was not finished, nothing has changed: {detail}"):
    """Not all bytes have arrived: the client went, was too slow or sent too much, or the disk is full."""

    detail: str


class SwapInProgress(
    WeightsError, status=409, text="model '{model}': a swap is in progress (phase {phase}); try again when it has ended"
):
    """Only one swap at a time may run on a model."""

    model: str
    phase: str


class StageFailed(
    WeightsError, text="replica {replica} could not stage version {version}, nothing has changed: {cause}"
):
    """A replica could not stage, so none has changed. `cause` is that replica's error, `story` what came before."""

    replica: str
    version: int
    cause: BaseException | None
    story: Sequence[str] = ()

    @property
    def http_status(self) -> int:
        return getattr(self.cause, "http_status", 500)


class BaseVersionMismatch(
    WeightsError,
    status=409,
    text="model '{model}': base_version {base} is not what answers, version {current} is; make the changes anew on it",
):
    """A partial swap, or a swap with a condition, was made on another version than the current one."""

    model: str
    base: int
    current: int


class BaseHasNoFile(
    WeightsError,
    status=409,
    text="model '{model}': version 0 is built into the package and in no file to change; swap in a complete file first",
):
    """A partial swap on the package's built-in weights."""

    model: str


class Superseded(
    WeightsError,
    status=503,
    text=(
        "model '{model}': coordinator {term} of its store was followed by {newer}; ask that one. If this goes on, "
        "another application uses the same `store`"
    ),
):
    """Another coordinator has opened the store since: this one may not change it any more."""

    model: str
    term: int
    newer: int | str


class NotSettled(
    WeightsError,
    status=503,
    text="model '{model}': version {version} is committed, but {reason}; ask for the status",
):
    """After the commit point it could not be confirmed that nothing older is answered any more; `reason` says why."""

    model: str
    version: int
    reason: str


class VersionTaken(
    WeightsError,
    status=409,
    text="version {version} cannot be staged: choose a number of 0 or more that does not answer already",
):
    """A stage under the number that answers, or under one that is none."""

    version: int


class StageWithdrawn(
    WeightsError, status=409, text="the stage of version {version} was withdrawn before it ended; nothing has changed"
):
    """A stage was stopped under way, since its swap has failed elsewhere or was given up."""

    version: int


class NothingStaged(WeightsError, status=409, text="nothing is staged: call stage() before commit()"):
    """A commit without a stage before it."""


class NothingToRollBack(WeightsError, status=409, text="model '{model}': no previous version to roll back to"):
    """There is no previous version."""

    model: str


class BuiltInWeightsReleased(
    WeightsError,
    status=409,
    text="model '{model}': version 0 is built into the package, and replica {replica} no longer holds it; swap instead",
):
    """Version 0 is in no file, so it is there only until two other versions have come."""

    model: str
    replica: str


class UnknownWeightsVersion(
    WeightsError, status=404, text="model '{model}': version {version} is not stored; available: {known}"
):
    """The store does not hold this version."""

    model: str
    version: int
    known: Sequence[int]


class SourceRefused(WeightsError, status=403, text="weights from '{uri}' are refused: {reason}"):
    """A weights URI that the configuration does not allow."""

    uri: str
    reason: str


class BadIndexInWeights(
    WeightsError, text="tensor '{name}': an index in it is outside {low}..{high}, the range of '{table}'; swap back"
):
    """The weights that answer hold an index that leads nowhere; no answer can be computed with them."""

    name: str
    low: int | None
    high: int | None
    table: str


class NotEnoughMemory(
    WeightsError,
    status=507,
    text=(
        "not enough memory on {place}: the weights need {needed} bytes more, and {spare} to spare; {available} are "
        "available. Nothing has changed; free memory there, raise its limit, or place fewer replicas on it"
    ),
):
    """The inactive buffer does not fit into the memory that is left."""

    place: str
    needed: int
    spare: int
    available: int


class WeightsMissing(WeightsError, status=503, text="no weights have been loaded yet: stage and commit some first"):
    """The package carries no weights and none have been committed yet."""
