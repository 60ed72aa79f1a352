"""A constant buffer: the memory that a runtime is told of. A container has two: one answers, the other is refilled.

Left to itself the runtime copies tensors into memory of its own, once for each variant. Here it is only told where ours
are, once; a stage is a plain copy between tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.model.device import CHUNK
from aoti_serve.model.device.cpu import CpuDevice
from aoti_serve.model.device.cuda import Device, MemoryBlock
from aoti_serve.model.tensor_memory import bytes_of
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
