"""A matrix whose columns lie one after another in memory, where weights bring it row by row: no packing, a turn."""

from __future__ import annotations

import torch

from aoti_serve.model.preparation.recipe import Recipe

_AT_ONCE = 1 << 20  # bytes; a part that is turned stays in the cache


class ColumnMajor:
    """Turns one weight of `[rows, columns]`, `rows_at_once` of it at a time. On the CPU, in any thread."""

    def __init__(self, recipe: Recipe) -> None:
        self._dtype = getattr(torch, recipe.constant.dtype)
        self._shape, self._stride = recipe.constant.shape, recipe.constant.stride
        self.nbytes = recipe.constant.nbytes
        self.rows_at_once = max(1, _AT_ONCE // (self.nbytes // self._shape[0]))

    def tensor(self, memory: torch.Tensor) -> torch.Tensor:
        """What the code takes, over `memory`: as many bytes as `nbytes`."""
        whole = memory.view(self._dtype)
        return whole.as_strided(self._shape, self._stride, whole.storage_offset())

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Copy rows of the plain weight to their places; `first` is the number of the first of them."""
        self.tensor(memory)[first : first + len(rows)].copy_(rows)
