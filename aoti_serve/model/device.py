"""A device's order of things: who may copy, run, fold and flip when. On a CPU all of it is immediate."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from mmap import MADV_DONTNEED, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK = 64 * 2**20  # bytes; what one step of a copy moves


class HostBlock:
    """Memory for constants on the host: pages of its own, since freed blocks of these sizes would fragment the heap.

    `tensor` is all of it, in bytes, at one address for ever; `held` is how many of them count as used.
    """

    def __init__(self, nbytes: int) -> None:
        self._pages = mmap(-1, max(nbytes, 1), flags=MAP_PRIVATE | MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            self._pages.madvise(MADV_HUGEPAGE)  # a fault for every 4 kB takes four times as long as the copy
        self._nbytes = nbytes
        self.tensor = torch.frombuffer(self._pages, dtype=torch.uint8)[:nbytes]
        self.held = 0

    def hold(self) -> bool:
        """Have the memory; returns whether it is at another address than before."""
        self.held = self._nbytes
        return False

    def free(self) -> None:
        """Give the memory back; what it held is gone."""
        self._pages.madvise(MADV_DONTNEED)
        self.held = 0


class CardBlock(HostBlock):
    """Memory for constants on a card: torch's, whose caching allocator may place it elsewhere each time."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._nbytes = nbytes
        self.tensor = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.held = nbytes

    def hold(self) -> bool:
        moves = self.held < self._nbytes
        if moves:  # torch moves a card's memory even to the size that it has
            self.tensor.untyped_storage().resize_(self._nbytes)
            self.held = self._nbytes
        return moves

    def free(self) -> None:
        self.tensor.untyped_storage().resize_(0)
        self.held = 0


class CpuDevice:
    """The host itself: copies are done when the call returns, and a run that has returned reads nothing any more."""

    def __init__(self) -> None:
        self.torch = torch.device("cpu")

    def allocate(self, nbytes: int) -> HostBlock:
        return HostBlock(nbytes)

    @contextmanager
    def runner(self) -> Iterator[int | None]:
        """A runner's stream, for the length of a run; at the end its outputs can be read."""
        yield None

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """An input on this device, for the run that is about to begin."""
        return tensor.to(self.torch)

    def give(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Outputs of a run that has ended, to whoever asked."""

    def begin_copies(self) -> None:
        """Before the first `copy` into memory that is there now."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Begin to copy at most `CHUNK` bytes from anywhere into a constant buffer."""
        target.copy_(source)

    def copy_bytes(self, target: torch.Tensor, source: NDArray[np.uint8]) -> None:
        """As `copy`, bytes that may be somebody else's again as soon as this returns."""
        np.copyto(target.numpy(), source)  # torch warns of memory that it may not write

    def copied(self) -> None:
        """Wait until what `copy` began has arrived: before a fold or a flip reads it."""

    def flipped(self) -> None:
        """Note that the buffers have been exchanged: what was launched before may still read the old one."""

    def settled(self) -> None:
        """Wait until nothing that was launched before the flip runs: before the old buffer is written or freed."""


class CudaDevice(CpuDevice):
    """One card: a stream per runner, one stream for copies through pinned memory, events around flips.

    Copies into a constant buffer are asynchronous to the host; a fold on another stream that did not wait for them
    baked stale weights (upstream #186963). Kernels that were launched before a flip may read the old buffer after it.
    cuBLAS keeps a workspace of its own (32 MB on an H200) for every pair of a thread and a stream that have met.
    The tests marked `gpu` have run on an H200, with torch 2.11; the order of calls is tested on a card that is none.
    """

    def __init__(self, index: int, num_runners: int) -> None:
        self.torch = torch.device("cuda", index)
        self._streams = [self._new_stream() for _ in range(num_runners)]
        self._idle = deque(self._streams)
        self._copies = self._new_stream()
        self._pinned = deque(self._new_pinned() for _ in range(2))
        self._flips: list[torch.cuda.Event] = []

    def allocate(self, nbytes: int) -> HostBlock:
        return CardBlock(nbytes, self.torch)

    @contextmanager
    def runner(self) -> Iterator[int | None]:
        stream = self._idle.popleft()  # the gate admits as many runs as there are streams
        stream.wait_stream(self._current())  # inputs may still be in the making
        try:
            with self._on(stream):
                yield stream.cuda_stream
        finally:
            # A run that failed may have launched kernels that still read the constants.
            try:
                stream.synchronize()
            finally:
                self._idle.append(stream)

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._holds(tensor):
            tensor.record_stream(self._current())  # else its memory is another's once the asker lets go of it
            return tensor
        return tensor.to(self.torch)

    def give(self, tensors: Iterable[torch.Tensor | None]) -> None:
        for tensor in tensors:
            if tensor is not None and self._holds(tensor):
                tensor.record_stream(self._current())  # else the next run may write it while the asker reads

    def begin_copies(self) -> None:
        self._copies.wait_stream(self._current())  # weights and their new place may still be in use there

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        if not self._holds(target):
            target.copy_(source)
        elif self._holds(source):
            with self._on(self._copies):
                target.copy_(source, non_blocking=True)
        else:
            with self._pinned_for(target) as staged:
                staged.copy_(source)

    def copy_bytes(self, target: torch.Tensor, source: NDArray[np.uint8]) -> None:
        if not self._holds(target):
            super().copy_bytes(target, source)
            return
        with self._pinned_for(target) as staged:
            super().copy_bytes(staged, source)

    @contextmanager
    def _pinned_for(self, target: torch.Tensor) -> Iterator[torch.Tensor]:
        """Pinned memory of the target's kind, to be written by the host; then its copy into the target begins."""
        pinned, left = self._pinned.popleft()
        try:
            left.synchronize()  # the copy before the last has left this pinned memory
            staged = pinned[: target.numel() * target.element_size()].view(target.dtype).view(target.shape)
            yield staged
            with self._on(self._copies):
                target.copy_(staged, non_blocking=True)
            left.record(self._copies)
        finally:
            self._pinned.append((pinned, left))

    def copied(self) -> None:
        self._copies.synchronize()

    def flipped(self) -> None:
        self._flips = []
        for stream in self._streams:
            event = self._new_event()
            event.record(stream)
            self._flips.append(event)

    def settled(self) -> None:
        self._copies.synchronize()  # those of a stage that failed, too
        for event in self._flips:
            event.synchronize()

    def _holds(self, tensor: torch.Tensor) -> bool:
        return tensor.device == self.torch

    def _current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.torch)

    def _on(self, stream: torch.cuda.Stream) -> AbstractContextManager[object]:
        return torch.cuda.stream(stream)

    def _new_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.torch)  # type: ignore[no-untyped-call]

    def _new_event(self) -> torch.cuda.Event:
        return torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _new_pinned(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        return torch.empty(CHUNK, dtype=torch.uint8, pin_memory=True), self._new_event()


def device_of(device: torch.device, num_runners: int) -> CpuDevice:
    return CpuDevice() if device.type == "cpu" else CudaDevice(device.index or 0, num_runners)
