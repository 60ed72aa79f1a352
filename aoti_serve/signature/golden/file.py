"""Golden requests as one safetensors file: data, never code.

Tensors are called `<request>/inputs/<name>` and `<request>/outputs/<name>`. `bounds` in the file's metadata is JSON:
{request: {output: {bound: value}}}. Under the request `*` stand bounds of outputs for which a request has none itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from aoti_serve.errors import UnfitGolden, UnreadableGolden, problems, quantity
from aoti_serve.signature.golden.arrays import NUMPY_DTYPES, Array
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.tensors import BY_SAFETENSORS

MAX_GOLDEN_BYTES: Final = 64 * 2**20
MAX_GOLDEN_REQUESTS: Final = 1024
ALL: Final = "*"
SIDES: Final = ("inputs", "outputs")

_BOUNDS_FORM = TypeAdapter(dict[str, dict[str, dict[str, Any]]])
Tensors = dict[str, dict[str, Array]]  # by kind, by name


def read_golden(path: str | os.PathLike[str]) -> list[GoldenRequest]:
    """Read the golden requests in a file, in the order of their names. Raises UnreadableGolden or UnfitGolden."""
    return parse_golden(golden_content(path))


def golden_content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that may hold golden requests; no more of them than `parse_golden` takes, and one."""
    source = Path(path)
    try:
        with source.open("rb") as file:
            return file.read(MAX_GOLDEN_BYTES + 1)
    except OSError as error:
        raise UnreadableGolden(detail=f"{source}: {error.strerror}") from error


def parse_golden(content: bytes) -> list[GoldenRequest]:
    """As `read_golden`, from the bytes of a file."""
    if len(content) > MAX_GOLDEN_BYTES:
        raise UnreadableGolden(detail=f"the file has more than {quantity(MAX_GOLDEN_BYTES, 'bytes')}")
    try:
        found = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise UnreadableGolden(detail=f"not a whole safetensors file: {error}") from error
    requests: dict[str, Tensors] = {}
    for name, entry in found:
        request, kind, tensor = _parts(name)
        requests.setdefault(request, {kind: {} for kind in SIDES})[kind][tensor] = _array(request, tensor, entry)
    _check_count(requests)
    bounds = _bounds_in(content, requests)
    return [_request(name, requests[name], bounds) for name in sorted(requests)]


def golden_bytes(requests: Collection[GoldenRequest]) -> bytes:
    """The bytes of a file with these requests. Raises UnreadableGolden if they are too many, or two have one name."""
    names = {request.name for request in requests}
    _check_count(names)
    if len(names) < len(requests):
        raise UnreadableGolden(detail=f"{len(requests)} requests have only {quantity(len(names), 'names')}")
    tensors = {
        f"{request.name}/{kind}/{name}": array
        for request in requests
        for kind, arrays in zip(SIDES, (request.inputs, request.outputs), strict=True)
        for name, array in arrays.items()
    }
    content: bytes = save(tensors, {"bounds": json.dumps({request.name: _written(request) for request in requests})})
    if len(content) > MAX_GOLDEN_BYTES:
        raise UnreadableGolden(detail=f"they take more than {quantity(MAX_GOLDEN_BYTES, 'bytes')}")
    return content


def save_golden(requests: Collection[GoldenRequest], path: str | os.PathLike[str]) -> None:
    """Write golden requests to a file, which `aoti-serve package` and `swap` take as `--golden`.

    At most 1,024 requests, and 64 MiB. Raises UnreadableGolden.
    """
    Path(path).write_bytes(golden_bytes(requests))


def _parts(tensor: str) -> tuple[str, str, str]:
    request, _, rest = tensor.partition("/")
    kind, _, name = rest.partition("/")
    if kind not in SIDES or not name:
        detail = f"tensor '{tensor}' is not called <request>/inputs/<name> or <request>/outputs/<name>"
        raise UnreadableGolden(detail=detail)
    return request, kind, name


def _array(request: str, tensor: str, entry: Mapping[str, Any]) -> Array:
    dtype = BY_SAFETENSORS.get(entry["dtype"])
    if dtype is None:
        raise UnfitGolden(request=request, detail=f"tensor '{tensor}': no package takes dtype {entry['dtype']}")
    held: Array = np.frombuffer(entry["data"], np.uint8)
    if dtype.torch == "bool" and held.max(initial=0) > 1:  # compiled code may take it for a number, and index with it
        raise UnfitGolden(request=request, detail=f"tensor '{tensor}': a bool that is neither 0 nor 1")
    return held.view(NUMPY_DTYPES[dtype.torch]).reshape(entry["shape"])


def _check_count(requests: Collection[str]) -> None:
    if not 0 < len(requests) <= MAX_GOLDEN_REQUESTS:
        raise UnreadableGolden(detail=f"there are {len(requests)} of them; 1 to {MAX_GOLDEN_REQUESTS} are taken")


def _bounds_in(content: bytes, requests: Collection[str]) -> dict[str, dict[str, dict[str, Any]]]:
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    try:
        bounds = _BOUNDS_FORM.validate_json(metadata.get("bounds", "{}"))
    except ValidationError as error:
        detail = (
            f"`bounds` in its metadata is not {{request: {{output: {{bound: value}}}}}}: {problems(error.errors())}"
        )
        raise UnreadableGolden(detail=detail) from error
    for name in bounds.keys() - requests - {ALL}:
        raise UnreadableGolden(detail=f"`bounds` are there for '{name}', and no such request")
    return bounds


def _request(name: str, tensors: Tensors, bounds: Mapping[str, dict[str, dict[str, Any]]]) -> GoldenRequest:
    own = bounds.get(ALL, {}) | bounds.get(name, {})
    return GoldenRequest(name, tensors["inputs"], tensors["outputs"], own)


def _written(request: GoldenRequest) -> dict[str, Any]:
    return {name: bounds.model_dump(exclude_none=True) for name, bounds in request.bounds.items()}
