"""Every error that aoti-serve raises on purpose.

AotiServeError                      500
├── InvalidInput                    400  the request does not fit the signature or the protocol
│   ├── InvalidBody                      the body is not a V2 request
│   ├── UnknownInput, MissingInput, UnknownOutput
│   └── WrongInputDtype, WrongInputShape, WrongInputLength, InvalidInputData
├── UnknownModel, UnknownVersion    404
├── BodyTooLarge                    413
├── InvalidConfig                   400
├── WeightsError
│   ├── InvalidWeights              400  the weights do not fit the package
│   │   ├── UnreadableWeights, DigestMismatch
│   │   └── MissingTensor, UnknownTensor, WrongTensorDtype, WrongTensorShape
│   ├── SwapInProgress              409
│   ├── StageFailed                 (the status of its cause) a replica could not stage; nothing has changed
│   ├── NothingStaged, NothingToRollBack    409
│   ├── UnknownWeightsVersion       404
│   ├── SourceRefused               403  a URI outside the allowed roots
│   ├── StoreFailed                 507  the versions could not be written or read
│   └── WeightsMissing              503  a package without weights was asked to run
├── PackageError
│   ├── UnreadablePackage, UnknownSignature, IncompatiblePackage, BakedConstants
│   └── UnsupportedModule                export cannot describe this module
├── Unauthorized                    401, AdminClosed 403
├── Unavailable                     503
│   ├── QueueFull                        the gateway's queue holds all the rows it may
│   ├── ReplicaBehind                    a replica has not reached the fence in time
│   └── ContainerClosed
├── RuntimeFailed                   500  AOTInductor reported an error of its own
└── ServerUnreachable, ServerRefused, StartFailed    what the command line meets

An error is its facts: they are keyword arguments, the text is made from them, and both survive pickling, since Ray
pickles whatever a replica raises.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AotiServeError(Exception):
    """Base of all errors here. `status` is the HTTP status it becomes, `facts` what it knows."""

    status: ClassVar[int] = 500
    text: ClassVar[str] = "{detail}"

    def __init__(self, **facts: Any) -> None:
        super().__init__(facts)
        self.facts = facts

    def __str__(self) -> str:
        return self.text.format_map(self.facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.facts)

    @property
    def http_status(self) -> int:
        return self.status


def _revive(kind: type[AotiServeError], facts: dict[str, Any]) -> AotiServeError:
    return kind(**facts)


class InvalidInput(AotiServeError):
    """The request cannot be run as it is; nothing was run."""

    status = 400


class InvalidBody(InvalidInput):
    """The body, a header or a parameter is not what the protocol asks for."""


class UnknownInput(InvalidInput):
    """An input was sent that the model does not have."""

    text = "input '{name}': the model has no such input; it has {known}"


class MissingInput(InvalidInput):
    """An input of the model was not sent."""

    text = "input '{name}': missing"


class UnknownOutput(InvalidInput):
    """An output was asked for that the model does not have."""

    text = "output '{name}': the model has no such output; it has {known}"


class WrongInputDtype(InvalidInput):
    """The data type differs from the signature."""

    text = "input '{name}': datatype {got}, the model takes {expected}"


class WrongInputShape(InvalidInput):
    """Rank, a dimension or a dimension's range differs from the signature, or from another input."""

    text = "input '{name}': shape {got}, the model takes {expected}: {reason}"


class WrongInputLength(InvalidInput):
    """The data holds more or fewer elements or bytes than the shape says."""

    text = "input '{name}': {got} {unit}, shape {shape} needs {expected}"


class InvalidInputData(InvalidInput):
    """The data cannot be read as the data type says."""

    text = "input '{name}': {detail}"


class UnknownModel(AotiServeError):
    """No model of this name is served here."""

    status = 404
    text = "model '{name}' is not served here; there is {known}"


class UnknownVersion(AotiServeError):
    """The asked weights version is not the one that answers."""

    status = 404
    text = "model '{name}' does not answer with version {version}; it answers with {current}"


class BodyTooLarge(AotiServeError):
    """The body is larger than the configuration allows."""

    status = 413
    text = "the body is larger than the {limit} bytes that are allowed ({setting})"


class InvalidConfig(AotiServeError):
    """The configuration names something that cannot be."""

    status = 400


class WeightsError(AotiServeError):
    """Something about weights; the version that answered before goes on answering."""


class InvalidWeights(WeightsError):
    """The weights do not fit the package; nothing has changed."""

    status = 400


class UnreadableWeights(InvalidWeights):
    """Not a safetensors file, or a damaged one."""

    text = "the weights are not a whole safetensors file: {detail}"


class DigestMismatch(InvalidWeights):
    """The bytes are not the ones that were promised."""

    text = "the weights have sha256 {got}, expected {expected}"


class MissingTensor(InvalidWeights):
    """A constant of the package is not among the weights."""

    text = "tensor '{name}': missing from the weights"


class UnknownTensor(InvalidWeights):
    """The weights hold a tensor that the package does not have."""

    text = "tensor '{name}': the package has no such constant"


class WrongTensorDtype(InvalidWeights):
    """A tensor's dtype differs from the constant's."""

    text = "tensor '{name}': dtype {got}, the package takes {expected}"


class WrongTensorShape(InvalidWeights):
    """A tensor's shape differs from the constant's."""

    text = "tensor '{name}': shape {got}, the package takes {expected}"


class SwapInProgress(WeightsError):
    """Only one swap at a time may run on a model."""

    status = 409
    text = "model '{model}': a swap is in progress (phase {phase}); try again when it has ended"


class StageFailed(WeightsError):
    """A replica could not stage, so no replica has changed. `cause` is that replica's error."""

    text = "replica {replica} could not stage version {version}, nothing has changed: {cause}"

    @property
    def http_status(self) -> int:
        cause = self.facts["cause"]
        return cause.http_status if isinstance(cause, AotiServeError) else 500


class NothingStaged(WeightsError):
    """A commit without a stage before it."""

    status = 409
    text = "nothing is staged: call stage() before commit()"


class NothingToRollBack(WeightsError):
    """There is no previous version."""

    status = 409
    text = "model '{model}': no previous version to roll back to"


class UnknownWeightsVersion(WeightsError):
    """The store does not hold this version."""

    status = 404
    text = "model '{model}': version {version} is not stored; there is {known}"


class SourceRefused(WeightsError):
    """A weights URI that the configuration does not allow."""

    status = 403
    text = "weights from '{uri}' are refused: {reason}"


class StoreFailed(WeightsError):
    """The folder of versions could not be written or read; what was committed stays whole."""

    status = 507
    text = "weights store {path}: {detail}"


class WeightsMissing(WeightsError):
    """The package carries no weights and none have been committed yet."""

    status = 503
    text = "no weights have been loaded yet: stage and commit some first"


class PackageError(AotiServeError):
    """A package that cannot be used here."""


class UnreadablePackage(PackageError):
    """Not an AOTInductor package."""

    text = "package {path}: {detail}"


class UnknownSignature(PackageError):
    """The package does not say what its inputs and outputs are."""

    text = (
        "package {path} holds no aoti-serve signature (names, dtypes and shapes of its inputs): "
        "package the model with `aoti-serve package my_module:make_model --out model.pt2`"
    )


class IncompatiblePackage(PackageError):
    """The package was compiled for another machine, or differs from its own signature."""

    text = "package {path} will not run here: {reason}"


class BakedConstants(PackageError):
    """Some parameters were compiled into the code and could never be swapped."""

    text = "these parameters or buffers were compiled in and could not be swapped: {names}"


class UnsupportedModule(PackageError):
    """The module's inputs or outputs cannot be described in a signature."""


class Unauthorized(AotiServeError):
    """No admin token was sent, or a wrong one."""

    status = 401
    text = "the weights API needs the header `Authorization: Bearer <admin token>`: {reason}"


class AdminClosed(AotiServeError):
    """No admin token is configured, so nothing can be changed."""

    status = 403
    text = "the weights API is closed: no admin token is configured; run `aoti-serve token`, then restart"


class Unavailable(AotiServeError):
    """The server cannot answer now; another try may succeed."""

    status = 503


class QueueFull(Unavailable):
    """As many rows wait as may wait."""

    text = "model '{model}': {rows} rows are waiting already, the limit is {limit}"


class ReplicaBehind(Unavailable):
    """The replica did not reach the fence in time."""

    text = "replica {replica} is at epoch {epoch}, the request asks for {fence} or later"


class ContainerClosed(Unavailable):
    """The container has been closed."""

    text = "the container is closed"


class RuntimeFailed(AotiServeError):
    """AOTInductor's own error text, unchanged."""

    text = "{call}: {detail}"


class ServerUnreachable(AotiServeError):
    """Nobody answers at the URL."""

    text = "no aoti-serve server answers at {url}: {detail}"


class ServerRefused(AotiServeError):
    """The server answered with an error; the text is its own."""

    text = "{detail}"

    @property
    def http_status(self) -> int:
        return int(self.facts["status"])


class StartFailed(AotiServeError):
    """The server could not be started."""
