"""What a replica gives back; in a module of its own, so that a gateway that unpickles it needs no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray


class Answer(NamedTuple):
    """One run's outputs in the signature's order, the version that computed them, and since which epoch it answers."""

    version: int
    epoch: int
    outputs: list[NDArray[Any]]
