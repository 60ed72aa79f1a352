"""Requests go over a link as numbers, and come back as they were."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.errors import LinkBroken
from aoti_serve.processor.packed import Failure, Held, packed, unpacked
from aoti_serve.signature.strings import strings_of

NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1)).map(lambda values: Held("int64", np.array(values, np.int64)))
STRINGS = st.lists(st.binary()).map(lambda values: Held("BYTES", strings_of(values, (len(values), 1))))
FAILURES = st.builds(Failure, st.text(), st.text(), st.booleans())
REQUESTS = st.lists(st.dictionaries(st.text(), NUMBERS | STRINGS) | FAILURES)


@settings(max_examples=50, deadline=None)
@given(step=st.sampled_from(["before", "after"]), requests=REQUESTS)
def test_what_is_packed_comes_back(step: str, requests: list[dict[str, Held] | Failure]) -> None:
    arrays = packed(step, requests)
    assert all(array.dtype != object for array in arrays)
    found_step, found = unpacked(arrays)
    assert (found_step, len(found)) == (step, len(requests))
    for one, other in zip(found, requests, strict=True):
        if isinstance(other, Failure) or isinstance(one, Failure):
            assert one == other
            continue
        assert list(one) == list(other)
        assert all(one[name].dtype == other[name].dtype for name in other)
        assert all(np.array_equal(one[name].array, other[name].array) for name in other)
        assert all(one[name].array.shape == other[name].array.shape for name in other)


@pytest.mark.parametrize(
    "outline",
    [
        pytest.param(b"{", id="no-json"),
        pytest.param(b"[]", id="no-step"),
        pytest.param(b'["before", [[["x", "int64"]]]]', id="too-few-arrays"),
        pytest.param(b'["before", [{"raised": 1}]]', id="half-a-failure"),
        pytest.param(b'["before", [[["x", "BYTES"]]]]', id="strings-without-arrays"),
    ],
)
def test_what_nobody_packs_breaks_the_link(outline: bytes) -> None:
    with pytest.raises(LinkBroken, match="requests of a processor"):
        unpacked([np.frombuffer(outline, np.uint8)])


def test_lengths_that_are_not_those_of_the_bytes_break_the_link() -> None:
    head = np.frombuffer(orjson.dumps(["before", [[("x", "BYTES")]]]), np.uint8)
    with pytest.raises(LinkBroken, match="4 bytes of strings, but 3 came"):
        unpacked([head, np.array([4], np.uint32), np.zeros(3, np.uint8)])
