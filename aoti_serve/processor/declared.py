"""What a processor's class declares: its inputs and outputs, and which of the two steps it has."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

from pydantic import ValidationError, field_validator

from aoti_serve.config import ProcessorConfig
from aoti_serve.errors import InvalidConfig, problems
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import BYTES, TensorSpec

BEFORE, AFTER = "before", "after"  # a processor's steps, and its methods
STEP_SIDES = {BEFORE: "inputs", AFTER: "outputs"}


class ProcessorTensor(TensorSpec):
    """An input or output of a processor, which may be BYTES."""

    @field_validator("dtype")
    @classmethod
    def _known(cls, value: str) -> str:
        return value if value == BYTES.oip else super()._known(value)


class Declared(NamedTuple):
    """What clients of a model with a processor send and get, and which `steps` lie between."""

    signature: Signature
    steps: frozenset[str]


def processor_class(config: ProcessorConfig, model: str) -> type:
    """Import the class. Raises InvalidConfig."""
    module, name = config.class_path.split(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # whatever its module raises
        raise _unfit(config, model, f"cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise _unfit(config, model, "is no class")
    return found


def declared(config: ProcessorConfig, model: str, own: Signature) -> Declared:
    """What the class declares for a model whose `own` signature that is. Raises InvalidConfig.

    What it does not declare is the model's own; it must declare `inputs` if it has `before`, `outputs` if `after`.
    """
    cls = processor_class(config, model)
    steps = frozenset(step for step in STEP_SIDES if callable(getattr(cls, step, None)))
    if not steps:
        raise _unfit(config, model, "has neither a method `before` nor `after`")
    found: dict[str, tuple[TensorSpec, ...]] = {"inputs": own.inputs, "outputs": own.outputs}
    for step, side in STEP_SIDES.items():
        given = getattr(cls, side, None)
        if (given is None) == (step in steps):
            wants = f"has `{step}` without `{side}`" if given is None else f"has `{side}` without `{step}`"
            raise _unfit(config, model, f"{wants}: it needs both, or neither")
        if given is not None:
            found[side] = _specs(config, model, side, given)
    return Declared(Signature(inputs=found["inputs"], outputs=found["outputs"], constants=()), steps)


def _specs(config: ProcessorConfig, model: str, side: str, given: Any) -> tuple[TensorSpec, ...]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes) or not (entries := list(given)):
        raise _unfit(config, model, f"`{side}` must be a list of {{name, dtype, shape}}")
    specs = []
    for place, entry in enumerate(entries):
        try:
            fields = entry.model_dump() if isinstance(entry, TensorSpec) else entry
            specs.append(ProcessorTensor.model_validate(fields))
        except ValidationError as error:
            raise _unfit(config, model, f"{side}[{place}]: {problems(error.errors())}") from error
    if len({spec.name for spec in specs}) < len(specs):
        raise _unfit(config, model, f"two of its `{side}` have one name")
    return tuple(specs)


def _unfit(config: ProcessorConfig, model: str, why: str) -> InvalidConfig:
    return InvalidConfig(detail=f"model '{model}': processor: class {config.class_path} {why}")
