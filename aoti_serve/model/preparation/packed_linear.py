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
from aoti_serve.model.preparation.blocks import Blocks, blocks_of
from aoti_serve.model.preparation.recipe import PACKED_LINEAR
from aoti_serve.signature.constants import ConstantSpec

_AT_ONCE = 1 << 20  # bytes; they are in the cache when they are written, and a block of rows may be much less


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
        blocks, row = self._layout.blocks, source.nbytes // source.shape[0]
        self.rows_at_once = max(_AT_ONCE // row // blocks.rows, 1) * blocks.rows if blocks else source.shape[0]

    def tensors(self, memory: torch.Tensor) -> tuple[torch.Tensor]:
        """What the code takes, over `memory`: as many bytes as `nbytes`."""
        return (opaque_over(memory, self._shape, self._dtype, self._layout.descriptor),)

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Pack rows of the plain weight into their place; `first` is the number of the first of them."""
        if self._layout.blocks:
            self._layout.blocks.place(rows, first, memory)
        else:
            memory.copy_(opaque_bytes(pack_linear(rows)))


class _Layout(NamedTuple):
    """How a weight is packed; the blocks of an order that can be imitated."""

    descriptor: torch.Tensor
    nbytes: int
    blocks: Blocks | None


@lru_cache(maxsize=1024)
def _layout(dtype: torch.dtype, shape: tuple[int, int]) -> _Layout:
    """Try how oneDNN packs bytes of every kind, NaN and denormals too. Takes three times the weight's memory."""
    size = shape[0] * shape[1] * dtype.itemsize
    words = torch.randint(-(2**63), 2**63 - 1, (-(-size // 8),), generator=torch.Generator().manual_seed(0))
    weight = words.view(torch.uint8)[:size].view(dtype).view(shape)
    packed = pack_linear(weight)
    content = opaque_bytes(packed)
    return _Layout(descriptor_of(packed), len(content), blocks_of(weight, content))
