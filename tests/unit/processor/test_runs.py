"""What a processor returns is looked at; what it raises costs the requests over which it does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aoti_serve.errors import InvalidInputData
from aoti_serve.processor.packed import Failure, Held, packed, unpacked
from aoti_serve.processor.runs import Processor
from aoti_serve.signature.strings import strings_of

Step = Callable[[list[dict[str, Any]]], Any]


class Playing:
    """A processor that does what it is told."""

    def __init__(self, step: Step) -> None:
        self.calls = 0
        self._step = step

    def before(self, requests: list[dict[str, Any]]) -> Any:
        self.calls += 1
        return self._step(requests)


def run(step: Step, *values: int, max_bytes: int = 1000) -> list[Any]:
    requests = [{"x": Held("int64", np.array([value]))} for value in values]
    return Processor(Playing(step), nullcontext(), max_bytes).run("before", requests)


def each(make: Callable[[int], Any]) -> Step:
    return lambda requests: [make(int(request["x"][0])) for request in requests]


def not_three(value: int) -> dict[str, Any]:
    if value == 3:
        raise ZeroDivisionError("three")
    return {"y": np.array([value])}


def test_all_kinds_of_tensors_are_taken() -> None:
    made = {
        "numbers": [1, 2],
        "text": ["a", b"b"],
        "unicode": np.array(["größe"]),
        "half": np.ones(2, ml_dtypes.bfloat16),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    [found] = run(lambda requests: [made], 1)
    assert {name: held.dtype for name, held in found.items()} == {
        "numbers": "int64",
        "text": "BYTES",
        "unicode": "BYTES",
        "half": "bfloat16",
        "turned": "float64",
    }
    assert found["unicode"].array.tolist() == ["größe".encode()]
    assert found["half"].array.dtype == np.uint16
    assert found["turned"].array.flags.c_contiguous


def test_a_raw_type_and_strings_arrive_as_what_they_are() -> None:
    request = {"h": Held("bfloat16", np.array([0x3F80], np.uint16)), "s": Held("BYTES", strings_of([b"a"], (1,)))}
    seen: list[dict[str, Any]] = []

    def look(requests: list[dict[str, Any]]) -> Any:
        seen.extend(requests)
        return [{}]

    Processor(Playing(look), nullcontext(), 10).run("before", [request])
    assert seen[0]["h"].dtype == ml_dtypes.bfloat16
    assert seen[0]["h"][0] == 1
    assert seen[0]["s"].tolist() == [b"a"]


def test_only_the_request_over_which_it_raises_fails() -> None:
    found = run(each(not_three), 1, 3, 5)
    assert [held if isinstance(held, Failure) else int(held["y"].array[0]) for held in found] == [
        1,
        Failure("ZeroDivisionError", "three", False),
        5,
    ]


def test_an_error_in_place_of_an_entry_is_that_requests() -> None:
    refused = InvalidInputData(name="x", detail="odd")
    step = Playing(each(lambda value: refused if value % 2 else {"y": value}))
    requests = [{"x": Held("int64", np.array([value]))} for value in (1, 2)]
    first, second = Processor(step, nullcontext(), 1000).run("before", requests)
    assert first == Failure("InvalidInputData", "input 'x': odd", True)
    assert not isinstance(second, Failure)
    assert step.calls == 1


def unreadable(value: int) -> dict[str, Any]:
    text = b"caf\xe9".decode(errors="surrogateescape")  # no UTF-8, as bytes of a client's can make it
    if value == 3:
        raise ValueError(f"cannot read {text}")
    return {text if value == 4 else "y": np.array([value])}


def test_bytes_that_are_no_text_cost_their_own_request_only() -> None:
    step, found = unpacked(packed("before", run(each(unreadable), 1, 3, 4)))
    assert step == "before"
    first, second, third = found
    assert second == Failure("ValueError", "cannot read caf?", False)
    assert [list(held) for held in (first, third) if not isinstance(held, Failure)] == [["y"], ["caf?"]]


@pytest.mark.parametrize(
    ("step", "says", "client"),
    [
        pytest.param(each(lambda _: b"\xff".decode()), "can't decode byte", True, id="no-text"),
        pytest.param(each(lambda _: sys.exit("gone")), "gone", False, id="exit"),
        pytest.param(lambda _: None, "must return a list with an entry for each of 1 requests", False, id="none"),
        pytest.param(lambda _: [], "not 0 entries", False, id="too-few"),
        pytest.param(lambda _: [5], "is int, not a dict of tensors by name", False, id="no-dict"),
        pytest.param(lambda _: [{"y": [object()]}], "'y' holds object, where a string", False, id="object"),
        pytest.param(lambda _: [{"y": 1j}], "'y' has dtype complex128", False, id="complex"),
        pytest.param(lambda _: [{"y": np.zeros(126)}], "1008 bytes, the limit is 1000", False, id="large"),
        pytest.param(lambda _: [{"y": [b"x" * 1000]}], "1008 bytes, the limit is 1000", False, id="large-string"),
    ],
)
def test_what_cannot_be_used_is_said_in_words(step: Step, says: str, client: bool) -> None:
    [found] = run(step, 1)
    assert isinstance(found, Failure)
    assert says in found.detail
    assert found.client is client
