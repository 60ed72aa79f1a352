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
from aoti_serve.model.preparation.preparations import CodeConstant
from aoti_serve.model.tensor_memory import bytes_of, constant_in

BUFFER_ALIGNMENT = 64  # bytes; AOTI_CONST_ALIGNMENT, to which the library's own sizes are padded as well


class ConstantBuffer:
    """One value for every constant of the code: `tensors` lie in blocks of memory, the same objects for ever.

    `registered`: the runtime was told where they are now.
    """

    def __init__(self, constants: Sequence[CodeConstant], device: Device) -> None:
        self._device = device
        self._made_of: dict[str, list[CodeConstant]] = {}
        for constant in constants:
            self._made_of.setdefault(constant.source, []).append(constant)
        on_device = [constant for constant in constants if not constant.spec.host]
        on_host = [constant for constant in constants if constant.spec.host]
        self._blocks: list[MemoryBlock] = []
        self._memory: dict[str, torch.Tensor] = {}
        for group, place in ((on_device, device), (on_host, CpuDevice())):
            with torch.inference_mode(False):  # else they could not be refilled outside of it
                block = place.allocate(sum(padded(constant.nbytes) for constant in group))
                self._memory |= dict(_places(block.tensor, group))
            self._blocks.append(block)
        with torch.inference_mode(False):
            self.tensors = {constant.spec.name: _seen(constant, self._memory) for constant in constants}
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

    def made_of(self, source: str) -> list[CodeConstant]:
        """The constants that are made of a tensor of the weights."""
        return self._made_of.get(source, [])

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
            for constant in self.made_of(source):
                if constant.preparation is None:
                    self._copy(self.tensors[constant.spec.name], value)
                else:
                    self._prepare_whole(constant, value)

    def keep(self, other: ConstantBuffer, sources: Collection[str]) -> None:
        """Take over from another buffer what is made of these tensors."""
        for constant in (constant for source in sources for constant in self.made_of(source)):
            self._copy(self._memory[constant.spec.name], other._memory[constant.spec.name])

    def fill_bytes(self, name: str, at: int, source: NDArray[np.uint8]) -> None:
        """Copy bytes of a contiguous constant, to its `at`th and the following ones, in bounded steps."""
        whole = bytes_of(self.tensors[name])
        for start in range(0, len(source), CHUNK):
            part = source[start : start + CHUNK]
            self._device.copy_bytes(whole[at + start : at + start + len(part)], part)

    def prepare(self, constant: CodeConstant, rows: torch.Tensor, first: int) -> None:
        """Prepare as many rows of a tensor as are prepared at once, or its last ones, from number `first` on."""
        assert constant.preparation is not None
        constant.preparation.prepare(rows, first, self._memory[constant.spec.name])

    def _prepare_whole(self, constant: CodeConstant, value: torch.Tensor) -> None:
        assert constant.preparation is not None
        first = 0
        for rows in torch.split(value, constant.preparation.rows_at_once):
            self.prepare(constant, rows.to("cpu").contiguous().resolve_neg(), first)
            first += len(rows)

    def _copy(self, target: torch.Tensor, value: torch.Tensor) -> None:
        for part, source in _steps(target, value):
            self._device.copy(part, source)


def padded(nbytes: int) -> int:
    return -(-nbytes // BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT


def _places(whole: torch.Tensor, constants: Sequence[CodeConstant]) -> Iterator[tuple[str, torch.Tensor]]:
    start = 0
    for constant in constants:
        yield constant.spec.name, whole[start : start + constant.nbytes]
        start += padded(constant.nbytes)


def _seen(constant: CodeConstant, memory: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A constant as the code sees it."""
    place = memory[constant.spec.name]
    return constant_in(place, constant.spec) if constant.preparation is None else constant.preparation.tensor(place)


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
