"""A linear layer's weight, packed for oneDNN: in the layout that its kernels read fastest on this machine.

The code calls `mkldnn::_linear_pointwise`, which takes a plain weight as well, and then packs it in every run. A frozen
package holds the layout of the machine that compiled it; here the machine that runs it chooses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from aoti_serve.errors import CannotPrepare
from aoti_serve.model.aoti.opaque import descriptor_of, opaque_bytes, opaque_over, pack_linear, packs
from aoti_serve.model.preparation.recipe import PACKED_LINEAR
from aoti_serve.signature.constants import ConstantSpec

_BLOCK = 64  # rows; oneDNN's layouts keep so many or fewer together, and the blocks in the order of their rows
_AT_ONCE = 4 << 20  # bytes; a call of oneDNN costs 0.1 ms, and a larger copy costs page faults


class PackedLinear:
    """Packs one weight of `[rows, columns]`, `rows_at_once` of it at a time. On the CPU, in any thread.

    Raises CannotPrepare on a processor on which oneDNN does not know the dtype.
    """

    def __init__(self, source: ConstantSpec) -> None:
        self._dtype = getattr(torch, source.dtype)
        if not packs(self._dtype):
            reason = f"oneDNN does not compute in {source.dtype} on this processor"
            raise CannotPrepare(name=source.name, by=PACKED_LINEAR, reason=reason)
        self._shape = source.shape
        self._layout = _layout(self._dtype, source.shape)
        self.nbytes = self._layout.nbytes
        self.rows_at_once = self._layout.rows

    def tensor(self, memory: torch.Tensor) -> torch.Tensor:
        """What the code takes, over `memory`: as many bytes as `nbytes`."""
        return opaque_over(memory, self._shape, self._dtype, self._layout.descriptor)

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Pack rows of the plain weight into their place; `first` is the number of the first of them."""
        packed = pack_linear(_filled_up(rows, self._shape[0]))
        place = first // self.rows_at_once * self._layout.step
        part = opaque_bytes(packed)
        memory[place : place + len(part)].copy_(part)


class _Layout(NamedTuple):
    """How a weight is packed; `rows` of it at once take `step` bytes."""

    descriptor: torch.Tensor
    nbytes: int
    rows: int
    step: int


@lru_cache(maxsize=1024)
def _layout(dtype: torch.dtype, shape: tuple[int, ...]) -> _Layout:
    """Try whether a weight can be packed part by part; if not, it is packed whole. Takes twice its memory."""
    weight = torch.rand(shape, dtype=dtype)
    whole = pack_linear(weight)
    memory, descriptor = opaque_bytes(whole), descriptor_of(whole)
    rows = max(_AT_ONCE // (weight.nbytes // shape[0]) // _BLOCK, 1) * _BLOCK
    if rows < shape[0] and (step := _step(weight, memory, rows)):
        return _Layout(descriptor, len(memory), rows, step)
    return _Layout(descriptor, len(memory), shape[0], len(memory))


def _step(weight: torch.Tensor, memory: torch.Tensor, rows: int) -> int:
    """The bytes that so many rows take by themselves; 0 if all parts together are not the packed weight, `memory`."""
    place = step = 0
    for part in torch.split(weight, rows):
        packed = opaque_bytes(pack_linear(_filled_up(part, len(weight))))
        if not torch.equal(packed, memory[place : place + len(packed)]):
            return 0
        place, step = place + len(packed), step or len(packed)
    return step if place == len(memory) else 0


def _filled_up(rows: torch.Tensor, whole: int) -> torch.Tensor:
    """Rows up to a whole block, with zeros, as oneDNN fills the last one of a weight; `whole` is all rows at once."""
    missing = -len(rows) % _BLOCK
    if len(rows) == whole or not missing:
        return rows
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
