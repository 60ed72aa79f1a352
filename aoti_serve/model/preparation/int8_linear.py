"""A linear layer's weight as int8, with a scale for each of its rows: `scale * int8` is the weight, nearly.

The int8 lie as oneDNN reads them. Its own reordering takes 4 ns for each, so its order is imitated, and compared with
the original once for each shape: blocks of 64 rows, and at the end, for the inputs' zero point, the negative sum of
each row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from aoti_serve.errors import UnfitForInt8
from aoti_serve.model.aoti.opaque import descriptor_of, opaque_bytes, opaque_over, pack_int8_linear
from aoti_serve.model.preparation.blocks import Blocks
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.torch_private import onednn_int8_linear

LEAST = 1e-30  # what is smaller is zero: its scale would be none
_BLOCK = 64  # rows and columns
_AT_ONCE = 1 << 18  # bytes; each step of the quantising finds them in the cache
_SCALE = 4  # bytes


def row_scales(rows: torch.Tensor) -> torch.Tensor:
    """The scale of each row of float32: its largest absolute value over 127; NaN if a value of it is not finite."""
    largest = torch.maximum(rows.amax(1), rows.amin(1).neg_())
    scales = largest.clamp(min=LEAST).div_(127)
    return scales.add_(largest.sub_(largest))  # infinite less infinite is NaN


def quantized(rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Rows of float32 in their scales, rounded to the nearest integer, still as float32."""
    return (rows * scales.reciprocal()[:, None]).round_()


class Int8Linear:
    """Quantises and packs one weight of `[rows, columns]`. On the CPU, in any thread."""

    def __init__(self, source: ConstantSpec) -> None:
        self._shape = source.shape[0], source.shape[1]
        self._layout = _layout(self._shape)
        self.nbytes = self._layout.nbytes + source.shape[0] * _SCALE
        row = source.nbytes // source.shape[0]
        imitated = max(_AT_ONCE // row // _BLOCK, 1) * _BLOCK
        self.rows_at_once = imitated if self._layout.imitated else source.shape[0]

    def tensors(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the code takes, the int8 and their scales, over `memory`: as many bytes as `nbytes`.

        Raises UnfitForInt8.
        """
        if reason := _what_is_wrong():
            raise UnfitForInt8(reason=reason)
        packed, scales = self._parts(memory)
        return opaque_over(packed, self._shape[::-1], torch.int8, self._layout.descriptor), scales

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Quantise rows into their place; `first` is the number of the first of them."""
        rows = rows.float()  # mixed dtypes are computed one by one
        scales = row_scales(rows)
        part = quantized(rows, scales)
        packed, all_scales = self._parts(memory)
        all_scales[first : first + len(rows)].copy_(scales)
        if self._layout.imitated:
            _place(part, first, packed, self._shape)
        else:
            packed.copy_(opaque_bytes(pack_int8_linear(part.to(torch.int8))))

    def _parts(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The memory of the int8 and, behind it, the scales."""
        return memory[: self._layout.nbytes], memory[self._layout.nbytes :].view(torch.float32)


class _Layout(NamedTuple):
    """How a weight is packed, and whether the imitation is right."""

    descriptor: torch.Tensor
    nbytes: int
    imitated: bool


@lru_cache(maxsize=1024)
def _layout(shape: tuple[int, int]) -> _Layout:
    weight = torch.randint(-127, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    packed = pack_int8_linear(weight)
    original = opaque_bytes(packed)
    imitation = torch.zeros(_filled_up(shape[0]) * (_filled_up(shape[1]) + 4), dtype=torch.uint8)
    _place(weight.float(), 0, imitation, shape)
    return _Layout(descriptor_of(packed), len(original), torch.equal(original, imitation))


def _place(part: torch.Tensor, first: int, memory: torch.Tensor, shape: tuple[int, int]) -> None:
    """Write integers, from row `first` on, as int8 to where oneDNN has them in a weight of this shape."""
    rows, columns = (_filled_up(size) for size in shape)
    blocks, sums = memory[: rows * columns], memory[rows * columns :].view(torch.int32)
    Blocks(_BLOCK, columns // 4).place(part.to(torch.int8), first, blocks)
    sums[first : first + len(part)].copy_(part.sum(1).neg_())
    if first + len(part) == shape[0]:
        sums[shape[0] :].zero_()


def _filled_up(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


@lru_cache(maxsize=1)
def _what_is_wrong() -> str | None:
    """Why oneDNN would compute wrong answers here; None if it does not."""
    packed = pack_int8_linear(torch.full((_BLOCK, _BLOCK), 127, dtype=torch.int8))
    if _answer(packed, 1.0) != 127 * 127 * _BLOCK:
        return "oneDNN does not add up products of int8 exactly on this processor, as it does not without VNNI"
    if _answer(packed, 2.0) != 127 * 127 * _BLOCK * 2:
        return "oneDNN goes on with the scales of weights that were swapped (is ONEDNN_CACHE_CONTEXT_UNSAFE set?)"
    return None


def _answer(packed: torch.Tensor, scale: float) -> float:
    """To the largest input, of the weight that is largest everywhere."""
    given, scales = torch.full((1, _BLOCK), 255, dtype=torch.uint8), torch.full((_BLOCK,), scale)
    one, offset, zero = torch.tensor(1.0), torch.tensor(128), torch.tensor(0)
    answer = onednn_int8_linear()(given, one, offset, packed, scales, zero, None, 1.0, 0, torch.float32, "none", [], "")
    return float(answer[0, 0])
