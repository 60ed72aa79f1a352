"""Frames, cut anywhere; headers against `hpack`'s own encoder; windows."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.gateway.http2.frames import (
    LARGEST_WINDOW,
    LONGEST_FRAME,
    BrokenConnection,
    Flag,
    FrameReader,
    frame,
    frame_head,
    number_in,
    settings_in,
    unpadded,
)
from aoti_serve.gateway.http2.frames import (
    ErrorCode as Code,
)
from aoti_serve.gateway.http2.frames import (
    FrameType as Kind,
)
from aoti_serve.gateway.http2.headers import HeaderReader, Malformed, TooManyHeaders, block_of, head_of
from aoti_serve.gateway.http2.windows import ReceiveWindow, SendWindow

FRAMES = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(0, 255), st.integers(0, LARGEST_WINDOW), st.binary(max_size=40))
)
WORDS = st.text(st.sampled_from("abcdefgh-"), min_size=1, max_size=12)
PSEUDO = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/p")]


@given(FRAMES, st.lists(st.integers(0, 400)))
def test_frames_are_the_same_wherever_they_are_cut(sent: list[tuple[Kind, int, int, bytes]], cuts: list[int]) -> None:
    data, reader = b"".join(frame(*each) for each in sent), FrameReader()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert [found for begin, end in pairwise(places) for found in reader.feed(data[begin:end])] == sent


def test_a_frame_that_is_too_long_is_refused_by_its_head() -> None:
    assert list(FrameReader().feed(frame(Kind.DATA, 0, 1, bytes(LONGEST_FRAME))))
    with pytest.raises(BrokenConnection) as caught:
        list(FrameReader().feed(frame_head(LONGEST_FRAME + 1, Kind.DATA, 0, 1)))
    assert caught.value.code is Code.FRAME_SIZE_ERROR


def test_padding_is_taken_off() -> None:
    assert unpadded(0, b"\x01ab") == b"\x01ab"
    assert unpadded(Flag.PADDED, b"\x02ab\0\0") == b"ab"
    assert unpadded(Flag.PADDED, b"\0") == b""
    for wrong in (b"", b"\x01", b"\x03ab"):
        with pytest.raises(BrokenConnection):
            unpadded(Flag.PADDED, wrong)


@pytest.mark.parametrize("wrong", [b"", b"abc", b"abcde"])
def test_a_number_of_the_wrong_size_is_refused(wrong: bytes) -> None:
    with pytest.raises(BrokenConnection):
        number_in(wrong)


def test_settings_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(BrokenConnection):
        list(settings_in(bytes(7)))


@given(st.lists(st.lists(st.tuples(WORDS, WORDS), max_size=5), max_size=12), st.integers(0, 300))
def test_headers_are_what_was_sent_however_often_the_table_changes(
    requests: list[list[tuple[str, str]]], table: int
) -> None:
    """Every block is read twice as it would be by two clients' connections: one remembers, one never does."""
    encoder, reader = Encoder(), HeaderReader(2**15, 100)
    for number, fields in enumerate(requests * 2):
        if number == len(requests):
            encoder.header_table_size = table
        sent = [*PSEUDO, *((name.encode(), value.encode()) for name, value in fields)]
        head = reader.read(encoder.encode(sent))
        assert head == head_of(sent)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300))))
def test_a_block_of_ours_is_read_by_hpack(fields: list[tuple[bytes, bytes]]) -> None:
    assert list(Decoder(2**20).decode(block_of(fields), raw=True)) == fields


@pytest.mark.parametrize(
    "fields",
    [
        PSEUDO[:2],
        [*PSEUDO, (b":path", b"/q")],
        [*PSEUDO, (b":status", b"200")],
        [(b"a", b"b"), *PSEUDO],
        [*PSEUDO, (b"A", b"b")],
        [*PSEUDO, (b"", b"b")],
        [*PSEUDO, (b"a", b"b\r\nc")],
        [*PSEUDO, (b"connection", b"close")],
        [*PSEUDO, (b"transfer-encoding", b"chunked")],
    ],
)
def test_what_is_no_request_is_malformed(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Malformed):
        head_of(fields)


def test_of_several_headers_with_one_name_the_first_counts() -> None:
    assert head_of([*PSEUDO, (b"a", b"1"), (b"a", b"2")]).headers == {"a": "1"}


def test_headers_are_bounded_in_number_and_in_bytes() -> None:
    for fields in ([(b"a", b"b")] * 100, [(b"a", b"b" * 40_000)]):
        assert HeaderReader(2**15, 100).read(Encoder().encode([*PSEUDO, *fields])).too_large
        with pytest.raises(TooManyHeaders):
            HeaderReader(2**15, 100).read(Encoder().encode([*PSEUDO, *fields * 50]))
    with pytest.raises(BrokenConnection) as caught:
        HeaderReader(2**15, 100).read(b"\xff\xff\xff\xff\x0f")
    assert caught.value.code is Code.COMPRESSION_ERROR


def test_windows_close_and_open_again() -> None:
    receive = ReceiveWindow(100)
    receive.take(100)
    assert [receive.give(30), receive.give(30), receive.give(40)] == [0, 60, 0]
    with pytest.raises(BrokenConnection):
        receive.take(61)
    send = SendWindow(10)
    send.grow(-20)
    assert send.left == -10
    with pytest.raises(BrokenConnection):
        send.grow(LARGEST_WINDOW + 11)
