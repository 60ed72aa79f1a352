"""Weights of any form as the bytes of a safetensors file, in pieces that can be sent to the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import ray

from aoti_serve.errors import UnfitTensor, UnreadableWeights
from aoti_serve.signature.tensors import DTYPES, Span
from aoti_serve.weights.files.index import file_order, header_of

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
UPLOAD_CHUNK_BYTES = 8 * 2**20

Weights: TypeAlias = "Mapping[str, torch.Tensor] | Path | Sequence[ray.ObjectRef[Any]]"


async def upload_stream(weights: Weights) -> AsyncIterator[Any]:
    """Yield the bytes of a safetensors file with these weights, in uint8 arrays of at most `UPLOAD_CHUNK_BYTES`.

    References to objects are yielded as they are. Raises UnreadableWeights for anything else, and UnfitTensor.
    """
    if isinstance(weights, Mapping):
        chunks: Iterator[bytes | memoryview] = _of_tensors(weights)
    elif isinstance(weights, Path):
        chunks = _of_file(weights)
    elif isinstance(weights, Sequence) and all(isinstance(ref, ray.ObjectRef) for ref in weights):
        for ref in weights:
            yield ref
        return
    else:
        raise UnreadableWeights(detail=f"a {type(weights).__name__}, not a state dict, a Path or a list of ObjectRefs")
    async for piece in rechunk(_off_loop(chunks), UPLOAD_CHUNK_BYTES):
        yield np.frombuffer(piece, np.uint8)


async def rechunk(body: AsyncIterator[bytes | memoryview], limit: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of at most `limit` bytes; small pieces are joined."""
    buffer = bytearray()
    async for piece in body:
        for start in range(0, len(piece), limit):
            buffer += piece[start : start + limit]
            while len(buffer) >= limit:
                yield bytes(buffer[:limit])
                del buffer[:limit]
    if buffer:
        yield bytes(buffer)


async def in_one_piece(content: bytes) -> AsyncIterator[bytes]:
    """Yield bytes that are all there."""
    yield content


async def _off_loop(chunks: Iterator[T]) -> AsyncIterator[T]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _of_file(path: Path) -> Iterator[bytes | memoryview]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(UPLOAD_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise UnreadableWeights(detail=f"{path}: {error.strerror}") from error


def _of_tensors(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield header and tensors. Tied tensors are written once for each of their names: the format cannot share them."""
    tensors = dict(tensors.items())
    spans = {name: _span(name, tensor) for name, tensor in tensors.items()}
    yield header_of(spans)
    for name in file_order(spans):
        yield _bytes_of(tensors[name])


def _span(name: str, tensor: Any) -> Span:
    from aoti_serve.model.tensor_memory import readable

    found = readable(name, tensor, UnfitTensor)
    if found.dtype not in DTYPES:
        raise UnfitTensor(name=name, detail=f"dtype {found.dtype} is not one of {', '.join(DTYPES)}")
    return Span(*found, 0, tensor.numel() * tensor.element_size())


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    from aoti_serve.model.tensor_memory import content_of

    return content_of(tensor).data
