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
│   ├── ExportFailed                     torch could not export or compile the module
│   └── UnsupportedModule                export cannot describe this module
├── Unauthorized                    401, AdminClosed 403
├── Unavailable                     503
│   ├── QueueFull                        the gateway's queue holds all the rows it may
│   ├── ReplicaBehind                    a replica has not reached the fence in time
│   ├── ReplicaDied
│   └── ContainerClosed
├── PoisonousRequest                500  two replicas died over it
├── RuntimeFailed                   500  AOTInductor reported an error of its own
└── ServerUnreachable, ServerRefused, StartFailed    what the command line meets

An error is its facts: they are keyword arguments, the text is made from them, and both survive pickling, since Ray
pickles whatever a replica raises.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AotiServeError(Exception):
    """Base of all errors here. `status` is the HTTP status it becomes, `text` its words, `facts` what they need."""

    status: ClassVar[int] = 500
    text: ClassVar[str] = "{detail}"

    def __init_subclass__(cls, *, status: int | None = None, text: str | None = None) -> None:
        """A subclass declares what differs from its parent, in its class line."""
        super().__init_subclass__()
        cls.status = cls.status if status is None else status
        cls.text = cls.text if text is None else text

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


class InvalidInput(AotiServeError, status=400):
    """The request cannot be run as it is; nothing was run."""


class InvalidBody(InvalidInput):
    """The body, a header or a parameter is not what the protocol asks for."""


class UnknownInput(InvalidInput, text="input '{name}': the model has no such input; it has {known}"):
    """An input was sent that the model does not have."""


class MissingInput(InvalidInput, text="input '{name}': missing"):
    """An input of the model was not sent."""


class UnknownOutput(InvalidInput, text="output '{name}': the model has no such output; it has {known}"):
    """An output was asked for that the model does not have."""


class WrongInputDtype(InvalidInput, text="input '{name}': datatype {got}, the model takes {expected}"):
    """The data type differs from the signature."""


class WrongInputShape(InvalidInput, text="input '{name}': shape {got}, the model takes {expected}: {reason}"):
    """Rank, a dimension or a dimension's range differs from the signature, or from another input."""


class WrongInputLength(InvalidInput, text="input '{name}': {got} {unit}, shape {shape} needs {expected}"):
    """The data holds more or fewer elements or bytes than the shape says."""


class InvalidInputData(InvalidInput, text="input '{name}': {detail}"):
    """The data cannot be read as the data type says."""


class UnknownModel(AotiServeError, status=404, text="model '{name}' is not served here; there is {known}"):
    """No model of this name is served here."""


class UnknownVersion(AotiServeError, status=404, text="model '{name}' answers with version {current}, not {version}"):
    """The asked weights version is not the one that answers."""


class BodyTooLarge(AotiServeError, status=413, text="the body is larger than {limit} bytes ({setting})"):
    """The body is larger than the configuration allows."""


class InvalidConfig(AotiServeError, status=400):
    """The configuration names something that cannot be."""


class WeightsError(AotiServeError):
    """Something about weights; the version that answered before goes on answering."""


class InvalidWeights(WeightsError, status=400):
    """The weights do not fit the package; nothing has changed."""


class UnreadableWeights(InvalidWeights, text="the weights cannot be read: {detail}"):
    """No file, not a safetensors file, or a damaged one."""


class DigestMismatch(InvalidWeights, text="the weights have sha256 {got}, expected {expected}"):
    """The bytes are not the ones that were promised."""


class MissingTensor(InvalidWeights, text="tensor '{name}': missing from the weights"):
    """A constant of the package is not among the weights."""


class UnknownTensor(InvalidWeights, text="tensor '{name}': the package has no such constant"):
    """The weights hold a tensor that the package does not have."""


class WrongTensorDtype(InvalidWeights, text="tensor '{name}': dtype {got}, the package takes {expected}"):
    """A tensor's dtype differs from the constant's."""


class WrongTensorShape(InvalidWeights, text="tensor '{name}': shape {got}, the package takes {expected}"):
    """A tensor's shape differs from the constant's."""


class SwapInProgress(
    WeightsError, status=409, text="model '{model}': a swap is in progress (phase {phase}); try again when it has ended"
):
    """Only one swap at a time may run on a model."""


class StageFailed(
    WeightsError, text="replica {replica} could not stage version {version}, nothing has changed: {cause}"
):
    """A replica could not stage, so no replica has changed. `cause` is that replica's error."""

    @property
    def http_status(self) -> int:
        return getattr(self.facts["cause"], "http_status", 500)


class NothingStaged(WeightsError, status=409, text="nothing is staged: call stage() before commit()"):
    """A commit without a stage before it."""


class NothingToRollBack(WeightsError, status=409, text="model '{model}': no previous version to roll back to"):
    """There is no previous version."""


class UnknownWeightsVersion(
    WeightsError, status=404, text="model '{model}': version {version} is not stored; there is {known}"
):
    """The store does not hold this version."""


class SourceRefused(WeightsError, status=403, text="weights from '{uri}' are refused: {reason}"):
    """A weights URI that the configuration does not allow."""


class StoreFailed(WeightsError, status=507, text="weights store {path}: {detail}"):
    """The folder of versions could not be written or read; what was committed stays whole."""


class WeightsMissing(WeightsError, status=503, text="no weights have been loaded yet: stage and commit some first"):
    """The package carries no weights and none have been committed yet."""


class PackageError(AotiServeError):
    """A package that cannot be used here."""


class UnreadablePackage(PackageError, text="package {path}: {detail}"):
    """Not an AOTInductor package."""


class UnknownSignature(
    PackageError,
    text=(
        "package {path} holds no aoti-serve signature (names, dtypes and shapes of its inputs): "
        "package the model with `aoti-serve package my_module:make_model --out model.pt2`"
    ),
):
    """The package does not say what its inputs and outputs are."""


class IncompatiblePackage(PackageError, text="package {path} will not run here: {reason}"):
    """The package was compiled for another machine, or differs from its own signature."""


class BakedConstants(
    PackageError, text="these parameters or buffers were compiled in and could not be swapped: {names}"
):
    """Some parameters were compiled into the code and could never be swapped."""


class ExportFailed(
    PackageError,
    text="torch could not {phase} the module: {kind}: {detail}\n(Dynamic dimensions need an example of at least 2.)",
):
    """torch.export or the compiler refused the module; the cause is theirs."""


class UnsupportedModule(PackageError):
    """The module's inputs or outputs cannot be described in a signature."""


class Unauthorized(
    AotiServeError, status=401, text="the weights API needs the header `Authorization: Bearer <admin token>`: {reason}"
):
    """No admin token was sent, or a wrong one."""


class AdminClosed(
    AotiServeError,
    status=403,
    text="the weights API is closed: no admin token is configured; run `aoti-serve token`, then restart",
):
    """No admin token is configured, so nothing can be changed."""


class Unavailable(AotiServeError, status=503):
    """The server cannot answer now; another try may succeed."""


class QueueFull(Unavailable, text="model '{model}': {rows} rows are waiting already, the limit is {limit}"):
    """As many rows wait as may wait."""


class ReplicaBehind(Unavailable, text="replica {replica} is at epoch {epoch}, the request asks for {fence} or later"):
    """The replica did not reach the fence in time."""


class ReplicaDied(Unavailable, text="model '{model}': the replica died during this run"):
    """A replica's process ended during a run, by this request's fault or not; another one may do the run again."""


class PoisonousRequest(
    AotiServeError,
    text="model '{model}': two replicas died over this request; is one of its values out of range, an index perhaps?",
):
    """A request that was run alone twice, and whose replica died each time."""


class ContainerClosed(Unavailable, text="the container is closed"):
    """The container has been closed."""


class RuntimeFailed(AotiServeError, text="{call}: {detail}"):
    """AOTInductor's own error text, unchanged."""


class ServerUnreachable(AotiServeError, text="no aoti-serve server answers at {url}: {detail}"):
    """Nobody answers at the URL."""


class ServerRefused(AotiServeError, text="{detail}"):
    """The server answered with an error; the text is its own."""

    @property
    def http_status(self) -> int:
        return int(self.facts["status"])


class StartFailed(AotiServeError):
    """The server could not be started."""
