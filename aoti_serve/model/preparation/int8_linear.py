"""A linear layer's weight as int8, with a scale for each of its rows: `scale * int8` is the weight, nearly.

The int8 lie as oneDNN reads them. Its own reordering takes 4 ns for each, so its order is imitated, and compared with
the original once for each shape: blocks of 64 rows, in them 4 columns of each row together, and at the end, for the
inputs' zero point, the negative sum of each row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from aoti_serve.errors import UnfitForInt8
from aoti_serve.model.aoti.opaque import descriptor_of, opaque_bytes, opaque_over, pack_int8_linear
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.torch_private import onednn_int8_linear

LEAST = 1e-30  # what is smaller is zero: its scale would be none
_BLOCK = 64  # rows and columns
_AT_ONCE = 1 << 20  # bytes; each step of the quantising finds them in the cache


def row_scales(rows: torch.Tensor) -> torch.Tensor:
    """The scale of each row of float32: its largest absolute value over 127; NaN if a value of it is not finite."""
    largest = rows.abs().amax(1)
    scales = largest.clamp(min=LEAST).div_(127)
    return scales.add_(largest.sub_(largest))  # infinite less infinite is NaN


def quantized(rows: torch.Tensor) -> torch.Tensor:
    """Rows of float32 in their scales, rounded to the nearest integer, still as float32."""
    return (rows * row_scales(rows).reciprocal_()[:, None]).round_()


class Int8Linear:
    """Quantises and packs one weight of `[rows, columns]`. On the CPU, in any thread."""

    def __init__(self, source: ConstantSpec) -> None:
        self._shape = source.shape
        self._layout = _layout(source.shape)
        self.nbytes = self._layout.nbytes
        self.rows_at_once = _rows_at_once(source) if self._layout.imitated else source.shape[0]

    def tensor(self, memory: torch.Tensor) -> torch.Tensor:
        """What the code takes, over `memory`: as many bytes as `nbytes`. Raises UnfitForInt8."""
        if reason := _what_is_wrong():
            raise UnfitForInt8(reason=reason)
        return opaque_over(memory, self._shape[::-1], torch.int8, self._layout.descriptor)

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Quantise rows into their place; `first` is the number of the first of them."""
        part = quantized(rows.float())  # mixed dtypes are computed one by one
        if self._layout.imitated:
            _place(part, first, memory, self._shape[0])
        else:
            memory.copy_(opaque_bytes(pack_int8_linear(part.to(torch.int8))))


class Int8Scales:
    """The scales of the rows of an `Int8Linear`. On the CPU, in any thread."""

    def __init__(self, source: ConstantSpec) -> None:
        self.nbytes = source.shape[0] * 4
        self.rows_at_once = _rows_at_once(source)

    def tensor(self, memory: torch.Tensor) -> torch.Tensor:
        """What the code takes, over `memory`: as many bytes as `nbytes`."""
        return memory.view(torch.float32)

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Write the scales of rows; `first` is the number of the first of them."""
        memory.view(torch.float32)[first : first + len(rows)].copy_(row_scales(rows.float()))


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
    _place(weight.float(), 0, imitation, shape[0])
    return _Layout(descriptor_of(packed), len(original), torch.equal(original, imitation))


def _place(part: torch.Tensor, first: int, memory: torch.Tensor, rows: int) -> None:
    """Write integers, from row `first` on, as int8 to where oneDNN has them in a weight of `rows`."""
    count, columns = _filled_up(len(part)), _filled_up(part.shape[1])
    if (count, columns) != part.shape:
        part = pad(part, (0, columns - part.shape[1], 0, count - len(part)))
    body = memory[: _filled_up(rows) * columns].view(torch.int32).view(-1, columns // 4, _BLOCK)
    sums = memory[_filled_up(rows) * columns :].view(torch.int32)
    fours = part.to(torch.int8).view(torch.int32).view(-1, _BLOCK, columns // 4)
    body[first // _BLOCK : (first + count) // _BLOCK].copy_(fours.transpose(1, 2))
    sums[first : first + count].copy_(part.sum(1).neg_())


def _filled_up(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _rows_at_once(source: ConstantSpec) -> int:
    row = source.nbytes // source.shape[0]
    return max(_AT_ONCE // row // _BLOCK, 1) * _BLOCK


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
