"""A card: a stream for each runner, one stream for copies through pinned memory, events around flips.

Copies into a constant buffer are asynchronous to the host; a fold on another stream that did not wait for them baked
stale weights (upstream #186963). Kernels that were launched before a flip may read the old buffer after it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.model.device import CHUNK
from aoti_serve.model.device.cpu import CpuDevice, HostBlock, check_memory, copy_to_host
from aoti_serve.signature.tensors import CUDA


class CardBlock:
    """A block of a card's memory from torch's caching allocator, which may place it elsewhere each time."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._nbytes = nbytes
        self.tensor = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.held = nbytes

    def check(self, beside: int = 0) -> None:
        if needed := self._nbytes - self.held + beside:
            check_memory(str(self.tensor.device), needed, self._available())

    def hold(self) -> bool:
        moves = self.held < self._nbytes
        if moves:  # torch moves a card's memory even to the size that it has
            self.check()
            self.tensor.untyped_storage().resize_(self._nbytes)
            self.held = self._nbytes
        return moves

    def free(self) -> None:
        self.tensor.untyped_storage().resize_(0)
        self.held = 0

    def _available(self) -> int:
        """Free memory, with the unused part of torch's allocator in this process."""
        device = self.tensor.device
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


class StreamPool:
    """The runners' streams; a thread gets the one that it had before, if that is idle.

    cuBLAS keeps a workspace (32 MB on an H200) for every pair of a thread and a stream that have met. With as many
    threads as streams this makes one workspace for each thread; taken in turn, the streams would make their square.
    """

    def __init__(self, streams: Iterable[torch.cuda.Stream]) -> None:
        self.streams = tuple(streams)
        self._lock = threading.Lock()
        self._idle = set(self.streams)
        self._threads: Counter[torch.cuda.Stream] = Counter()
        self._own = threading.local()

    def take(self) -> torch.cuda.Stream:
        """An idle stream; there is one, for the gate admits as many runs as there are streams."""
        with self._lock:
            own = getattr(self._own, "stream", None)
            if own not in self._idle:
                own = min((stream for stream in self.streams if stream in self._idle), key=self._threads.__getitem__)
                if not hasattr(self._own, "stream"):
                    self._own.stream = own
                    self._threads[own] += 1
            self._idle.remove(own)
            return own

    def give_back(self, stream: torch.cuda.Stream) -> None:
        with self._lock:
            self._idle.add(stream)


class CudaDevice:
    """One card.

    The tests marked `gpu` have run on an H200, with torch 2.11; the order of calls is tested without a card.
    """

    def __init__(self, index: int, num_runners: int) -> None:
        self.place = torch.device(CUDA, index)
        self._runners = StreamPool(self._new_stream() for _ in range(num_runners))
        self._copies = self._new_stream()
        self._pinned = deque(self._new_pinned() for _ in range(2))
        self._flips: list[torch.cuda.Event] = []

    def allocate(self, nbytes: int) -> CardBlock:
        return CardBlock(nbytes, self.place)

    @contextmanager
    def runner(self) -> Iterator[int | None]:
        stream = self._runners.take()
        try:
            with self._running(stream):
                yield stream.cuda_stream
        finally:
            self._runners.give_back(stream)

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._holds(tensor):
            tensor.record_stream(self._current())  # else its memory is reused once the caller frees it
            return tensor
        return tensor.to(self.place)

    def give(self, tensors: Iterable[torch.Tensor | None]) -> None:
        for tensor in tensors:
            if tensor is not None and self._holds(tensor):
                tensor.record_stream(self._current())  # else the next run may write it while the caller reads

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
            copy_to_host(target, source)
            return
        with self._pinned_for(target) as staged:
            copy_to_host(staged, source)

    def copied(self) -> None:
        self._copies.synchronize()

    def flipped(self) -> None:
        self._flips = []
        for stream in self._runners.streams:
            event = self._new_event()
            event.record(stream)
            self._flips.append(event)

    def wait_for_old_runs(self) -> None:
        self._copies.synchronize()  # those of a stage that failed, too
        for event in self._flips:
            event.synchronize()

    @contextmanager
    def _running(self, stream: torch.cuda.Stream) -> Iterator[None]:
        stream.wait_stream(self._current())  # inputs may still be in the making
        try:
            with self._on(stream):
                yield
        finally:
            stream.synchronize()  # also after a failure: kernels that were launched may still read the constants

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

    def _holds(self, tensor: torch.Tensor) -> bool:
        return tensor.device == self.place

    def _current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.place)

    def _on(self, stream: torch.cuda.Stream) -> AbstractContextManager[object]:
        return torch.cuda.stream(stream)

    def _new_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.place)  # type: ignore[no-untyped-call]

    def _new_event(self) -> torch.cuda.Event:
        return torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _new_pinned(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        return torch.empty(CHUNK, dtype=torch.uint8, pin_memory=True), self._new_event()


MemoryBlock = HostBlock | CardBlock
Device = CpuDevice | CudaDevice


def missing_card(index: int) -> str | None:
    """Say why torch cannot use a card here; None if it can."""
    cards = visible_cards()
    if accelerator() is None:
        return f"the torch installed here ({torch.__version__}) has no CUDA"
    if not cards:
        return f"torch {torch.__version__} ({accelerator()}) sees no card (CUDA_VISIBLE_DEVICES, the driver)"
    if not 0 <= index < len(cards):
        return f"there is no card {index}: torch sees {len(cards)}, counted from 0"
    return None


def accelerator() -> str | None:
    """The toolkit that torch was built with, "CUDA 12.8" for example; None for a torch without one."""
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else None


def visible_cards() -> list[str]:
    """The compute capability of each visible card, as torch writes it into packages: "90", "gfx90a"."""
    if not torch.cuda.is_available():
        return []
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    if torch.version.hip:
        return [card.gcnArchName.split(":")[0] for card in cards]
    return [f"{card.major}{card.minor}" for card in cards]
