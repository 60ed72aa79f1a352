"""The check of what weights hold, wherever they come from: tied names agree, bools are 0 or 1, and constants that are
compiled in have the compiled value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import ConstantIsBaked, TiedTensorsDiffer, UnfitTensor
from aoti_serve.signature.constants import Constants

Bytes = NDArray[np.uint8]


class ContentsCheck:
    """The check of one set of weights, by the `names` that it holds, all of which the package knows.

    It takes all bytes of each tensor in order, in chunks of any size: a file is many, a tensor in memory is one. It
    needs only the tensors that it `reads`. `homes` has the names of each constant, its own first.
    """

    def __init__(self, names: Iterable[str], constants: Constants) -> None:
        self.homes: dict[str, list[str]] = {}
        for name in sorted(names, key=lambda name: name in constants.tied):
            self.homes.setdefault(constants.tied.get(name, name), []).append(name)
        self._baked = {baked.name: baked.digest for baked in constants.baked if baked.name in self.homes}
        tied = {name for group in self.homes.values() if len(group) > 1 for name in group}
        self._digests = {name: hashlib.sha256() for name in (*tied, *self._baked)}
        bools = [spec.name for spec in constants.constants if spec.dtype == "bool"]
        self._largest = {name: 0 for home in bools for name in self.homes.get(home, ())}

    def reads(self, name: str) -> bool:
        """Whether it must be given the bytes of this tensor."""
        return name in self._digests or name in self._largest

    def take(self, name: str, chunk: Bytes) -> None:
        """Take the next bytes of a tensor."""
        if name in self._digests:
            self._digests[name].update(np.ascontiguousarray(chunk).data)
        if name in self._largest:
            self._largest[name] = max(self._largest[name], int(chunk.max(initial=0)))

    def finish(self, *, strict: bool) -> list[str]:
        """After the last byte: raise an InvalidWeights that names the first tensor whose value is not allowed.

        Not before it: bytes that were damaged on their way are refused by their sender, as what they are. Without
        `strict` returns the baked constants whose value differs; the compiled one stays.
        """
        digests = {name: digest.hexdigest() for name, digest in self._digests.items()}
        for first, *others in self.homes.values():
            for name in others:
                if digests[name] != digests[first]:
                    raise TiedTensorsDiffer(name=name, tied=first)
        for name, largest in self._largest.items():
            if largest > 1:  # compiled code may take it for a number, and index with it
                raise UnfitTensor(name=name, detail=f"a bool that is {largest} in memory, neither 0 nor 1")
        differing = [name for name, digest in self._baked.items() if digests[name] != digest]
        if strict and differing:
            raise ConstantIsBaked(name=differing[0])
        return differing
