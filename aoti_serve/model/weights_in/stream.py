"""A weights file's bytes on their way into a buffer, piece by piece as they arrive: nothing waits for the whole file.

A piece may end anywhere, also inside an element. Its memory is reused as soon as the next one is asked for, so nothing
here keeps a piece, or a view of one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from aoti_serve.errors import UnfitTensor, UnreadableWeights
from aoti_serve.model.buffers import ConstantBuffer
from aoti_serve.model.weights_in.tensors import warn_of_baked
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.contents import Bytes, ContentsCheck, Sink
from aoti_serve.signature.tensors import DTYPES, Span


class WeightsStream:
    """The way of one weights file's bytes into a constant buffer.

    Raises an InvalidWeights that names the tensor if `index` does not fit the package, or itself.
    """

    def __init__(self, index: Mapping[str, Span], constants: Constants) -> None:
        self._index = dict(index)
        self._constants = constants
        constants.check_weights(self._index)
        _check_index(self._index)
        self._contents = ContentsCheck(self._index, constants)

    def fill(self, buffer: ConstantBuffer, pieces: Iterable[Bytes], rest: Mapping[str, torch.Tensor]) -> None:
        """Copy every constant into `buffer`: from the file, or from `rest` if the file leaves it out.

        Raises what `pieces` raises, and UnreadableWeights if those are not the whole file and nothing else.
        """
        homes = self._contents.homes
        buffer.fill({spec.name: rest[spec.name] for spec in self._constants.constants if spec.name not in homes})
        used = {homes[spec.name][0]: spec.name for spec in self._constants.constants if spec.name in homes}
        copiers = {name: [_copier(buffer, home)] for name, home in used.items()}
        parts = [
            _Part(span.begin, span.end, [*copiers.get(name, ()), *self._contents.sinks(name)])
            for name, span in self._index.items()
        ]
        _deal(pieces, parts)

    def check(self, *, strict: bool) -> None:
        """After the last byte: raise an InvalidWeights that names the tensor if a value is not allowed."""
        warn_of_baked(self._contents.finish(strict=strict))


class DirectCopy:
    """Copies them to where they belong at once."""

    def __init__(self, buffer: ConstantBuffer, name: str) -> None:
        self._buffer = buffer
        self._name = name
        self._at = 0

    def take(self, part: Bytes) -> None:
        self._buffer.fill_bytes(self._name, self._at, part)
        self._at += len(part)


class BufferedCopy:
    """Copies them when all are there: the constant's elements lie in another order than the file's."""

    def __init__(self, buffer: ConstantBuffer, name: str) -> None:
        self._buffer = buffer
        self._name = name
        self._left = buffer.tensors[name].numel() * buffer.tensors[name].element_size()
        self._scratch: torch.Tensor | None = None

    def take(self, part: Bytes) -> None:
        if self._scratch is None:
            self._scratch = torch.empty(self._left, dtype=torch.uint8)
        at = len(self._scratch) - self._left
        np.copyto(self._scratch.numpy()[at : at + len(part)], part)
        self._left -= len(part)
        if not self._left:
            target = self._buffer.tensors[self._name]
            self._buffer.fill({self._name: self._scratch.view(target.dtype).view(target.shape)})
            self._scratch = None


def _copier(buffer: ConstantBuffer, name: str) -> Sink:
    return (DirectCopy if buffer.tensors[name].is_contiguous() else BufferedCopy)(buffer, name)


def _check_index(index: Mapping[str, Span]) -> None:
    """Refuse spans that no file can have: of another length than the shape takes, or overlapping."""
    for name, span in index.items():
        if not 0 <= span.begin <= span.end:
            raise UnfitTensor(name=name, detail=f"its bytes are from {span.begin} to {span.end}")
        if span.dtype not in DTYPES:
            continue  # no constant has it
        needed = math.prod(span.shape) * DTYPES[span.dtype].itemsize
        if span.end - span.begin != needed:
            raise UnfitTensor(name=name, detail=f"{span.end - span.begin} bytes, its shape takes {needed}")
    for before, name in pairwise(sorted(index, key=lambda name: index[name][-2:])):
        if index[name].begin < index[before].end:
            raise UnfitTensor(name=name, detail=f"its bytes are also those of '{before}'")


class _Part(NamedTuple):
    """A tensor's place in the file, and what its bytes are given to."""

    begin: int
    end: int
    sinks: Sequence[Sink]


def _deal(pieces: Iterable[Bytes], parts: Sequence[_Part]) -> None:
    """Give each byte to the sinks of its part; what lies between the parts, the header for one, is passed over."""
    waiting = deque(sorted((part for part in parts if part.begin < part.end), key=lambda part: part.begin))
    length = max((part.end for part in parts), default=None)
    begin = 0
    for piece in pieces:
        end = begin + len(piece)
        if length is not None and end > length:
            raise UnreadableWeights(detail=f"{end} bytes or more have arrived of a file of {length}")
        while waiting and waiting[0].begin < end:
            part = waiting[0]
            for sink in part.sinks:
                sink.take(piece[max(part.begin - begin, 0) : part.end - begin])
            if part.end > end:
                break
            waiting.popleft()
        begin = end
        del piece  # else it would be held while the next one is made
    if length is not None and begin < length:
        raise UnreadableWeights(detail=f"{begin} bytes have arrived of a file of {length}")
