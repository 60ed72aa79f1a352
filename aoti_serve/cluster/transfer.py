"""Moving a stored version's bytes through Ray's object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from aoti_serve.tensors import Span
from aoti_serve.weights.source import read_index

CHUNK_BYTES = 64 * 2**20


class Chunks(NamedTuple):
    """A safetensors file on its way: objects of bounded size, and where its tensors lie in the whole."""

    slices: dict[str, Span]
    refs: list[ray.ObjectRef[Any]]


def put_file(path: Path) -> Chunks:
    """Put a file into the object store; runs in the coordinator, which owns the objects."""
    refs = [ray.put(chunk) for chunk in _chunks(path)]
    return Chunks(read_index(path), refs)


async def pull(chunks: Chunks) -> list[NDArray[np.uint8]]:
    """The file's pieces, in order, as views of the object store; runs in a replica.

    Each node pulls an object once, whoever asks. Nothing is copied here: that is not the event loop's work.
    """
    return [await ref for ref in chunks.refs]


def _chunks(path: Path) -> Iterator[NDArray[np.uint8]]:
    # Flat bytes: putting a tensor can take three times its size (upstream ray #59462).
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield np.frombuffer(chunk, np.uint8)
