"""The check that compiled code takes all that a signature admits: the compiler may fix a dimension without a word.

What it was compiled for is in the checks of inputs that it generates (upstream #150364, #151582).
"""

from __future__ import annotations

from collections.abc import Sequence

from aoti_serve.signature.tensors import Dim, TensorSpec


def narrow(admitted: Sequence[TensorSpec], compiled: Sequence[TensorSpec], *, ranges: bool = False) -> str | None:
    """The first input of which more is admitted than was compiled, in words; None if there is none.

    With `ranges` those are held to as well. The compiler narrows them where it only chose the faster of two ways, so
    they do not count against what torch.export has proved.
    """
    sizes: dict[str, int | str] = {}
    for spec, form in zip(admitted, compiled, strict=False):
        if spec.dtype != form.dtype or not _fits(spec, form, sizes, ranges):
            what = f"{spec.dtype} {spec.describe_shape()}"
            return f"input '{spec.name}' is declared {what}, it was compiled for {form.dtype} {form.describe_shape()}"
    return None


def _fits(spec: TensorSpec, compiled: TensorSpec, sizes: dict[str, int | str], ranges: bool) -> bool:
    """Whether every shape that `spec` admits is one that was compiled; `sizes` are the compiler's symbols so far."""
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
    """Whether dimensions that the compiler holds equal are equal; an expression of its own must be one of ours."""
    if isinstance(compiled, int):
        return True
    derived = isinstance(dim, Dim) and (dim.factor, dim.offset) != (1, 0)
    if not compiled.symbol.isidentifier():
        return derived
    size = dim if isinstance(dim, int) else f"{dim.factor}*{dim.symbol}{dim.offset:+}"
    return sizes.setdefault(compiled.symbol, size) == size
