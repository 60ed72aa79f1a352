"""A matrix whose columns lie one after another in memory, where weights bring it row by row: no packing, a turn."""

from __future__ import annotations

import torch

from aoti_serve.model.preparation.recipe import Recipe
from aoti_serve.model.tensor_memory import constant_in

_AT_ONCE = 1 << 20  # bytes; a part that is turned stays in the cache


class ColumnMajor:
    """Turns one weight of `[rows, columns]`, `rows_at_once` of it at a time. On the CPU, in any thread."""

    def __init__(self, recipe: Recipe) -> None:
        (self._spec,) = recipe.constants
        self.nbytes = self._spec.nbytes
        self.rows_at_once = max(1, _AT_ONCE // (self.nbytes // self._spec.shape[0]))

    def tensors(self, memory: torch.Tensor) -> tuple[torch.Tensor]:
        """What the code takes, over `memory`: as many bytes as `nbytes`."""
        return (constant_in(memory, self._spec),)

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None:
        """Copy rows of the plain weight to their places; `first` is the number of the first of them."""
        constant_in(memory, self._spec)[first : first + len(rows)].copy_(rows)
