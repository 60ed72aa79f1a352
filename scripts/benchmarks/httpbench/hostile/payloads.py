"""What hostile clients send, as bytes. Pure; no case needs more than some megabytes of it at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from httpbench.bodies import BINARY, HEADER_LENGTH

JSON = "application/json"
ONE_ROW = [0.5] * 1024


def head(path: str, length: int | None, headers: Mapping[str, str] = {}, *, ended: bool = True) -> bytes:
    """The request's head; not `ended`, more headers may follow."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""] if ended else lines).encode()


def infer(model: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole inference request, in JSON unless the headers say otherwise."""
    return head(f"/v2/models/{model}/infer", len(body), headers or {"Content-Type": JSON}) + body


def twins(model: str, count: int) -> bytes:
    """So many inputs, the last two of one name."""
    names = [f"in{index}" for index in range(count - 1)]
    return infer(model, _json(inputs=[_input(name, [1], [0]) for name in [*names, names[-1]]]))


def same_output(model: str, output: str, count: int) -> bytes:
    """One output, asked for so many times."""
    return infer(model, _json(inputs=[_input("x", [1, 1024], ONE_ROW)], outputs=[{"name": output}] * count))


def nested_shape(model: str, depth: int) -> bytes:
    shape = "[" * depth + "1" + "]" * depth
    text = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":[1]}}]}}'
    return infer(model, text.encode())


def numbers(model: str, nbytes: int, digits: int = 1) -> bytes:
    """As many rows as fit of numbers with so many digits behind the point."""
    number = "0." + "5" * digits
    rows = (nbytes - 200) // (len(f"{number},") * 1024)
    return infer(model, _listed(f"[{rows},1024]", number, rows * 1024))


def empty_lists(model: str, nbytes: int) -> bytes:
    return infer(model, _listed("[1,1024]", "[]", (nbytes - 200) // len("[],")))


def unknown_inputs(model: str, nbytes: int) -> bytes:
    """As many small inputs as fit that the model does not have."""
    one = len(json.dumps(_input("n0000000", [1], [0]), separators=(",", ":"))) + 1
    count = (nbytes - 200) // one
    return infer(model, _json(inputs=[_input(f"n{index:07}", [1], [0]) for index in range(count)]))


def rows_without_bytes(model: str) -> bytes:
    """2^47 rows that take no byte."""
    return infer(model, _json(inputs=[_input("x", [2**47, 0], [])]))


def rows(model: str, count: int, width: int) -> bytes:
    """Ordinary binary rows, only many."""
    tensor = _input("x", [count, width], None) | {"parameters": {"binary_data_size": 4 * count * width}}
    header = _json(inputs=[tensor], parameters={"binary_data_output": True})
    headers = {"Content-Type": BINARY, HEADER_LENGTH: str(len(header))}
    return infer(model, header + bytes(4 * count * width), headers)


def header_lines(nbytes: int) -> Iterator[bytes]:
    """Lines of a head without an end, in pieces."""
    piece = b"".join(b"X-Line-%d: %s\r\n" % (index, b"a" * 80) for index in range(640))
    yield head("/v2/models/mlp/infer", None, ended=False) + b"\r\n"
    for _ in range(nbytes // len(piece)):
        yield piece


def _input(name: str, shape: list[int], data: Any) -> dict[str, Any]:
    tensor = {"name": name, "shape": shape, "datatype": "FP32"}
    return tensor if data is None else tensor | {"data": data}


def _listed(shape: str, element: str, count: int) -> bytes:
    data = ",".join([element] * count)
    return f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":[{data}]}}]}}'.encode()


def _json(**members: Any) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()
