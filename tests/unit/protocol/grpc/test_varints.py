"""Packed varints as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import InvalidBody
from aoti_serve.protocol.grpc.payloads import signed_numbers
from aoti_serve.protocol.grpc.varints import count_varints, decoded_varints, joined_varints
from aoti_serve.protocol.grpc.written import varint

NUMBERS = st.lists(st.one_of(st.integers(0, 127), st.integers(0, 2**64 - 1), st.integers(0, 2**20)))


@given(NUMBERS)
def test_numbers_arrive_all_at_once_as_one_by_one(numbers: list[int]) -> None:
    packed = b"".join(map(varint, numbers))
    assert decoded_varints(packed).tolist() == numbers
    assert count_varints(packed) == len(numbers)
    assert signed_numbers(packed) == np.array(numbers, np.uint64).view(np.int64).tolist()


def test_bits_beyond_the_64th_are_dropped_and_zeros_on_top_do_not_count() -> None:
    packed = b"\xff" * 9 + b"\x7f" + b"\x81\x80\x80\x00"
    assert decoded_varints(packed).tolist() == [2**64 - 1, 1]


def test_a_varint_of_eleven_bytes_is_refused() -> None:
    with pytest.raises(InvalidBody, match="more than 10 bytes"):
        decoded_varints(b"\x01" + b"\xff" * 10 + b"\x00")


def test_each_piece_holds_whole_varints() -> None:
    assert joined_varints([memoryview(b"\x01"), memoryview(b"\x80\x01"), memoryview(b"")]) == b"\x01\x80\x01"
    with pytest.raises(InvalidBody, match="cut off"):
        joined_varints([memoryview(b"\x80"), memoryview(b"\x01")])
