"""Errors of weights: files, tensors, swaps, versions."""

from __future__ import annotations

from aoti_serve.errors.base import AotiServeError


class WeightsError(AotiServeError):
    """Something about weights; the version that answered before goes on answering."""


class InvalidWeights(WeightsError, status=400):
    """The weights do not fit the package; nothing has changed."""


class UnreadableWeights(InvalidWeights, text="the weights cannot be read: {detail}"):
    """No file, not a safetensors file, or a damaged one."""


class DigestMismatch(InvalidWeights, text="the weights have sha256 {got}, expected {expected}"):
    """The bytes are not the ones that were promised."""


class WeightsTooLarge(InvalidWeights, status=413, text="the weights have more than {limit} {unit} ({setting})"):
    """The file, its header, or its number of tensors is larger than the configuration allows."""


class MissingTensor(InvalidWeights, text="tensor '{name}': missing from the weights"):
    """A constant of the package is not among the weights."""


class UnknownTensor(InvalidWeights, text="tensor '{name}': the package has no such constant"):
    """The weights hold a tensor that the package does not have."""


class UnknownOrBakedTensor(
    UnknownTensor,
    text=(
        "tensor '{name}': the package has no such constant; its code does not say what was compiled in, and if this "
        "was, it cannot be changed. Package the model with `aoti-serve package`, or compile it with "
        "always_keep_tensor_constants; under `signature: unused:` it would be passed over, and its old value stay"
    ),
):
    """The same of a package made elsewhere, where nobody can tell what the compiler fixed."""


class WrongTensorDtype(InvalidWeights, text="tensor '{name}': dtype {got}, the package takes {expected}"):
    """A tensor's dtype differs from the constant's."""


class WrongTensorShape(InvalidWeights, text="tensor '{name}': shape {got}, the package takes {expected}"):
    """A tensor's shape differs from the constant's."""


class UnfitTensor(InvalidWeights, text="tensor '{name}': {detail}"):
    """A tensor whose values cannot be read: none at all, on the meta device, sparse or quantised."""


class TiedTensorsDiffer(
    InvalidWeights, text="tensor '{name}': the package ties it to '{tied}', but their values differ"
):
    """Two names of one constant were given different values."""


class ConstantIsBaked(
    InvalidWeights,
    text=(
        "tensor '{name}': its value is compiled into the package and differs from this one; "
        "export the model anew, or pass strict=False to go on with the compiled value"
    ),
):
    """The weights would change what only the compiler could change."""


class WeightsDoNotRun(InvalidWeights, text="the package does not run with these weights: {detail}"):
    """The staged weights failed on an input that the active ones answer."""


class SwapInProgress(
    WeightsError, status=409, text="model '{model}': a swap is in progress (phase {phase}); try again when it has ended"
):
    """Only one swap at a time may run on a model."""


class StageFailed(
    WeightsError, text="replica {replica} could not stage version {version}, nothing has changed: {cause}"
):
    """A replica could not stage, so none has changed. `cause` is that replica's error, `story` what came before."""

    @property
    def http_status(self) -> int:
        return getattr(self.facts["cause"], "http_status", 500)


class BaseVersionMismatch(
    WeightsError,
    status=409,
    text="model '{model}': base_version {base} is not what answers, version {current} is; make the changes anew on it",
):
    """A partial swap, or a swap with a condition, was made on another version than the current one."""


class BaseHasNoFile(
    WeightsError,
    status=409,
    text="model '{model}': version 0 is built into the package and in no file to change; swap in a complete file first",
):
    """A partial swap on the package's built-in weights."""


class Superseded(
    WeightsError,
    status=503,
    text=(
        "model '{model}': coordinator {term} of its store was followed by {newer}; ask that one. If this goes on, "
        "another application uses the same `store`"
    ),
):
    """Another coordinator has opened the store since: this one may not change it any more."""


class NotSettled(
    WeightsError,
    status=503,
    text="model '{model}': version {version} is committed, but {reason}; ask for the status",
):
    """After the commit point it could not be confirmed that nothing older is answered any more; `reason` says why."""


class VersionTaken(
    WeightsError, status=409, text="version {version} cannot be staged while version {active} answers: numbers grow"
):
    """A stage under the number that answers, or under one that is none."""


class StageWithdrawn(
    WeightsError, status=409, text="the stage of version {version} was withdrawn before it ended; nothing has changed"
):
    """A stage was stopped under way, since its swap has failed elsewhere or was given up."""


class NothingStaged(WeightsError, status=409, text="nothing is staged: call stage() before commit()"):
    """A commit without a stage before it."""


class NothingToRollBack(WeightsError, status=409, text="model '{model}': no previous version to roll back to"):
    """There is no previous version."""


class BuiltInWeightsReleased(
    WeightsError,
    status=409,
    text="model '{model}': version 0 is built into the package, and replica {replica} no longer holds it; swap instead",
):
    """Version 0 is in no file, so it is there only until two other versions have come."""


class UnknownWeightsVersion(
    WeightsError, status=404, text="model '{model}': version {version} is not stored; there is {known}"
):
    """The store does not hold this version."""


class SourceRefused(WeightsError, status=403, text="weights from '{uri}' are refused: {reason}"):
    """A weights URI that the configuration does not allow."""


class BadIndexInWeights(
    WeightsError, text="tensor '{name}': an index in it is outside {low}..{high}, the range of '{table}'; swap back"
):
    """The weights that answer hold an index that leads nowhere; no answer can be computed with them."""


class StoreFailed(WeightsError, status=507, text="weights store {path}: {detail}"):
    """The folder of versions could not be written or read; what was committed stays whole."""


class NotEnoughMemory(
    WeightsError,
    status=507,
    text=(
        "not enough memory on {place}: the weights need {needed} bytes more, and {spare} to spare; {available} are "
        "available. Nothing has changed; free memory there, raise its limit, or place fewer replicas on it"
    ),
):
    """The inactive buffer does not fit into the memory that is left."""


class WeightsMissing(WeightsError, status=503, text="no weights have been loaded yet: stage and commit some first"):
    """The package carries no weights and none have been committed yet."""
