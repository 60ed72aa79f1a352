"""Weights on their way in: what is checked of them, and that before a byte of them moves."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from aoti_serve.errors import ConstantIsBaked, TiedTensorsDiffer, UnfitTensor, UnreadableWeights
from aoti_serve.model.tensor_memory import bytes_of, memory_key, shaped_as, unreadable
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.tensors import DTYPES, Shaped, Span


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
    _check_tied(weights, constants)
    given = {constants.tied.get(name, name): tensor.detach() for name, tensor in weights.items()}
    for spec in constants.constants:
        if spec.dtype == "bool" and spec.name in given and given[spec.name].numel():
            check_bools(spec.name, int(given[spec.name].view(torch.uint8).max()))
    for baked in constants.baked:
        if baked.name in weights and tensor_digest(weights[baked.name]) != baked.digest:
            check_baked(baked.name, strict)
    values = {**rest, **given}
    return {spec.name: values[spec.name] for spec in constants.constants}


def check_tensor_index(index: Mapping[str, Span], constants: Constants) -> None:
    """Raise an InvalidWeights that names the tensor if a file with these tensors does not fit, or cannot be one."""
    constants.check_weights({name: Shaped(span.dtype, span.shape) for name, span in index.items()})
    for name, span in index.items():
        if not 0 <= span.begin <= span.end:
            raise UnfitTensor(name=name, detail=f"its bytes are from {span.begin} to {span.end}")
        if span.dtype not in DTYPES:
            continue  # nobody reads it
        needed = math.prod(span.shape) * DTYPES[span.dtype].itemsize
        if span.end - span.begin != needed:
            raise UnfitTensor(name=name, detail=f"{span.end - span.begin} bytes, its shape takes {needed}")
    ordered = sorted(index, key=lambda name: index[name][-2:])
    for before, name in pairwise(ordered):
        if index[name].begin < index[before].end:
            raise UnfitTensor(name=name, detail=f"its bytes are also those of '{before}'")


def check_baked(name: str, strict: bool) -> None:
    """Of a baked-in constant with another value: an error if `strict`, else a warning."""
    error = ConstantIsBaked(name=name)
    if strict:
        raise error
    warnings.warn(str(error), stacklevel=4)


def check_bools(name: str, largest: int) -> None:
    """Refuse bools of which a byte is above 1: compiled code may take it for a number, and index with it."""
    if largest > 1:
        raise UnfitTensor(name=name, detail=f"a bool that is {largest} in memory, neither 0 nor 1")


def tensor_digest(tensor: torch.Tensor) -> str:
    """sha256 of the contiguous bytes, in hex."""
    content: Any = bytes_of(tensor.detach().cpu().contiguous().resolve_neg()).numpy()
    return hashlib.sha256(content).hexdigest()


def _read(name: str, tensor: Any) -> Shaped:
    if problem := unreadable(tensor):
        raise UnfitTensor(name=name, detail=problem)
    return shaped_as(tensor)


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
    return memory_key(one) == memory_key(other) or tensor_digest(one) == tensor_digest(other)
