"""A constant buffer: the memory that a runtime is told of. A container has two: one answers, the other is refilled.

Left to itself the runtime copies tensors into memory of its own, once for each variant. Here it is only told where ours
are, once; a stage is a plain copy between tensors, or a preparation of what arrives, straight into its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.model.device import CHUNK
from aoti_serve.model.device.cpu import CpuDevice
from aoti_serve.model.device.cuda import Device, MemoryBlock
from aoti_serve.model.preparation.preparations import Preparation, Prepared
from aoti_serve.model.tensor_memory import bytes_of

BUFFER_ALIGNMENT = 64  # bytes; AOTI_CONST_ALIGNMENT, to which the library's own sizes are padded as well


class ConstantBuffer:
    """One value for every constant of the code: `tensors` lie in blocks of memory, the same objects for ever.

    `registered`: the runtime was told where they are now.
    """

    def __init__(self, contents: Sequence[Prepared], device: Device) -> None:
        self._device = device
        self._contents = {each.source: each for each in contents}
        on_device = [each for each in contents if not each.on_host]
        on_host = [each for each in contents if each.on_host]
        self._blocks: list[MemoryBlock] = []
        self._memory: dict[str, torch.Tensor] = {}
        for group, place in ((on_device, device), (on_host, CpuDevice())):
            with torch.inference_mode(False):  # else they could not be refilled outside of it
                block = place.allocate(sum(padded(each.nbytes) for each in group))
                self._memory |= dict(_places(block.tensor, group))
            self._blocks.append(block)
        with torch.inference_mode(False):
            self.tensors = dict(_seen(contents, self._memory))
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

    def preparation(self, source: str) -> Preparation | None:
        """How a tensor of the weights is prepared; None if the code takes it as it is."""
        return self._contents[source].preparation

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

    def fill(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy or prepare tensors of the weights, in bounded steps; torch lets go of the GIL in each."""
        for source, value in weights.items():
            if preparation := self.preparation(source):
                self._prepare_whole(source, value, preparation.rows_at_once)
            else:
                self._copy(self.tensors[source], value)

    def keep(self, other: ConstantBuffer, sources: Collection[str]) -> None:
        """Take over from another buffer what is made of these tensors."""
        for source in sources:
            self._copy(self._memory[source], other._memory[source])

    def fill_bytes(self, name: str, at: int, source: NDArray[np.uint8]) -> None:
        """Copy bytes of a contiguous constant, to its `at`th and the following ones, in bounded steps."""
        whole = bytes_of(self.tensors[name])
        for start in range(0, len(source), CHUNK):
            part = source[start : start + CHUNK]
            self._device.copy_bytes(whole[at + start : at + start + len(part)], part)

    def prepare(self, source: str, rows: torch.Tensor, first: int) -> None:
        """Prepare as many rows of a tensor as are prepared at once, or its last ones, from number `first` on."""
        preparation = self.preparation(source)
        assert preparation is not None
        preparation.prepare(rows, first, self._memory[source])

    def _prepare_whole(self, source: str, value: torch.Tensor, at_once: int) -> None:
        for first in range(0, len(value), at_once):
            rows = value[first : first + at_once]
            self.prepare(source, rows.to("cpu").contiguous().resolve_neg(), first)

    def _copy(self, target: torch.Tensor, value: torch.Tensor) -> None:
        for part, source in _steps(target, value):
            self._device.copy(part, source)


def padded(nbytes: int) -> int:
    return -(-nbytes // BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT


def _places(whole: torch.Tensor, contents: Sequence[Prepared]) -> Iterator[tuple[str, torch.Tensor]]:
    start = 0
    for each in contents:
        yield each.source, whole[start : start + each.nbytes]
        start += padded(each.nbytes)


def _seen(contents: Sequence[Prepared], memory: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for each in contents:
        yield from each.tensors(memory[each.source]).items()


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
