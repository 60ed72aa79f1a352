"""Batches, answers and failures as bytes: a few numbers, a table of tensors, and the tensors as they are in memory.

    batch    fence i64 | timeout f64, in seconds, nan for none | rows in hand f64 | size of the table u32 | table
    answer   version i64 | epoch i64 | size of the table u32 | table
    table    for each tensor: dtype (numpy's three letters), rank u8, sizes u64

Behind the table, from the next multiple of 64 bytes, come the tensors, each at such a multiple. A failure is JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

import aoti_serve.errors
from aoti_serve.errors import AotiServeError, LinkBroken, ReplicaFailed
from aoti_serve.link.memory import MEMORY_ALIGNMENT
from aoti_serve.link.outgoing import ByteBuffer
from aoti_serve.signature.tensors import DTYPES

BATCH = Struct("<qddI")
ANSWER = Struct("<qqI")
PADDING = bytes(MEMORY_ALIGNMENT)
KNOWN = {np.dtype(dtype.numpy).str.encode(): np.dtype(dtype.numpy) for dtype in DTYPES.values()}
MANY_ARRAYS = 1024

BatchArrays = Sequence[NDArray[Any]]
Specs = tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]


class BatchMessage(NamedTuple):
    """Rows to run on weights no older than epoch `fence`, within `timeout` seconds if it is not None.

    `rows` is how many rows its gateway has in hand for each replica: what waits there, too.
    """

    arrays: BatchArrays
    fence: int
    timeout: float | None = None
    rows: float = 0.0


class AnswerMessage(NamedTuple):
    """One run's outputs in the signature's order, the version that computed them, and since which epoch it answers."""

    version: int
    epoch: int
    outputs: list[NDArray[Any]]


def batch_bytes(batch: BatchMessage) -> list[ByteBuffer]:
    table = _table(batch.arrays)
    timeout = math.nan if batch.timeout is None else batch.timeout
    return _message(BATCH.pack(batch.fence, timeout, batch.rows, len(table)) + table, batch.arrays)


def batch_of(message: memoryview) -> BatchMessage:
    """Its arrays are views of the message. Raises LinkBroken."""
    fence, timeout, rows, size = _unpacked(BATCH, message)
    return BatchMessage(_arrays(message, BATCH.size, size), fence, None if math.isnan(timeout) else timeout, rows)


def answer_bytes(answer: AnswerMessage) -> list[ByteBuffer]:
    table = _table(answer.outputs)
    return _message(ANSWER.pack(answer.version, answer.epoch, len(table)) + table, answer.outputs)


def answer_of(message: memoryview) -> AnswerMessage:
    """Its outputs are views of the message. Raises LinkBroken."""
    version, epoch, size = _unpacked(ANSWER, message)
    return AnswerMessage(version, epoch, _arrays(message, ANSWER.size, size))


def failure_bytes(error: BaseException) -> bytes:
    """An error of ours by its name and facts; any other by its own name and words."""
    if isinstance(error, AotiServeError):
        return orjson.dumps({"error": type(error).__name__, "facts": error.facts}, default=str)
    return orjson.dumps({"raised": type(error).__name__, "detail": str(error)}, default=str)


def failure_of(message: memoryview) -> AotiServeError:
    """The error again; ReplicaFailed for one that is none of ours."""
    found = orjson.loads(message)
    kind = getattr(aoti_serve.errors, found.get("error", ""), None)
    if isinstance(kind, type) and issubclass(kind, AotiServeError):
        return kind(**found["facts"])
    return ReplicaFailed(raised=found.get("raised") or found.get("error"), detail=found.get("detail", ""))


def _message(head: bytes, arrays: BatchArrays) -> list[ByteBuffer]:
    buffers: list[ByteBuffer] = [head + PADDING[: -len(head) % MEMORY_ALIGNMENT]]
    for array in arrays:
        if array.nbytes:
            buffers.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if padding := -array.nbytes % MEMORY_ALIGNMENT:
                buffers.append(PADDING[:padding])
    return buffers


def _table(arrays: BatchArrays) -> bytes:
    return _encoded(tuple([(array.dtype, array.shape) for array in arrays]))


@lru_cache(MANY_ARRAYS)
def _encoded(specs: Specs) -> bytes:
    return b"".join(
        dtype.str.encode() + bytes([len(shape)]) + Struct(f"<{len(shape)}Q").pack(*shape) for dtype, shape in specs
    )


@lru_cache(MANY_ARRAYS)
def _decoded(table: bytes) -> Specs:
    specs, at = [], 0
    while at < len(table):
        dtype, rank = KNOWN[table[at : at + 3]], table[at + 3]
        specs.append((dtype, Struct(f"<{rank}Q").unpack_from(table, at + 4)))
        at += 4 + 8 * rank
    return tuple(specs)


def _arrays(message: memoryview, start: int, size: int) -> list[NDArray[Any]]:
    arrays, at = [], start + size
    try:
        for dtype, shape in _decoded(bytes(message[start:at])):
            at += -at % MEMORY_ALIGNMENT
            arrays.append(np.ndarray(shape, dtype, message, at))
            at += arrays[-1].nbytes
    except (KeyError, IndexError, ValueError, TypeError, OverflowError, StructError) as error:
        raise LinkBroken(detail=f"a table of tensors that says {error!r}") from error
    return arrays


def _unpacked(form: Struct, message: memoryview) -> tuple[Any, ...]:
    if len(message) < form.size:
        raise LinkBroken(detail=f"a message of {len(message)} bytes")
    return form.unpack_from(message)
