"""Weights of any form as the bytes of a safetensors file, in pieces that can be sent to the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import ray

from aoti_serve.cluster.transfer.delta import Delta
from aoti_serve.cluster.transfer.tensors import tensor_pieces
from aoti_serve.errors import UnreadableWeights
from aoti_serve.weights.files.checkpoint import open_checkpoint

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
UPLOAD_CHUNK_BYTES = 8 * 2**20

Weights: TypeAlias = "Mapping[str, torch.Tensor] | Path | Delta | Sequence[ray.ObjectRef[Any]]"


async def upload_stream(weights: Weights) -> AsyncIterator[Any]:
    """Yield the bytes of a safetensors file with these weights, in uint8 arrays of at most `UPLOAD_CHUNK_BYTES`.

    References to objects are yielded as they are. Raises UnreadableWeights for anything else, and UnfitTensor.
    """
    if isinstance(weights, Mapping):
        chunks: Iterator[bytes | memoryview] = tensor_pieces(weights)
    elif isinstance(weights, Delta):
        chunks = weights.pieces()
    elif isinstance(weights, Path):
        chunks = (await asyncio.to_thread(open_checkpoint, weights)).pieces(UPLOAD_CHUNK_BYTES)
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
