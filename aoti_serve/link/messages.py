"""Batches, answers and failures as bytes: a head in JSON, and the tensors as they are in memory.

    message  size of the head u32 | head | tensors
    batch    [fence, timeout in seconds or null, rows in hand, version or null, tensors]
    answer   [version, epoch, the numbers of RunFacts, tensors]

The head says of each tensor its numpy dtype and its shape. Behind the head, from the next multiple of 64 bytes, come
the tensors, each at such a multiple. A failure is JSON only.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

import aoti_serve.errors
from aoti_serve.errors import AotiServeError, LinkBroken, ReplicaFailed, plain
from aoti_serve.link.memory import MEMORY_ALIGNMENT
from aoti_serve.link.outgoing import ByteBuffer
from aoti_serve.signature.tensors import DTYPES

HEAD_SIZE = Struct("<I")
PADDING = bytes(MEMORY_ALIGNMENT)
KNOWN_DTYPES = {np.dtype(dtype.numpy).str: np.dtype(dtype.numpy) for dtype in DTYPES.values()}

BatchArrays = Sequence[NDArray[Any]]


class BatchMessage(NamedTuple):
    """Rows to run on weights no older than epoch `fence`, within `timeout` seconds if it is not None.

    `rows` is how many rows its gateway has in hand for each replica: what waits there, too. `version` asks for one of
    those that are resident; None for the one that answers.
    """

    arrays: BatchArrays
    fence: int
    timeout: float | None = None
    rows: float = 0.0
    version: int | None = None


class RunFacts(NamedTuple):
    """What a run took in its replica, in nanoseconds: until a runner was free, its inputs, the model, its outputs.

    `padding` rows were added to fill a static batch size.
    """

    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    padding: int = 0

    @property
    def seconds(self) -> float:
        """From the arrival of a batch to its answer."""
        return (self.queue_ns + self.input_ns + self.infer_ns + self.output_ns) / 1e9


class AnswerMessage(NamedTuple):
    """The outputs of a run in the signature's order, their version, and the epoch since which it answers.

    `replica` is who ran it, as the gateway's end of the link knows; it is not sent.
    """

    version: int
    epoch: int
    outputs: list[NDArray[Any]]
    run: RunFacts = RunFacts()
    replica: str = ""


def batch_bytes(batch: BatchMessage) -> list[ByteBuffer]:
    return _message([batch.fence, batch.timeout, batch.rows, batch.version], batch.arrays)


def batch_of(message: memoryview) -> BatchMessage:
    """Its arrays are views of the message. Raises LinkBroken."""
    (fence, timeout, rows, version), arrays = _read(message, 4)
    return BatchMessage(arrays, fence, timeout, rows, version)


def answer_bytes(answer: AnswerMessage) -> list[ByteBuffer]:
    return _message([answer.version, answer.epoch, *answer.run], answer.outputs)


def answer_of(message: memoryview, replica: str = "") -> AnswerMessage:
    """The answer of this replica. Its outputs are views of the message. Raises LinkBroken."""
    (version, epoch, *run), outputs = _read(message, 2 + len(RunFacts()))
    return AnswerMessage(version, epoch, outputs, RunFacts(*run), replica)


def failure_bytes(error: BaseException) -> bytes:
    """An error of ours by its name and facts; any other by its name and text."""
    if isinstance(error, AotiServeError):
        facts = {name: _plain_fact(fact) for name, fact in error.facts.items()}
        return orjson.dumps({"error": type(error).__name__, "facts": facts}, default=_shown)
    return orjson.dumps({"raised": type(error).__name__, "detail": _shown(error)})


def _plain_fact(fact: object) -> object:
    if isinstance(fact, list | tuple):
        return [_plain_fact(each) for each in fact]
    return plain(fact) if isinstance(fact, str) else fact


def _shown(value: object) -> str:
    return plain(str(value))


def failure_of(message: memoryview) -> AotiServeError:
    """The error; ReplicaFailed for one that is none of ours."""
    found = orjson.loads(message)
    kind = getattr(aoti_serve.errors, found.get("error", ""), None)
    if isinstance(kind, type) and issubclass(kind, AotiServeError):
        return kind(**found["facts"])
    return ReplicaFailed(raised=found.get("raised") or found.get("error"), detail=found.get("detail", ""))


def _message(facts: list[Any], arrays: BatchArrays) -> list[ByteBuffer]:
    head = orjson.dumps([*facts, [(array.dtype.str, array.shape) for array in arrays]])
    head = HEAD_SIZE.pack(len(head)) + head
    buffers: list[ByteBuffer] = [head + PADDING[: -len(head) % MEMORY_ALIGNMENT]]
    for array in arrays:
        if array.nbytes:
            buffers.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if padding := -array.nbytes % MEMORY_ALIGNMENT:
                buffers.append(PADDING[:padding])
    return buffers


def _read(message: memoryview, number: int) -> tuple[list[Any], list[NDArray[Any]]]:
    """The facts of a head, of which there are `number`, and the arrays."""
    arrays: list[NDArray[Any]] = []
    try:
        at = HEAD_SIZE.size + HEAD_SIZE.unpack_from(message)[0]
        *facts, tensors = orjson.loads(message[HEAD_SIZE.size : at])
        for dtype, shape in tensors:
            at += -at % MEMORY_ALIGNMENT
            arrays.append(np.ndarray(shape, KNOWN_DTYPES[dtype], message, at))
            at += arrays[-1].nbytes
    except (KeyError, ValueError, TypeError, OverflowError, StructError) as error:
        raise LinkBroken(detail=f"a message that says {error!r}") from error
    if len(facts) != number:
        raise LinkBroken(detail=f"a message of {len(facts)} facts")
    return facts, arrays
