"""The only code that touches AOTInductor's native runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch


class Runtime(Protocol):
    """One loaded library with an active and an inactive constant buffer: `NativeContainer` or `StockContainer`.

    None of them checks anything, and each must be left alone while `swap` or `delete` run.
    """

    folds: bool
    folded_nbytes: int

    def run(self, inputs: Iterable[torch.Tensor], stream: int | None = None) -> list[torch.Tensor | None]: ...

    def extract(self) -> dict[str, torch.Tensor]: ...

    def stage(self, tensors: Mapping[str, torch.Tensor], moved: bool) -> None: ...

    def refold(self, tensors: Mapping[str, torch.Tensor]) -> None: ...

    def swap(self) -> None: ...

    def free_inactive(self) -> None: ...

    def delete(self) -> None: ...
