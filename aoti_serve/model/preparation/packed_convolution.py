"""A convolution's weight, packed for oneDNN: in the layout that its kernel wants on this machine, for inputs of a size.

The code calls `mkldnn::_convolution_pointwise`, which takes a plain weight as well, and then packs it in every run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from aoti_serve.errors import CannotPrepare
from aoti_serve.model.aoti.opaque import descriptor_of, opaque_bytes, opaque_over, pack_convolution, packs
from aoti_serve.model.preparation.recipe import Recipe, Window


class PackedConvolution:
    """Packs one weight, of one or two dimensions beside its channels, all of it at once. On the CPU, in any thread.

    The layouts of convolutions mix rows: no part of a weight has a place of its own. And such weights are small.
    Raises CannotPrepare on a processor on which oneDNN does not know the dtype.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.window is not None
        self._window = recipe.window
        (constant,) = recipe.constants
        self._dtype = getattr(torch, constant.dtype)
        if not packs(self._dtype):
            reason = f"oneDNN does not compute in {constant.dtype} on this processor"
            raise CannotPrepare(name=recipe.source, by=recipe.by, reason=reason)
        self._shape = constant.shape
        self._layout = _layout(self._dtype, self._shape, self._window)
        self.nbytes = self._layout.nbytes
        self.rows_at_once = self._shape[0]

    def tensors(self, memory: torch.Tensor) -> tuple[torch.Tensor]:
        """What the code takes, over `memory`: as many bytes as `nbytes`."""
        return (opaque_over(memory, self._shape, self._dtype, self._layout.descriptor),)

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Pack the plain weight, which is all of `rows`."""
        memory.copy_(opaque_bytes(_packed(rows.reshape(self._shape), self._window)))


class _Layout(NamedTuple):
    descriptor: torch.Tensor
    nbytes: int


@lru_cache(maxsize=1024)
def _layout(dtype: torch.dtype, shape: tuple[int, ...], window: Window) -> _Layout:
    packed = _packed(torch.zeros(shape, dtype=dtype), window)
    return _Layout(descriptor_of(packed), len(opaque_bytes(packed)))


def _packed(weight: torch.Tensor, window: Window) -> torch.Tensor:
    return pack_convolution(weight, window.padding, window.stride, window.dilation, window.groups, window.taken)
