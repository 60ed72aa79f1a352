"""Values that are no finite numbers, counted while the bytes of weights pass: those of a training that has diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from aoti_serve.errors import NotFinite
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.signature.contents import Bytes


class _Bits(NamedTuple):
    """Where a dtype has its exponent and its fraction. All ones in the first mean NaN, or infinity without the second.

    float8_e4m3fn has no infinity, and one NaN: all ones (https://arxiv.org/abs/2209.05433).
    """

    word: type[np.unsignedinteger]
    exponent: int
    fraction: int


_BITS = {
    "float16": _Bits(np.uint16, 0x7C00, 0x03FF),
    "bfloat16": _Bits(np.uint16, 0x7F80, 0x007F),
    "float32": _Bits(np.uint32, 0x7F80_0000, 0x007F_FFFF),
    "float64": _Bits(np.uint64, 0x7FF0_0000_0000_0000, 0x000F_FFFF_FFFF_FFFF),
    "float8_e4m3fn": _Bits(np.uint8, 0x7F, 0x7F),
    "float8_e5m2": _Bits(np.uint8, 0x7C, 0x03),
}


class FiniteCheck:
    """The check of one set of weights, by the `names` that it holds, all of which the package knows.

    It takes all bytes of each tensor that it `reads`, in chunks of whole elements. Infinities count only in constants
    that had none when the package was made: a mask may be full of them.
    """

    def __init__(self, names: Iterable[str], constants: Constants) -> None:
        specs = {spec.name: spec for spec in constants.constants if spec.dtype in _BITS}
        homes = {name: specs.get(constants.tied.get(name, name)) for name in names}
        self._specs: dict[str, ConstantSpec] = {name: spec for name, spec in homes.items() if spec is not None}
        self._found: dict[str, tuple[int, int]] = {}

    def reads(self, name: str) -> bool:
        """Whether it must be given the bytes of this tensor."""
        return name in self._specs

    def take(self, name: str, chunk: Bytes) -> None:
        """Count in the next bytes of a tensor."""
        spec = self._specs[name]
        bits = _BITS[spec.dtype]
        words = chunk.view(bits.word)
        special = (words & bits.word(bits.exponent)) == bits.exponent
        if not special.any():
            return
        nan = int(np.count_nonzero(words[special] & bits.word(bits.fraction)))
        infinite = int(np.count_nonzero(special)) - nan if spec.finite else 0
        if nan or infinite:
            before = self._found.get(name, (0, 0))
            self._found[name] = before[0] + nan, before[1] + infinite

    def finish(self) -> None:
        """After the last byte: raise NotFinite, which names the first tensor that holds such values."""
        for name, (nan, infinite) in self._found.items():
            size = math.prod(self._specs[name].shape)
            raise NotFinite(name=name, nan=nan, infinite=infinite, size=size, tensors=len(self._found))
