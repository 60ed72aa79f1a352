"""Requests of a processor as numeric arrays, which a link can carry; no pickle.

The first array is JSON as bytes: the step, and of each request its tensors by name and dtype, or why it failed. The
tensors follow in that order: one array each, but of strings two, their lengths in the tensor's shape and all bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from aoti_serve.errors import LinkBroken
from aoti_serve.signature.strings import strings_of
from aoti_serve.signature.tensors import BYTES


class Held(NamedTuple):
    """A tensor; `dtype` is its name in a signature, raw types are held as unsigned integers, strings as objects."""

    dtype: str
    array: NDArray[Any]


class Failure(NamedTuple):
    """Why a request has no tensors: what was raised, in words, and whether the client is at fault."""

    raised: str
    detail: str
    client: bool


HeldTensors = Mapping[str, Held]


def packed(step: str, requests: Sequence[HeldTensors | Failure]) -> list[NDArray[Any]]:
    """The arrays of these requests."""
    outline: list[Any] = []
    arrays: list[NDArray[Any]] = []
    for request in requests:
        if isinstance(request, Failure):
            outline.append(request._asdict())
            continue
        outline.append([(name, held.dtype) for name, held in request.items()])
        for held in request.values():
            arrays += _packed_strings(held.array) if held.dtype == BYTES.torch else [held.array]
    return [np.frombuffer(orjson.dumps([step, outline]), np.uint8), *arrays]


def unpacked(arrays: Sequence[NDArray[Any]]) -> tuple[str, list[HeldTensors | Failure]]:
    """The step, and the requests. Raises LinkBroken for arrays that `packed` does not make."""
    try:
        left = iter(arrays)
        step, outline = orjson.loads(next(left).tobytes())
        return step, [Failure(**entry) if isinstance(entry, dict) else _taken(entry, left) for entry in outline]
    except (ValueError, TypeError, StopIteration) as error:
        raise LinkBroken(detail=f"requests of a processor that say {error!r}") from error


def _taken(entry: list[tuple[str, str]], left: Iterator[NDArray[Any]]) -> HeldTensors:
    return {
        name: Held(dtype, _unpacked_strings(next(left), next(left)) if dtype == BYTES.torch else next(left))
        for name, dtype in entry
    }


def _packed_strings(array: NDArray[Any]) -> list[NDArray[Any]]:
    elements = array.reshape(-1).tolist()
    lengths = np.array(list(map(len, elements)), np.uint32).reshape(array.shape)
    return [lengths, np.frombuffer(b"".join(elements), np.uint8)]


def _unpacked_strings(lengths: NDArray[Any], data: NDArray[Any]) -> NDArray[Any]:
    ends = list(accumulate(lengths.reshape(-1).tolist(), initial=0))
    if ends[-1] != data.size:
        raise ValueError(f"{ends[-1]} bytes of strings, but {data.size} came")
    whole = data.tobytes()
    return strings_of([whole[begin:end] for begin, end in pairwise(ends)], lengths.shape)
