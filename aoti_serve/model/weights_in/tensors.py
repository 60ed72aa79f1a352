"""Weights as tensors in memory: all of them are checked before a byte of them moves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from aoti_serve.errors import ConstantIsBaked, UnfitTensor, UnreadableWeights
from aoti_serve.model.tensor_memory import content_of, memory_key, shaped_as, unreadable
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.contents import ContentsCheck
from aoti_serve.signature.tensors import Shaped


def accept_tensors(
    weights: Mapping[str, torch.Tensor],
    constants: Constants,
    rest: Mapping[str, torch.Tensor],
    *,
    partial: bool = False,
    strict: bool = True,
) -> dict[str, torch.Tensor]:
    """A value for every constant: from `weights`, and from `rest` where those may leave it out.

    Raises an InvalidWeights that names the tensor. A baked-in constant with another value is an error if `strict`,
    else a warning.
    """
    if not isinstance(weights, Mapping):
        raise UnreadableWeights(detail=f"a {type(weights).__name__} instead of tensors by name")
    weights = dict(weights.items())  # some make their tensors anew each time they are asked
    constants.check_weights({name: _read(name, tensor) for name, tensor in weights.items()}, partial=partial)
    _check_contents(weights, constants, strict)
    given = {constants.tied.get(name, name): tensor.detach() for name, tensor in weights.items()}
    values = {**rest, **given}
    return {spec.name: values[spec.name] for spec in constants.constants}


def warn_of_baked(names: list[str]) -> None:
    """Warn of constants in the weights whose compiled value stays."""
    for name in names:
        warnings.warn(str(ConstantIsBaked(name=name)), stacklevel=4)


def _read(name: str, tensor: Any) -> Shaped:
    if problem := unreadable(tensor):
        raise UnfitTensor(name=name, detail=problem)
    return shaped_as(tensor)


def _check_contents(weights: Mapping[str, torch.Tensor], constants: Constants, strict: bool) -> None:
    # A trainer's tied names are one in memory, which need not be read to be known equal.
    one = {(constants.tied.get(name, name), memory_key(tensor)): name for name, tensor in weights.items()}
    contents = ContentsCheck(one.values(), constants)
    for name in one.values():
        if contents.reads(name):
            contents.take(name, content_of(weights[name]))
    warn_of_baked(contents.finish(strict=strict))
