"""What the values of weights must satisfy, wherever they come from: tied names agree, bools are 0 or 1, and constants
that are compiled in have the compiled value.

A check is told of all bytes of a tensor in order, in chunks of any size: a file is many, a tensor in memory is one.
Another check is a class with `take`, an entry in `ContentsCheck.__init__` and one in `finish`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import ConstantIsBaked, TiedTensorsDiffer, UnfitTensor
from aoti_serve.signature.constants import Constants

Bytes = NDArray[np.uint8]


class Sink(Protocol):
    """Something that is given all bytes of a tensor, in order, in chunks of any size."""

    def take(self, chunk: Bytes) -> None: ...


class _Digest:
    """Keeps their sha256."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    @property
    def hex(self) -> str:
        return self._digest.hexdigest()

    def take(self, chunk: Bytes) -> None:
        self._digest.update(np.ascontiguousarray(chunk).data)


class _Largest:
    """Keeps the largest byte: of bools, which must be 0 or 1."""

    def __init__(self) -> None:
        self.byte = 0

    def take(self, chunk: Bytes) -> None:
        self.byte = max(self.byte, int(chunk.max(initial=0)))


class ContentsCheck:
    """The checks of one set of weights, by the `names` that it holds, all of which the package knows.

    `homes` has the names of each constant, its own first.
    """

    def __init__(self, names: Iterable[str], constants: Constants) -> None:
        self._constants = constants
        self.homes: dict[str, list[str]] = {}
        for name in sorted(names, key=lambda name: name in constants.tied):
            self.homes.setdefault(constants.tied.get(name, name), []).append(name)
        self._baked = {baked.name: baked.digest for baked in constants.baked if baked.name in self.homes}
        tied = {name for group in self.homes.values() if len(group) > 1 for name in group}
        self._digests = {name: _Digest() for name in (*tied, *self._baked)}
        bools = [spec.name for spec in constants.constants if spec.dtype == "bool"]
        self._largest = {name: _Largest() for home in bools for name in self.homes.get(home, ())}

    def sinks(self, name: str) -> Sequence[Sink]:
        """Everything that must be given the bytes of this tensor."""
        found: tuple[Sink | None, ...] = self._digests.get(name), self._largest.get(name)
        return [sink for sink in found if sink is not None]

    def finish(self, *, strict: bool) -> list[str]:
        """After the last byte: raise an InvalidWeights that names the first tensor whose value is not allowed.

        Not before it: bytes that were damaged on their way are refused by their sender, as what they are. Without
        `strict` returns the baked constants whose value differs; the compiled one stays.
        """
        for first, *others in self.homes.values():
            for name in others:
                if self._digests[name].hex != self._digests[first].hex:
                    raise TiedTensorsDiffer(name=name, tied=first)
        for name, largest in self._largest.items():
            if largest.byte > 1:  # compiled code may take it for a number, and index with it
                raise UnfitTensor(name=name, detail=f"a bool that is {largest.byte} in memory, neither 0 nor 1")
        differing = [name for name, digest in self._baked.items() if self._digests[name].hex != digest]
        if strict and differing:
            raise ConstantIsBaked(name=differing[0])
        return differing
