"""A signature against what was really compiled: which constants can be changed, and which inputs the code takes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import torch

from aoti_serve.model.tensor_memory import content_of, memory_key
from aoti_serve.signature.constants import BakedConstant
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec


def as_compiled(signature: Signature, values: Mapping[str, torch.Tensor], swappable: Collection[str]) -> Signature:
    """Return `signature` with only those constants that are `swappable` in the library.

    Another name of a swappable tensor becomes tied to it: the compiler keeps one of several. Each constant that is left
    was compiled in, with the value that it has in `values`, and becomes baked.
    """
    homes = {memory_key(values[name]): name for name in swappable if name in values}
    tied, baked = {}, []
    for name in [*(spec.name for spec in signature.constants), *signature.unused]:
        if name in swappable or name not in values:
            continue
        home = homes.get(memory_key(values[name]))
        if home is not None:
            tied[name] = home
        elif name not in signature.unused:
            baked.append(_baked(name, values[name]))
    return signature.model_copy(
        update={
            "constants": tuple(spec for spec in signature.constants if spec.name in swappable),
            "unused": tuple(name for name in signature.unused if name not in tied),
            "tied": tied,
            "baked": tuple(baked),
        }
    )


def passing_over(signature: Signature, unread: Collection[str]) -> Signature:
    """Return `signature` with the baked constants in `unread` as unused: none of their values changes an answer."""
    return signature.model_copy(
        update={
            "unused": (*signature.unused, *(spec.name for spec in signature.baked if spec.name in unread)),
            "baked": tuple(spec for spec in signature.baked if spec.name not in unread),
        }
    )


def _baked(name: str, value: torch.Tensor) -> BakedConstant:
    dtype = str(value.dtype).removeprefix("torch.")
    digest = hashlib.sha256(content_of(value).data).hexdigest()
    return BakedConstant(name=name, dtype=dtype, shape=tuple(value.shape), digest=digest)


def narrow(admitted: Sequence[TensorSpec], compiled: Sequence[TensorSpec], *, ranges: bool = False) -> str | None:
    """Describe the first input of which more is admitted than was compiled; None if there is none.

    The compiler may fix a dimension and not say so (upstream #150364, #151582); the checks of inputs that it generates
    tell. With `ranges` the ranges must agree as well. The compiler narrows them where it only chose the faster of two
    ways, so they do not count against what torch.export has proved.
    """
    sizes: dict[str, int | str] = {}
    for spec, form in zip(admitted, compiled, strict=False):
        if spec.dtype != form.dtype or not _fits(spec, form, sizes, ranges):
            what = f"{spec.dtype} {spec.describe_shape()}"
            return f"input '{spec.name}' is declared {what}, it was compiled for {form.dtype} {form.describe_shape()}"
    return None


def _fits(spec: TensorSpec, compiled: TensorSpec, sizes: dict[str, int | str], ranges: bool) -> bool:
    """True if every shape that `spec` admits was compiled; `sizes` are the compiler's symbols so far."""
    return len(spec.shape) == len(compiled.shape) and all(
        _within(dim, wanted, ranges) and _agrees(dim, wanted, sizes)
        for dim, wanted in zip(spec.shape, compiled.shape, strict=True)
    )


def _within(dim: int | Dim, compiled: int | Dim, ranges: bool) -> bool:
    if isinstance(compiled, int) or not ranges:
        return not isinstance(compiled, int) or dim == compiled
    low, high = (dim, dim) if isinstance(dim, int) else (dim.min, dim.max)
    enough = low >= compiled.min or compiled.min == 1
    return enough and (compiled.max is None or (high is not None and high <= compiled.max))


def _agrees(dim: int | Dim, compiled: int | Dim, sizes: dict[str, int | str]) -> bool:
    """True if dimensions that the compiler takes for equal are equal; its expressions must be ours as well."""
    if isinstance(compiled, int):
        return True
    derived = isinstance(dim, Dim) and (dim.factor, dim.offset) != (1, 0)
    if not compiled.symbol.isidentifier():
        return derived
    size = dim if isinstance(dim, int) else f"{dim.factor}*{dim.symbol}{dim.offset:+}"
    return sizes.setdefault(compiled.symbol, size) == size
