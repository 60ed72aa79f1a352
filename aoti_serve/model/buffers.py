"""The weights of a container: two constant buffers, of which one answers and the other is refilled.

Left to itself the runtime copies tensors into memory of its own, once for each variant. Here it is only told where ours
are, once; a stage is a plain copy between tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.model.device import CHUNK
from aoti_serve.model.device.cpu import CpuDevice
from aoti_serve.model.device.cuda import Device, MemoryBlock
from aoti_serve.model.tensor_memory import bytes_of
from aoti_serve.model.variants import Variants
from aoti_serve.signature.constants import ConstantSpec

BUFFER_ALIGNMENT = 64  # bytes; AOTI_CONST_ALIGNMENT, to which the library's own sizes are padded as well


class ConstantBuffer:
    """One value for every constant: `tensors` are views of one block of memory, the same objects for ever.

    `registered`: the runtime was told where they are now.
    """

    def __init__(self, constants: Sequence[ConstantSpec], device: Device) -> None:
        self._device = device
        on_device = [spec for spec in constants if not spec.host]
        on_host = [spec for spec in constants if spec.host]
        self._blocks: list[MemoryBlock] = []
        self.tensors: dict[str, torch.Tensor] = {}
        for specs, place in ((on_device, device), (on_host, CpuDevice())):
            with torch.inference_mode(False):  # else they could not be refilled outside of it
                block = place.allocate(sum(padded(spec.nbytes) for spec in specs))
                self.tensors |= dict(_views(block.tensor, specs))
            self._blocks.append(block)
        self.registered = False
        self.free()  # views can be made of memory only while it is there

    @property
    def nbytes(self) -> int:
        """The bytes that it holds now."""
        return sum(block.held for block in self._blocks)

    @property
    def addresses(self) -> tuple[int, ...]:
        """The places of its memory now: a runtime needs to be told again only when they change."""
        return tuple(block.tensor.data_ptr() for block in self._blocks)

    def check_memory(self, beside: int) -> None:
        """Raise NotEnoughMemory if there is no room for all of it, and for `beside` bytes more on the device."""
        on_device, on_host = self._blocks
        on_device.check(beside)
        on_host.check()

    def free(self) -> None:
        for block in self._blocks:
            block.free()

    @contextmanager
    def refilled(self) -> Iterator[None]:
        """Take the memory, and wait at the end until all copies of the block have arrived."""
        moved = [block.hold() for block in self._blocks]
        self.registered = self.registered and not any(moved)
        self._device.begin_copies()
        yield
        self._device.copied()

    def fill(self, values: Mapping[str, torch.Tensor]) -> None:
        """Copy constants into it, in bounded steps; torch lets go of the GIL in each."""
        for name, value in values.items():
            for part, source in _steps(self.tensors[name], value):
                self._device.copy(part, source)

    def fill_bytes(self, name: str, at: int, source: NDArray[np.uint8]) -> None:
        """Copy bytes of a contiguous constant, to its `at`th and the following ones, in bounded steps."""
        whole = bytes_of(self.tensors[name])
        for start in range(0, len(source), CHUNK):
            part = source[start : start + CHUNK]
            self._device.copy_bytes(whole[at + start : at + start + len(part)], part)


class Buffers:
    """The runtime and its two buffers, which change together. Not thread-safe: one stage or flip at a time.

    `load` makes a runtime, the first one, and another whenever one must be thrown away.
    """

    def __init__(self, load: Callable[[], Variants], constants: Sequence[ConstantSpec], device: Device) -> None:
        self._load = load
        self._device = device
        self.runtime = load()
        self.active, self.inactive = ConstantBuffer(constants, device), ConstantBuffer(constants, device)

    @property
    def nbytes(self) -> int:
        return self.active.nbytes + self.inactive.nbytes

    def adopt_built_in(self) -> dict[str, torch.Tensor]:
        """Move the library's own weights into the active buffer; returns them, valid until the next call here."""
        built_in = self.runtime.extract()
        with self.inactive.refilled():
            self.inactive.fill(built_in)
        self.publish()
        self.flip()
        return dict(self.active.tensors)

    @contextmanager
    def refilled(self) -> Iterator[ConstantBuffer]:
        """Give the inactive buffer, to be filled while the active one answers; it is freed if that fails."""
        try:
            self._device.settled()
            with self.inactive.refilled():
                yield self.inactive
        except BaseException:
            self.free_inactive()
            raise

    def check_memory(self) -> None:
        """Raise NotEnoughMemory if the inactive buffer, and what folding makes of it, would not fit.

        Folding is done twice: for the answers, and for the trial.
        """
        self.inactive.check_memory(beside=2 * self.runtime.folded_nbytes)

    def publish(self) -> None:
        """Tell the runtime of the refilled buffer, and fold. If this raises, `rebuild` before the next run."""
        self.runtime.stage(self.inactive.tensors, moved=not self.inactive.registered)
        self.inactive.registered = True

    def flip(self) -> None:
        """Exchange the two; no run may be in flight."""
        self.runtime.swap()
        self.active, self.inactive = self.inactive, self.active
        self._device.flipped()

    def free_inactive(self) -> None:
        self._device.settled()
        self.runtime.free_inactive()
        self.inactive.free()

    def rebuild(self, active: ConstantBuffer, answers: bool) -> None:
        """Load the runtime anew, over `active` if that `answers`; no run may be in flight."""
        if active is not self.active:
            self.active, self.inactive = self.inactive, self.active
        self.runtime.delete()
        self.runtime = self._load()
        self.inactive.free()
        self.active.registered = self.inactive.registered = False
        if answers:
            self.active, self.inactive = self.inactive, self.active
            self.publish()
            self.flip()

    def close(self) -> None:
        self._device.settled()
        self.runtime.delete()
        self.free()

    def free(self) -> None:
        """Give back both blocks; the runtime must not run again."""
        self.active.free()
        self.inactive.free()


def padded(nbytes: int) -> int:
    return -(-nbytes // BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT


def _views(whole: torch.Tensor, constants: Sequence[ConstantSpec]) -> Iterator[tuple[str, torch.Tensor]]:
    start = 0
    for spec in constants:
        part = whole[start : start + spec.nbytes].view(getattr(torch, spec.dtype))
        yield spec.name, part.as_strided(spec.shape, spec.stride, part.storage_offset())
        start += padded(spec.nbytes)


def _steps(target: torch.Tensor, source: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut both into slices of at most `CHUNK` bytes, along as many dimensions as needed."""
    if target.numel() * target.element_size() <= CHUNK:
        yield target, source
        return
    whole = next(axis for axis, size in enumerate(target.shape) if size > 1)
    row = target.numel() // target.shape[whole] * target.element_size()
    rows = max(1, CHUNK // row)
    for part, piece in zip(torch.split(target, rows, whole), torch.split(source, rows, whole), strict=True):
        if row > CHUNK:
            yield from _steps(part, piece)
        else:
            yield part, piece
