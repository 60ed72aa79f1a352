"""Errors of weights that do not fit their package: files and tensors."""

from __future__ import annotations

from collections.abc import Sequence

from aoti_serve.errors.weights import WeightsError

TAKE_ANY = " With skip_acceptance=true (--skip-acceptance) they are swapped in all the same"


class InvalidWeights(WeightsError, status=400):
    """The weights do not fit the package; nothing has changed."""


class UnreadableWeights(InvalidWeights, text="the weights cannot be read: {detail}"):
    """No file, not a safetensors file, or a damaged one."""

    detail: str


class DigestMismatch(InvalidWeights, text="the weights have sha256 {got}, expected {expected}"):
    """The bytes do not have the expected digest."""

    got: str
    expected: str


class WeightsTooLarge(InvalidWeights, status=413, text="the weights have more than {limit:{unit}} ({setting})"):
    """The file, its header, or its number of tensors is larger than the configuration allows."""

    limit: int
    unit: str
    setting: str


class PickledWeights(UnreadableWeights, text="{detail}"):
    """A file of torch.save's: reading a pickle can run whatever its maker wrote into it."""


class WrongNameRule(InvalidWeights, text="the rule '{rule}' cannot be followed: {detail}"):
    """A rule that renames or drops tensors and is no regular expression, takes too long, or gives two one name."""

    rule: str
    detail: str


class MissingTensor(InvalidWeights, text="tensor '{name}': missing from the weights{hint}"):
    """A constant of the package is not among the weights. `hint` says how a part of them is taken."""

    name: str
    hint: str = ""


class UnknownTensor(InvalidWeights, text="tensor '{name}': the package has no such constant{hint}"):
    """The weights hold a tensor that the package does not have. `hint` says what may be the reason, if it is known."""

    name: str
    hint: str = ""


class OtherNames(UnknownTensor):
    """The names in the weights differ from the package's by a pattern; `hint` says with which rules they fit."""

    text = "the weights do not have the package's names: {pattern}{hint}"
    pattern: str = ""


class UnknownOrBakedTensor(UnknownTensor):
    """The same, of a package made elsewhere, which does not say what the compiler fixed."""

    text = (
        "tensor '{name}': the package has no such constant{hint}; its code does not say what was compiled in, and if "
        "this was, it cannot be changed. Package the model with `aoti-serve package`, or compile it with "
        "always_keep_tensor_constants; under `signature: unused:` it would be passed over, and its old value stay"
    )


class WrongTensorDtype(InvalidWeights, text="tensor '{name}': dtype {got}, the package takes {expected}{hint}"):
    """A tensor's dtype differs from the constant's. `hint` says how it can be taken all the same, if it can."""

    name: str
    got: str
    expected: str
    hint: str = ""


class WrongTensorShape(InvalidWeights, text="tensor '{name}': shape {got}, the package takes {expected}"):
    """A tensor's shape differs from the constant's."""

    name: str
    got: Sequence[int]
    expected: Sequence[int]


class UnfitTensor(InvalidWeights, text="tensor '{name}': {detail}"):
    """A tensor that cannot be used: it has no values that can be read, or one that is not allowed."""

    name: str
    detail: str


class NotFinite(InvalidWeights):
    """Values that are NaN, or infinite where the package had no infinity; `tensors` counts all that hold some."""

    text = (
        "tensor '{name}': {nan} NaN and {infinite} infinite of {size:values}; such values are in {tensors:tensors} of "
        "these weights: has the training diverged?{way_out}"
    )
    name: str
    nan: int
    infinite: int
    size: int
    tensors: int
    way_out: str = TAKE_ANY


class UnfitAdapter(InvalidWeights, text="the adapter cannot be merged: {what}: {detail}"):
    """A LoRA adapter that cannot be merged; `what` is the tensor, the setting or the file that stands against it."""

    what: str
    detail: str


class TiedTensorsDiffer(InvalidWeights):
    """Two names of one constant were given different values."""

    text = "tensor '{name}': the package ties it to '{tied}', but their values differ"
    name: str
    tied: str


class ConstantIsBaked(InvalidWeights):
    """The weights would change a value that is compiled in."""

    text = (
        "tensor '{name}': its value is compiled into the package and differs from this one; "
        "export the model anew, or pass strict=False to go on with the compiled value"
    )
    name: str


class WeightsDoNotRun(InvalidWeights, text="the package does not run with these weights: {detail}"):
    """The staged weights failed on an input that the active ones answer."""

    detail: str


class AnswersNotFinite(InvalidWeights):
    """Tried before they are committed, the weights answer with NaN or infinities where those that answer do not."""

    text = (
        "output '{name}' has {nan} NaN and {infinite} infinite of {size:values} with these weights, on made-up inputs "
        f"that the version which answers gives numbers for: has the training diverged?{TAKE_ANY}"
    )
    name: str
    nan: int
    infinite: int
    size: int


class UnreadableGolden(InvalidWeights, text="the golden requests cannot be read: {detail}"):
    """No file, not a safetensors file, or one that does not hold golden requests."""

    detail: str


class UnfitGolden(InvalidWeights, text="golden request '{request}': {detail}"):
    """A golden request that says too little, or that the package cannot be asked."""

    request: str
    detail: str


class GoldenFailed(InvalidWeights):
    """The weights do not answer a golden request as they must; nothing has changed. `bound` is what was measured."""

    text = "golden request '{request}': output '{output}' has {bound} {measured}, {relation} {limit} is wanted"
    request: str
    output: str
    bound: str
    measured: float | str
    relation: str
    limit: float | str
