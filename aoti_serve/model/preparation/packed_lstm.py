"""One of an LSTM's two weights, packed for oneDNN: in the layout that its kernel reads fastest on this machine.

The code calls `mkldnn_rnn_layer`, which takes plain weights as well, and then packs them in every run. The layout is
the same for all batches and lengths, or, with AVX2 alone, for most: the others are packed once more as they run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from aoti_serve.errors import CannotPrepare
from aoti_serve.model.aoti.opaque import descriptor_of, opaque_bytes, opaque_over, pack_lstm, packs
from aoti_serve.model.preparation.recipe import PACKED_LSTM_INPUT, Recipe
from aoti_serve.model.tensor_memory import constant_in

_GATES = 4


class PackedLstm:
    """Packs one weight of `[4 * hidden, columns]`, all of it at once: its layout mixes rows. On the CPU, in any thread.

    Where oneDNN has no layout that fits all inputs, the weight stays plain.
    Raises CannotPrepare on a processor on which oneDNN does not know the dtype.
    """

    def __init__(self, recipe: Recipe) -> None:
        (self._spec,) = recipe.constants
        self._dtype = getattr(torch, self._spec.dtype)
        if not packs(self._dtype):
            reason = f"oneDNN does not compute in {self._spec.dtype} on this processor"
            raise CannotPrepare(name=recipe.source, by=recipe.by, reason=reason)
        self._takes_input = recipe.by == PACKED_LSTM_INPUT
        self._layout = _layout(self._dtype, self._spec.shape, self._takes_input)
        self.nbytes = self._layout.nbytes
        self.rows_at_once = self._spec.shape[0]

    def tensors(self, memory: torch.Tensor) -> tuple[torch.Tensor]:
        """What the code takes, over `memory`: as many bytes as `nbytes`."""
        if self._layout.descriptor is None:
            return (constant_in(memory, self._spec),)
        return (opaque_over(memory, self._spec.shape, self._dtype, self._layout.descriptor),)

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Pack the plain weight, which is all of `rows`."""
        memory.copy_(_bytes_of(_packed(rows, self._takes_input)))


class _Layout(NamedTuple):
    """How a weight is packed; plain, if there is no descriptor."""

    descriptor: torch.Tensor | None
    nbytes: int


@lru_cache(maxsize=1024)
def _layout(dtype: torch.dtype, shape: tuple[int, ...], takes_input: bool) -> _Layout:
    packed = _packed(torch.zeros(shape, dtype=dtype), takes_input)
    return _Layout(descriptor_of(packed) if packed.is_mkldnn else None, len(_bytes_of(packed)))


def _packed(weight: torch.Tensor, takes_input: bool) -> torch.Tensor:
    """oneDNN packs both weights of an LSTM at once, each by itself: the other one is made up."""
    hidden = len(weight) // _GATES
    other = weight.new_zeros(len(weight), hidden if takes_input else 1)
    return pack_lstm(weight, other, hidden)[0] if takes_input else pack_lstm(other, weight, hidden)[1]


def _bytes_of(packed: torch.Tensor) -> torch.Tensor:
    return opaque_bytes(packed) if packed.is_mkldnn else packed.contiguous().view(torch.uint8).flatten()
