"""Packed varints as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import InvalidBody
from aoti_serve.protocol.grpc.payloads import signed_numbers
from aoti_serve.protocol.grpc.varints import BLOCK, count_varints, decoded_varints, joined_varints
from aoti_serve.protocol.grpc.written import varint

NUMBERS = st.lists(st.one_of(st.integers(0, 127), st.integers(0, 2**64 - 1), st.integers(0, 2**20)))


@given(NUMBERS)
def test_numbers_arrive_all_at_once_as_one_by_one(numbers: list[int]) -> None:
    packed = b"".join(map(varint, numbers))
    assert decoded_varints(packed, "uint64").tolist() == numbers
    assert count_varints(packed) == len(numbers)
    assert signed_numbers(packed) == np.array(numbers, np.uint64).view(np.int64).tolist()


def test_bits_beyond_the_64th_are_dropped_and_zeros_on_top_do_not_count() -> None:
    packed = b"\xff" * 9 + b"\x7f" + b"\x81\x80\x80\x00"
    assert decoded_varints(packed, "uint64").tolist() == [2**64 - 1, 1]


def test_a_varint_of_eleven_bytes_is_refused() -> None:
    with pytest.raises(InvalidBody, match="more than 10 bytes"):
        decoded_varints(b"\x01" + b"\xff" * 10 + b"\x00", "uint64")


@pytest.mark.parametrize("before", [BLOCK - 10, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_a_number_may_lie_across_two_blocks(before: int) -> None:
    numbers = [7] * before + [2**63, 300] * BLOCK
    assert decoded_varints(b"".join(map(varint, numbers)), "uint64").tolist() == numbers


@pytest.mark.parametrize("length", [11, BLOCK, 3 * BLOCK])
def test_a_varint_longer_than_ten_bytes_is_refused_wherever_it_lies(length: int) -> None:
    for before in (0, BLOCK - 5, BLOCK):
        with pytest.raises(InvalidBody, match="more than 10 bytes"):
            decoded_varints(b"\x01" * before + b"\xff" * (length - 1) + b"\x00", "int32")


@pytest.mark.parametrize(
    ("dtype", "numbers", "read"),
    [
        ("bool", [0, 1, 2, 2**32, 2**63], [False, True, True, True, True]),
        ("int32", [2**31, 2**32 + 5, -1], [-(2**31), 5, -1]),
        ("uint32", [2**32 + 5, -1], [5, 2**32 - 1]),
        ("int64", [-1, 2**63], [-1, -(2**63)]),
    ],
)
def test_bits_beyond_those_of_the_type_are_dropped(dtype: str, numbers: list[int], read: list[int]) -> None:
    assert decoded_varints(b"".join(map(varint, numbers)), dtype).tolist() == read


def test_each_piece_holds_whole_varints() -> None:
    assert joined_varints([memoryview(b"\x01"), memoryview(b"\x80\x01"), memoryview(b"")]) == b"\x01\x80\x01"
    with pytest.raises(InvalidBody, match="cut off"):
        joined_varints([memoryview(b"\x80"), memoryview(b"\x01")])
