"""What the values of weights must satisfy, in whatever chunks they are told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pytest

from aoti_serve.errors import ConstantIsBaked, TiedTensorsDiffer, UnfitTensor
from aoti_serve.signature.constants import BakedConstant, Constants, ConstantSpec
from aoti_serve.signature.contents import ContentsCheck

KNOWN = Constants(
    constants=(
        ConstantSpec(name="embed", dtype="float32", shape=(2,), stride=(1,)),
        ConstantSpec(name="mask", dtype="bool", shape=(8,), stride=(1,)),
    ),
    tied={"head": "embed", "cover": "mask"},
    baked=(BakedConstant(name="gain", dtype="uint8", shape=(8,), digest=hashlib.sha256(b"compiled").hexdigest()),),
    unused=("counter",),
)
FITTING = {"embed": b"abcdefgh", "head": b"abcdefgh", "mask": b"\0\1" * 4, "gain": b"compiled", "counter": rb"\9" * 8}


def check(values: Mapping[str, bytes], size: int, *, strict: bool = True) -> list[str]:
    contents = ContentsCheck(values, KNOWN)
    for name, value in values.items():
        for at in range(0, len(value), size):
            contents.take(name, np.frombuffer(value[at : at + size], np.uint8))
    return contents.finish(strict=strict)


pytestmark = pytest.mark.parametrize("size", [1, 3, 8])


def test_what_fits_passes(size: int) -> None:
    assert check(FITTING, size) == []
    assert check({"head": b"whatever"}, size) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"head": b"abcdefgH"}, TiedTensorsDiffer(name="head", tied="embed")),
        ({"mask": b"\0\1\0\1\0\1\0\2"}, UnfitTensor(name="mask", detail="a bool that is 2 in memory, neither 0 nor 1")),
        ({"gain": b"Compiled"}, ConstantIsBaked(name="gain")),
    ],
    ids=["tied", "bool", "baked"],
)
def test_what_does_not_is_refused_by_name(size: int, changes: dict[str, bytes], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        check(FITTING | changes, size)
    assert str(caught.value) == str(error)


def test_a_bool_is_checked_under_any_of_its_names(size: int) -> None:
    with pytest.raises(UnfitTensor, match="'cover'"):
        check({"cover": b"\0\0\0\0\0\0\0\7"}, size)


def test_baked_values_that_differ_are_named_where_that_is_no_error(size: int) -> None:
    assert check(FITTING | {"gain": b"Compiled"}, size, strict=False) == ["gain"]


def test_a_tensor_that_needs_no_check_is_not_read(size: int) -> None:
    contents = ContentsCheck(["embed", "counter"], KNOWN)
    assert not contents.reads("embed")
    assert not contents.reads("counter")
