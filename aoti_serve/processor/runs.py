"""Calls a processor with requests, and looks at what it returns. An error costs only the request that causes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import InvalidInput, plain
from aoti_serve.processor.packed import Failure, Held, HeldTensors
from aoti_serve.signature.strings import strings_nbytes, strings_of
from aoti_serve.signature.tensors import BYTES, DTYPES

CLIENTS = (InvalidInput, UnicodeDecodeError)  # what a client has sent cannot be used
RAISED = (Exception, SystemExit)
LONGEST_DETAIL = 400


class Processor:
    """An instance of the class, called within `watch`; `max_bytes` is the most that one call may return."""

    def __init__(self, instance: Any, watch: AbstractContextManager[None], max_bytes: int) -> None:
        self._instance = instance
        self._watch = watch
        self._max_bytes = max_bytes

    def run(self, step: str, requests: Sequence[HeldTensors]) -> list[HeldTensors | Failure]:
        """What the step makes of each request. If it fails over several, each is tried alone."""
        try:
            return self._results(step, requests)
        except RAISED as error:
            if len(requests) == 1:
                return [_failure(error)]
        return [self.run(step, [request])[0] for request in requests]

    def _results(self, step: str, requests: Sequence[HeldTensors]) -> list[HeldTensors | Failure]:
        given = [{name: _shown(held) for name, held in request.items()} for request in requests]
        with self._watch:
            returned = getattr(self._instance, step)(given)
        if not isinstance(returned, list | tuple) or len(returned) != len(requests):
            got = f"{len(returned)} entries" if isinstance(returned, list | tuple) else type(returned).__name__
            raise TypeError(
                f"`{step}` must return a list with an entry for each of {len(requests)} requests, not {got}"
            )
        results = [_result(step, each) for each in returned]
        self._check_size(results)
        return results

    def _check_size(self, results: Sequence[HeldTensors | Failure]) -> None:
        held = [held for result in results if not isinstance(result, Failure) for held in result.values()]
        if (nbytes := sum(strings_nbytes(each.array) for each in held)) > self._max_bytes:
            raise ValueError(f"it returned {nbytes} bytes, the limit is {self._max_bytes} (processor.max_result_bytes)")


def _shown(held: Held) -> NDArray[Any]:
    """As the processor gets it: raw types under the names of ml_dtypes."""
    raw = held.dtype in DTYPES and DTYPES[held.dtype].raw
    return held.array.view(getattr(ml_dtypes, held.dtype)) if raw else held.array


def _result(step: str, returned: Any) -> HeldTensors | Failure:
    if isinstance(returned, RAISED):
        return _failure(returned)
    if not isinstance(returned, Mapping):
        raise TypeError(f"an entry that `{step}` returned is {type(returned).__name__}, not a dict of tensors by name")
    return {plain(str(name)): _held(str(name), value) for name, value in returned.items()}


def _held(name: str, value: Any) -> Held:
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return Held(BYTES.torch, strings_of([_element(name, each) for each in array.reshape(-1)], array.shape))
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None:
        raise TypeError(f"'{name}' has dtype {array.dtype}, which is none that tensors have")
    array = np.ascontiguousarray(array).reshape(array.shape)
    return Held(dtype.torch, array.view(dtype.numpy) if dtype.raw else array)


def _element(name: str, value: Any) -> bytes:
    if not isinstance(value, str | bytes):
        raise TypeError(f"'{name}' holds {type(value).__name__}, where a string or bytes belong")
    return value.encode() if isinstance(value, str) else bytes(value)


def _failure(error: BaseException) -> Failure:
    return Failure(type(error).__name__, plain(str(error)[:LONGEST_DETAIL]), isinstance(error, CLIENTS))
