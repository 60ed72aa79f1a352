"""Devices: where constants lie, and what may copy, run, fold and flip when. One module for each kind."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK: Final = 64 * 2**20  # bytes; what one step of a copy moves


class MemoryBlock(Protocol):
    """Memory for constants: `tensor` is all of it, in bytes; `held` is how many of them are really there."""

    tensor: torch.Tensor
    held: int

    def check(self, beside: int = 0) -> None:
        """Raise NotEnoughMemory if there is no room for what `hold` would take and `beside` bytes more."""

    def hold(self) -> bool:
        """Take the memory; returns whether it is at another address than before.

        Raises NotEnoughMemory; what was taken until then is there until `free`.
        """

    def free(self) -> None:
        """Give the memory back; its content is lost."""


class Device(Protocol):
    """The order in which work on constants may be done on one device."""

    place: torch.device

    def allocate(self, nbytes: int) -> MemoryBlock: ...

    def runner(self) -> AbstractContextManager[int | None]:
        """Take a free runner's stream (None on a CPU) for the length of a run; at the end its outputs can be read."""

    def trial(self) -> AbstractContextManager[int | None]:
        """As `runner`, after the last copies and in no runner's place; one at a time."""

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring an input to this device, for the run that is about to begin."""

    def give(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Hand the outputs of a run that has ended to the caller's stream."""

    def begin_copies(self) -> None:
        """Prepare for the first `copy` into memory that is there now."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Begin to copy at most `CHUNK` bytes from anywhere into a constant buffer."""

    def copy_bytes(self, target: torch.Tensor, source: NDArray[np.uint8]) -> None:
        """As `copy`, from bytes that may be overwritten as soon as this returns."""

    def copied(self) -> None:
        """Wait until what `copy` began has arrived: before a fold or a flip reads it."""

    def flipped(self) -> None:
        """Note that the buffers have been exchanged: runs that began before may still read the old one."""

    def settled(self) -> None:
        """Wait until no run from before the flip is under way: before the old buffer is written or freed."""
