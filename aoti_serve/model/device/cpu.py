"""The host as a device, and its memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from mmap import MADV_DONTNEED, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.model.device import CHUNK
from aoti_serve.model.device.host_memory import available_memory, check_memory
from aoti_serve.signature.tensors import CPU


class HostBlock:
    """A block of host memory in pages of its own, since freed blocks of these sizes would fragment the heap.

    Its address never changes.
    """

    def __init__(self, nbytes: int) -> None:
        self._pages = mmap(-1, max(nbytes, 1), flags=MAP_PRIVATE | MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            self._pages.madvise(MADV_HUGEPAGE)  # a fault for every 4 kB takes four times as long as the copy
        self._nbytes = nbytes
        self.tensor = torch.frombuffer(self._pages, dtype=torch.uint8)[:nbytes]
        self.held = 0

    def check(self, beside: int = 0) -> None:
        if needed := self._nbytes - self.held + beside:
            check_memory("the host", needed, available_memory())

    def hold(self) -> bool:
        """Step by step: several replicas of one machine may be taking memory at the same time."""
        for start in range(self.held, self._nbytes, CHUNK):
            self.check()
            step = self.tensor[start : start + CHUNK]
            step[::PAGESIZE].zero_()  # pages are the process's from the first write on
            self.held += len(step)
        return False

    def free(self) -> None:
        self._pages.madvise(MADV_DONTNEED)
        self.held = 0


class CpuDevice:
    """The host: each copy has arrived when its call returns, so there is nothing to wait for."""

    def __init__(self) -> None:
        self.place = torch.device(CPU)

    def allocate(self, nbytes: int) -> HostBlock:
        return HostBlock(nbytes)

    def runner(self) -> AbstractContextManager[None]:
        return nullcontext()

    def trial(self) -> AbstractContextManager[None]:
        return nullcontext()

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.place)

    def give(self, tensors: Iterable[torch.Tensor | None]) -> None: ...
    def begin_copies(self) -> None: ...
    def copied(self) -> None: ...
    def flipped(self) -> None: ...
    def settled(self) -> None: ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def copy_bytes(self, target: torch.Tensor, source: NDArray[np.uint8]) -> None:
        copy_to_host(target, source)


def copy_to_host(target: torch.Tensor, source: NDArray[np.uint8]) -> None:
    """Copy bytes that torch itself would warn of, because it may not write them."""
    np.copyto(target.numpy(), source)
