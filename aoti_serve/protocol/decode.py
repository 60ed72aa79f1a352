"""V2 request bodies, JSON and binary, to arrays. Binary tensors are views of the body.

A body is a head, which is JSON, and perhaps binary data behind it. A head holds all that is checked, except the bytes
themselves; so a head that comes again and again is read once.

orjson holds the GIL until all of a head is read, and nothing else in its process runs. 8 MB of `[]` are 2.8 million
lists: 0.5 s and 190 MB. So the values are counted first: within the default limits the worst head that was found (580
lists, each nested 900 deep) takes 0.05 s and 32 MB, and up to 0.1 s more if the garbage collector runs meanwhile; half
a million numbers take 0.03 s, and the count of 8 MB takes 0.02 s.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import orjson
from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import InvalidBody, InvalidInputData, JsonTooLarge, quantity, shown_value
from aoti_serve.protocol.checks import (
    check_tensor_count,
    checked_dtype,
    checked_head,
    checked_nbytes,
    checked_parameters,
    checked_shape,
    tensor_view,
)
from aoti_serve.protocol.elements import array_from_json
from aoti_serve.protocol.messages import InputHead, RequestHead
from aoti_serve.protocol.ragged import is_ragged, ragged_input

_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
MAX_DIGITS = 18
LONGEST_NUMBER = 32  # of those that have no JSON form
_no_json = re.compile(rb"-?\b(NaN|nan|Infinity|inf|[0-9.]+e\+?[0-9]{3,})\b")
KEYS = ("id", "inputs", "outputs", "parameters")
INPUT_KEYS = dict.fromkeys(("name", "datatype", "shape", "data", "parameters")).keys()
OUTPUT_KEYS = dict.fromkeys(("name", "parameters")).keys()
ALSO_SENT = ("model_name", "model_version")  # by KServe's client; the path says both


def head_length(body: bytes | bytearray | memoryview, header_length: str | None) -> int:
    """The number of bytes of the body that are JSON. Raises InvalidBody."""
    if header_length is None:
        return len(body)
    if not header_length.isdecimal() or len(header_length) > MAX_DIGITS or int(header_length) > len(body):
        detail = f"{shown_value(header_length)} is not a length within {quantity(len(body), 'bytes')}"
        raise InvalidBody(detail=f"Inference-Header-Content-Length {detail}")
    if int(header_length) == 0:
        detail = "raw binary requests without JSON are not supported"
        raise InvalidBody(detail=f"Inference-Header-Content-Length 0: {detail}")
    return int(header_length)


def decode_head(message: bytes, limits: GatewayConfig) -> RequestHead:
    """Read the JSON part. Raises JsonTooLarge before anything is read, or an InvalidInput that names the input.

    Whether it fits a model is checked later, against the signature.
    """
    _check_size(message, limits)
    try:
        found = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise InvalidBody(detail=f"the body is not JSON: {error}{_no_json_hint(message, error)}") from error
    found = _typed(found, dict, "the body")
    if unknown := found.keys() - {*KEYS, *ALSO_SENT}:
        raise InvalidBody(detail=_no_key("a request", unknown, KEYS))
    outputs = [] if found.get("outputs") is None else _entries(found, "outputs", limits)
    return _head(found, tuple(_inputs(_entries(found, "inputs", limits))), outputs)


def _no_json_hint(message: bytes, error: orjson.JSONDecodeError) -> str:
    """What to do instead if a number has no JSON form, or if something else than JSON follows."""
    if "UTF-8" in error.msg or "after document" in error.msg:
        return "; where binary data follows it, the header Inference-Header-Content-Length says how long the JSON is"
    beyond = "infinity" in error.msg or _no_json.search(message, max(error.pos - 4, 0), error.pos + LONGEST_NUMBER)
    return "; JSON has no NaN and no infinity: send a tensor with them as binary data" if beyond else ""


def arrays_of(head: RequestHead, tail: memoryview) -> list[NDArray[Any]]:
    """The inputs in the head's order; those that are binary data are views of `tail`."""
    arrays, offset = [], 0
    for tensor in head.inputs:
        if tensor.nbytes is None:
            assert tensor.array is not None
            arrays.append(tensor.array)
            continue
        end = offset + tensor.nbytes
        if end > len(tail):
            left = quantity(len(tail) - offset, "bytes")
            detail = f"binary_data_size is {tensor.nbytes}, but the body has only {left} left"
            raise InvalidInputData(name=tensor.name, detail=detail)
        arrays.append(tensor_view(tensor, tail[offset:end]))
        offset = end
    if offset < len(tail):
        raise InvalidBody(detail=f"the body has {quantity(len(tail) - offset, 'bytes')} behind the last input's data")
    return arrays


def _check_size(message: bytes, limits: GatewayConfig) -> None:
    if len(message) > limits.max_json_bytes:
        raise JsonTooLarge(limit=limits.max_json_bytes, setting="gateway.max_json_bytes")
    # Each value opens something or stands behind one of these; there are no fewer than values, if strings have some.
    most = limits.max_json_values
    if len(message) > most and sum(map(message.count, b",:[{")) > most:
        raise JsonTooLarge(limit=most, unit="values", setting="gateway.max_json_values")


def _entries(message: dict[str, Any], what: str, limits: GatewayConfig) -> list[dict[str, Any]]:
    """The inputs, or the wanted outputs. Too many are refused before any of them is read."""
    if what not in message:
        raise InvalidBody(detail=f"'{what}' is missing: a list of objects, each with its 'name'")
    entries: list[Any] = _typed(message.get(what), list, f"'{what}'")
    check_tensor_count(len(entries), what, limits)
    return [_typed(entry, dict, f"an entry of '{what}'") for entry in entries]


def _head(message: dict[str, Any], inputs: tuple[InputHead, ...], outputs: list[dict[str, Any]]) -> RequestHead:
    wanted = [(_typed(entry.get("name"), str, "an output's 'name'"), _parameters(entry)) for entry in outputs]
    for entry in outputs:
        if unknown := entry.keys() - OUTPUT_KEYS:
            raise InvalidBody(detail=_no_key(f"output '{entry['name']}'", unknown, OUTPUT_KEYS))
    identity, parameters = message.get("id"), _parameters(message)
    return checked_head(None if identity is None else _typed(identity, str, "'id'"), inputs, wanted, parameters)


def _inputs(entries: list[dict[str, Any]]) -> Iterator[InputHead]:
    for entry in entries:
        yield _input(_typed(entry.get("name"), str, "an input's 'name'"), entry)


def _input(name: str, entry: dict[str, Any]) -> InputHead:
    if unknown := entry.keys() - INPUT_KEYS:
        raise InvalidInputData(name=name, detail=_no_key("an input", unknown, INPUT_KEYS))
    dtype = checked_dtype(name, entry.get("datatype"))
    if is_ragged(entry.get("shape")):
        return ragged_input(name, dtype, entry["shape"], entry.get("data"))
    shape = checked_shape(name, entry.get("shape"))
    size = _parameters(entry, name).get("binary_data_size")
    if size is not None:
        return InputHead(name, dtype.torch, shape, checked_nbytes(name, dtype, shape, size))
    if "data" not in entry:
        raise InvalidInputData(name=name, detail="neither 'data' nor the parameter 'binary_data_size' is given")
    data = entry["data"]
    if not isinstance(data, list):
        raise InvalidInputData(name=name, detail=f"'data' is {shown_value(data)}, not a list")
    return InputHead(name, dtype.torch, shape, None, array_from_json(name, dtype, shape, data))


def _no_key(owner: str, unknown: Collection[str], known: Collection[str]) -> str:
    return f"{owner} has no key {shown_value(min(unknown))}; available: {', '.join(known)}"


def _parameters(entry: dict[str, Any], owner: str | None = None) -> dict[str, Any]:
    return checked_parameters(entry.get("parameters"), owner)


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidBody(detail=f"{what} must be {_KINDS[kind]}")
    return value
