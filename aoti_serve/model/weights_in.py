"""Weights on their way into a container: as tensors in memory, or as the bytes of a file, as they arrive."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import torch

from aoti_serve.errors import ConstantIsBaked, UnfitTensor, UnreadableWeights, quantity
from aoti_serve.model.aoti.opaque import only_read
from aoti_serve.model.preparation.preparations import Preparation
from aoti_serve.model.resident.buffers import ConstantBuffer
from aoti_serve.model.tensor_memory import bytes_of, content_of, memory_key, readable
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.contents import Bytes, ContentsCheck
from aoti_serve.signature.tensors import DTYPES, Span


def accept_tensors(
    weights: Mapping[str, torch.Tensor], constants: Constants, *, partial: bool = False, strict: bool = True
) -> dict[str, torch.Tensor]:
    """Check weights, and return them by the names of the constants.

    Raises an InvalidWeights that names the tensor. A baked-in constant with another value is an error if `strict`,
    else a warning.
    """
    if not isinstance(weights, Mapping):
        raise UnreadableWeights(detail=f"a {type(weights).__name__} instead of tensors by name")
    weights = dict(weights.items())  # some mappings make a new tensor at each access
    found = {name: readable(name, tensor, UnfitTensor) for name, tensor in weights.items()}
    constants.check_weights(found, partial=partial)
    _check_contents(weights, constants, strict)
    given = {constants.tied.get(name, name): tensor.detach() for name, tensor in weights.items()}
    return {spec.name: given[spec.name] for spec in constants.constants if spec.name in given}


def warn_of_baked(names: list[str]) -> None:
    """Warn of constants in the weights whose compiled value stays."""
    for name in names:
        warnings.warn(str(ConstantIsBaked(name=name)), stacklevel=4)


def _check_contents(weights: Mapping[str, torch.Tensor], constants: Constants, strict: bool) -> None:
    # A trainer's tied names are one in memory, which need not be read to be known equal.
    one = {(constants.tied.get(name, name), memory_key(tensor)): name for name, tensor in weights.items()}
    contents = ContentsCheck(one.values(), constants)
    for name in one.values():
        if contents.reads(name):
            contents.take(name, content_of(weights[name]))
    warn_of_baked(contents.finish(strict=strict))


class WeightsStream:
    """The way of one weights file's bytes into a constant buffer, piece by piece: nothing waits for the whole file.

    A piece may end anywhere, also inside an element. Its memory is reused as soon as the next one is taken, so nothing
    here keeps a piece, or a view of one.

    Raises an InvalidWeights that names the tensor if `index` does not fit the package, or itself.
    """

    def __init__(self, index: Mapping[str, Span], constants: Constants) -> None:
        self._index = dict(index)
        self._constants = constants
        constants.check_weights(self._index)
        _check_index(self._index)
        self._contents = ContentsCheck(self._index, constants)

    def fill(self, buffer: ConstantBuffer, pieces: Iterable[Bytes], rest: Mapping[str, torch.Tensor]) -> None:
        """Copy or prepare every constant into `buffer`: from the file, or from `rest` if the file leaves it out.

        Raises the errors of `pieces`, and UnreadableWeights if those are not the whole file and nothing else.
        """
        names, homes = [spec.name for spec in self._constants.constants], self._contents.homes
        buffer.fill({name: rest[name] for name in names if name not in homes})
        ways = {homes[name][0]: _way(buffer, self._index[homes[name][0]], name) for name in names if name in homes}

        def take(name: str, chunk: Bytes) -> None:
            self._contents.take(name, chunk)
            if way := ways.get(name):
                way.take(chunk)

        _deal(pieces, self._index, take)

    def check(self, *, strict: bool) -> None:
        """After the last byte: raise an InvalidWeights that names the tensor if a value is not allowed."""
        warn_of_baked(self._contents.finish(strict=strict))


def _way(buffer: ConstantBuffer, span: Span, source: str) -> _Copy | _Rows:
    preparation = buffer.preparation(source)
    return _Rows(buffer, source, preparation, span) if preparation else _Copy(buffer, source)


class _Copy:
    """The copy of one constant's bytes into a buffer, as they arrive."""

    def __init__(self, buffer: ConstantBuffer, name: str) -> None:
        self._buffer = buffer
        self._name = name
        self._target = buffer.tensors[name]
        self._at = 0
        self._gathered: torch.Tensor | None = None

    def take(self, chunk: Bytes) -> None:
        if self._target.is_contiguous():
            self._buffer.fill_bytes(self._name, self._at, chunk)
        else:
            self._gather(chunk)
        self._at += len(chunk)

    def _gather(self, chunk: Bytes) -> None:
        """Copy the constant when it is complete: its elements lie in another order than in the file."""
        if self._gathered is None:
            self._gathered = torch.empty(self._target.shape, dtype=self._target.dtype)
        bytes_of(self._gathered).numpy()[self._at : self._at + len(chunk)] = chunk
        if self._at + len(chunk) == self._target.nbytes:
            self._buffer.fill({self._name: self._gathered})
            self._gathered = None


class _Rows:
    """The rows of one tensor on their way to what is made of them, as many at a time as that takes."""

    def __init__(self, buffer: ConstantBuffer, name: str, preparation: Preparation, span: Span) -> None:
        self._buffer = buffer
        self._name = name
        self._dtype = getattr(torch, span.dtype)
        self._shape = span.shape
        self._at_once = preparation.rows_at_once
        self._first = 0  # the row with which the next ones begin
        self._gathered: torch.Tensor | None = None
        self._at = 0  # bytes that are gathered

    def take(self, chunk: Bytes) -> None:
        while len(chunk):
            count = min(self._at_once, self._shape[0] - self._first)
            needed = count * self._row_bytes
            if self._at == 0 and len(chunk) >= needed and chunk.ctypes.data % self._dtype.itemsize == 0:
                self._prepare(only_read(chunk[:needed]).view(self._dtype), count)
                chunk = chunk[needed:]
            else:
                chunk = self._gather(chunk, count)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self._shape[1:]) * int(self._dtype.itemsize)

    def _gather(self, chunk: Bytes, count: int) -> Bytes:
        """Keep what is no whole part yet; returns what is left of the chunk."""
        if self._gathered is None:
            self._gathered = torch.empty(self._at_once * self._row_bytes, dtype=torch.uint8)
        part = self._gathered[: count * self._row_bytes]
        given = chunk[: len(part) - self._at]
        part.numpy()[self._at : self._at + len(given)] = given
        self._at += len(given)
        if self._at == len(part):
            self._prepare(part.view(self._dtype), count)
            self._at = 0
        return chunk[len(given) :]

    def _prepare(self, rows: torch.Tensor, count: int) -> None:
        self._buffer.prepare(self._name, rows.view(count, *self._shape[1:]), self._first)
        self._first += count


def _check_index(index: Mapping[str, Span]) -> None:
    """Refuse spans that no file can have: of another length than the shape takes, or overlapping."""
    for name, span in index.items():
        if not 0 <= span.begin <= span.end:
            raise UnfitTensor(name=name, detail=f"its bytes are from {span.begin} to {span.end}")
        if span.dtype not in DTYPES:
            continue  # no constant has it
        needed = math.prod(span.shape) * DTYPES[span.dtype].itemsize
        if span.end - span.begin != needed:
            raise UnfitTensor(name=name, detail=f"{quantity(span.end - span.begin, 'bytes')}, its shape takes {needed}")
    for before, name in pairwise(sorted(index, key=lambda name: index[name][-2:])):
        if index[name].begin < index[before].end:
            raise UnfitTensor(name=name, detail=f"its bytes are also those of '{before}'")


def _deal(pieces: Iterable[Bytes], index: Mapping[str, Span], take: Callable[[str, Bytes], None]) -> None:
    """Hand on the bytes of each tensor with its name; other bytes, the header's for one, are passed over."""
    full = [name for name, span in index.items() if span.begin < span.end]
    waiting = deque(sorted(full, key=lambda name: index[name].begin))
    length = max((span.end for span in index.values()), default=None)
    begin = 0
    for piece in pieces:
        end = begin + len(piece)
        if length is not None and end > length:
            raise UnreadableWeights(detail=f"{quantity(end, 'bytes')} or more arrived of a file of {length}")
        while waiting and (span := index[waiting[0]]).begin < end:
            take(waiting[0], piece[max(span.begin - begin, 0) : span.end - begin])
            if span.end > end:
                break
            waiting.popleft()
        begin = end
        del piece  # else it would be held while the next one is made
    if length is not None and begin < length:
        raise UnreadableWeights(detail=f"{quantity(begin, 'bytes')} arrived of a file of {length}")
