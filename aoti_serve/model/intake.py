"""Weights on their way in: checked in full, and completed, before a byte of them moves."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from aoti_serve.constants import Constants
from aoti_serve.errors import ConstantIsBaked, TiedTensorsDiffer, UnfitTensor, UnreadableWeights
from aoti_serve.model.readable import place_of, shaped, unreadable
from aoti_serve.tensors import Shaped


def accepted(
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
    _check_tied(weights, constants)
    for spec in constants.baked:
        if spec.name in weights and digest_of(weights[spec.name]) != spec.digest:
            _baked(spec.name, strict)
    given = {constants.tied.get(name, name): tensor.detach() for name, tensor in weights.items()}
    values = {**rest, **given}
    return {spec.name: values[spec.name] for spec in constants.constants}


def digest_of(tensor: torch.Tensor) -> str:
    """sha256 of the contiguous bytes, in hex."""
    content: Any = tensor.detach().cpu().contiguous().resolve_neg().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content).hexdigest()


def _read(name: str, tensor: Any) -> Shaped:
    if problem := unreadable(tensor):
        raise UnfitTensor(name=name, detail=problem)
    return shaped(tensor)


def _check_tied(weights: Mapping[str, torch.Tensor], constants: Constants) -> None:
    """All names of one constant must agree: silently taking one of them would be another model."""
    seen = {name: name for name in weights if name not in constants.tied}
    for name, tied in constants.tied.items():
        if name not in weights:
            continue
        first = seen.setdefault(tied, name)
        if first != name and not _same(weights[name], weights[first]):
            raise TiedTensorsDiffer(name=name, tied=first)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return place_of(one) == place_of(other) or digest_of(one) == digest_of(other)


def _baked(name: str, strict: bool) -> None:
    error = ConstantIsBaked(name=name)
    if strict:
        raise error
    warnings.warn(str(error), stacklevel=4)
