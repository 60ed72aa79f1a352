"""A weights file's bytes on their way into a buffer, piece by piece as they arrive: nothing waits for the whole file.

A piece may end anywhere, also inside an element. It is its sender's again as soon as the next one is asked for, so
nothing here keeps one, or a view of one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.errors import TiedTensorsDiffer, UnreadableWeights
from aoti_serve.model.buffers import ConstantBuffer
from aoti_serve.model.weights_in.tensors import check_baked, check_bools, check_tensor_index
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.tensors import Span

Bytes = NDArray[np.uint8]


class WeightsStream:
    """What becomes of the bytes of one weights file.

    Raises an InvalidWeights that names the tensor if `index` does not fit the package, or itself.
    """

    def __init__(self, index: Mapping[str, Span], constants: Constants) -> None:
        self._index = dict(index)
        self._constants = constants
        check_tensor_index(self._index, constants)
        self._given: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(self._index, key=lambda name: name in constants.tied):
            self._given[constants.tied.get(name, name)].append(name)
        self._digests: dict[str, DigestCheck] = {}
        self._truths: dict[str, BoolCheck] = {}

    def fill(self, buffer: ConstantBuffer, pieces: Iterable[Bytes], rest: Mapping[str, torch.Tensor]) -> None:
        """Copy every constant into `buffer`: from the file, or from `rest` if the file leaves it out.

        Raises what `pieces` raises, and UnreadableWeights if those are not the whole file and nothing else.
        """
        missing = [spec.name for spec in self._constants.constants if not self._given[spec.name]]
        buffer.fill({name: rest[name] for name in missing})
        takers = self._takers(buffer)
        _deal(pieces, [_Part(span.begin, span.end, takers[name]) for name, span in self._index.items()])

    def check(self, *, strict: bool) -> None:
        """After the last byte: raise an InvalidWeights that names the tensor if a value is none that may be swapped in.

        Not before it, for bytes that were damaged on their way are refused by whoever sends them, as what they are.
        """
        for spec in self._constants.constants:
            for name in self._given[spec.name][1:]:
                first = self._given[spec.name][0]
                if self._digests[name].hex != self._digests[first].hex:
                    raise TiedTensorsDiffer(name=name, tied=first)
        for name, truths in self._truths.items():
            check_bools(name, truths.largest)
        for baked in self._constants.baked:
            if baked.name in self._index and self._digests[baked.name].hex != baked.digest:
                check_baked(baked.name, strict)

    def _takers(self, buffer: ConstantBuffer) -> Mapping[str, Sequence[Sink]]:
        """Who takes a tensor's bytes, by its name in the file; nobody takes an unused one's."""
        takers: defaultdict[str, list[Sink]] = defaultdict(list)
        digested = [baked.name for baked in self._constants.baked]
        for spec in self._constants.constants:
            names = self._given[spec.name]
            if names:
                takers[names[0]].append(_copier(buffer, spec.name))
            if names and spec.dtype == "bool":
                self._truths[names[0]] = BoolCheck()
                takers[names[0]].append(self._truths[names[0]])
            if len(names) > 1:
                digested += names
        for name in digested:
            self._digests[name] = DigestCheck()
            takers[name].append(self._digests[name])
        return takers


class Sink(Protocol):
    """Somebody who is given all bytes of a tensor, in order, in parts of any size."""

    def take(self, part: Bytes) -> None: ...


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


class DigestCheck:
    """Keeps their sha256."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    @property
    def hex(self) -> str:
        return self._digest.hexdigest()

    def take(self, part: Bytes) -> None:
        self._digest.update(np.ascontiguousarray(part).data)


class BoolCheck:
    """Keeps the largest of them, which are bools."""

    def __init__(self) -> None:
        self.largest = 0

    def take(self, part: Bytes) -> None:
        self.largest = max(self.largest, int(part.max(initial=0)))


def _copier(buffer: ConstantBuffer, name: str) -> Sink:
    return (DirectCopy if buffer.tensors[name].is_contiguous() else BufferedCopy)(buffer, name)


class _Part(NamedTuple):
    """A tensor's place in the file."""

    begin: int
    end: int
    takers: Sequence[Sink]


def _deal(pieces: Iterable[Bytes], parts: Sequence[_Part]) -> None:
    """Give each byte to whoever takes it; what lies between the parts, the header for one, is nobody's."""
    waiting = deque(sorted((part for part in parts if part.begin < part.end), key=lambda part: part.begin))
    length = max((part.end for part in parts), default=None)
    begin = 0
    for piece in pieces:
        end = begin + len(piece)
        if length is not None and end > length:
            raise UnreadableWeights(detail=f"{end} bytes or more have arrived of a file of {length}")
        while waiting and waiting[0].begin < end:
            part = waiting[0]
            for taker in part.takers:
                taker.take(piece[max(part.begin - begin, 0) : part.end - begin])
            if part.end > end:
                break
            waiting.popleft()
        begin = end
        del piece  # else it would be held while the next one is made
    if length is not None and begin < length:
        raise UnreadableWeights(detail=f"{begin} bytes have arrived of a file of {length}")
