"""The host as a device, and its memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from mmap import MADV_DONTNEED, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from aoti_serve.errors import NotEnoughMemory
from aoti_serve.model.device import CHUNK
from aoti_serve.signature.tensors import CPU


class HostBlock:
    """Memory for constants: `tensor` is all of it, in bytes; `held` is how many of them are really there.

    It has pages of its own, since freed blocks of these sizes would fragment the heap. Its address never changes.
    """

    def __init__(self, nbytes: int) -> None:
        self._pages = mmap(-1, max(nbytes, 1), flags=MAP_PRIVATE | MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            self._pages.madvise(MADV_HUGEPAGE)  # a fault for every 4 kB takes four times as long as the copy
        self._nbytes = nbytes
        self.tensor = torch.frombuffer(self._pages, dtype=torch.uint8)[:nbytes]
        self.held = 0

    def check(self, beside: int = 0) -> None:
        """Raise NotEnoughMemory if there is no room for what `hold` would take and `beside` bytes more."""
        if needed := self._nbytes - self.held + beside:
            check_memory("the host", needed, available_memory())

    def hold(self) -> bool:
        """Take the memory; returns whether it is at another address than before.

        Raises NotEnoughMemory; what was taken until then is there until `free`.
        """
        # Step by step: several replicas of one machine may be taking memory at the same time.
        for start in range(self.held, self._nbytes, CHUNK):
            self.check()
            step = self.tensor[start : start + CHUNK]
            step[::PAGESIZE].zero_()  # pages are the process's from the first write on
            self.held += len(step)
        return False

    def free(self) -> None:
        """Give the memory back; its content is lost."""
        self._pages.madvise(MADV_DONTNEED)
        self.held = 0


class CpuDevice:
    """The order in which work on constants may be done. On the host each copy has arrived when its call returns, so
    there is nothing to wait for.
    """

    def allocate(self, nbytes: int) -> HostBlock:
        return HostBlock(nbytes)

    def runner(self) -> AbstractContextManager[None]:
        """Take a free runner's stream (None here) for the length of a run; at the end its outputs can be read."""
        return nullcontext()

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring an input to this device, for the run that is about to begin."""
        return tensor.to(CPU)

    def give(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Hand the outputs of a run that has ended to the caller's stream."""

    def begin_copies(self) -> None:
        """Prepare for the first `copy` into memory that is there now."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Begin to copy at most `CHUNK` bytes from anywhere into a constant buffer."""
        target.copy_(source)

    def copy_bytes(self, target: torch.Tensor, source: NDArray[np.uint8]) -> None:
        """As `copy`, from bytes that may be overwritten as soon as this returns."""
        copy_to_host(target, source)

    def copied(self) -> None:
        """Wait until what `copy` began has arrived: before a fold or a flip reads it."""

    def flipped(self) -> None:
        """Note that the buffers have been exchanged: runs that began before may still read the old one."""

    def wait_for_old_runs(self) -> None:
        """Wait until no run from before the flip is under way: before the old buffer is written or freed."""


def copy_to_host(target: torch.Tensor, source: NDArray[np.uint8]) -> None:
    """Copy bytes that torch itself would warn of, because it may not write them."""
    np.copyto(target.numpy(), source)


class _Files(NamedTuple):
    """The files of one version of control groups, and the keys in its `memory.stat` for what the kernel can drop."""

    limit: str
    used: str
    droppable: tuple[str, ...]


_VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_VERSION_2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))


def check_memory(place: str, needed: int, available: int) -> None:
    """Raise NotEnoughMemory if weights that need so many bytes more do not fit with some room to spare.

    The room is for the chunks of the file that are under way while it is staged: about six, twelve at most, each a
    sixty-fourth of the file and `CHUNK` at most (docs/internals/memory.md).
    """
    spare = min(needed // 5, 10 * CHUNK)
    if needed + spare > available:
        raise NotEnoughMemory(place=place, needed=needed, spare=spare, available=available)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can still be taken; what the kernel would drop for them, the page cache, counts as available."""
    return min([psutil.virtual_memory().available, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """For each control group that this process is in, down from the outermost, what its limit leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not controllers:
            yield from _left_on_path(mounted, path, _VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _left_on_path(mounted / "memory", path, _VERSION_1)


def _left_on_path(mounted: Path, path: str, files: _Files) -> Iterator[int]:
    """A limit of any folder on the way holds; a Docker container may see its own as the mounted folder."""
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts) + 1):
        left = _left_in(mounted.joinpath(*parts[:depth]), files)
        if left is not None:
            yield left


def _left_in(folder: Path, files: _Files) -> int | None:
    """None without a limit."""
    try:
        limit, used = int((folder / files.limit).read_text()), int((folder / files.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is no number
        return None
    return max(0, limit - used + sum(int(stat.get(key, 0)) for key in files.droppable))
