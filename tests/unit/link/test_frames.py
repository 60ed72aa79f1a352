"""Frames and messages, without a socket: whatever the pieces in which bytes arrive, the same frames come out."""

from __future__ import annotations

import math
from asyncio import WriteTransport
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aoti_serve.errors import AssetsRefused, LinkBroken, ReplicaBehind, ReplicaFailed, StageFailed, UnknownInput
from aoti_serve.link.frames import FRAME_HEADER, MOST_BYTES, PART, Frame, Kind, header
from aoti_serve.link.incoming import Incoming
from aoti_serve.link.memory import MEMORY_ALIGNMENT
from aoti_serve.link.messages import (
    AnswerMessage,
    BatchMessage,
    answer_bytes,
    answer_of,
    batch_bytes,
    batch_of,
    failure_bytes,
    failure_of,
)
from aoti_serve.link.outgoing import ByteBuffer, Outgoing

DTYPES = ("<f4", "<f8", "<f2", "|u1", "|i1", "|b1", "<i8", "<i4", "<u2")
CALL = 7


class Wire(WriteTransport):
    """What a transport was told to write."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.writes: list[int] = []

    def write(self, data: Any) -> None:
        self.writelines([data])

    def writelines(self, list_of_data: Any) -> None:
        joined = b"".join(list_of_data)
        self.written += joined
        self.writes.append(len(joined))


def sent(*messages: tuple[Kind, int, list[ByteBuffer]]) -> bytes:
    wire = Wire()
    outgoing = Outgoing(wire)
    for kind, call, message in messages:
        outgoing.send(kind, call, message)
    return bytes(wire.written)


def received(stream: bytes, cuts: list[int] | None = None) -> list[Frame]:
    """The frames of a stream that arrives in pieces."""
    frames: list[Frame] = []
    incoming = Incoming(frames.append)
    ends = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts or [])})
    for start, stop in pairwise(ends):
        feed(incoming, stream[start:stop])
    return frames


def feed(incoming: Incoming, piece: bytes) -> None:
    while piece:
        buffer = incoming.buffer()
        size = min(len(buffer), len(piece))
        buffer[:size] = piece[:size]
        incoming.received(size)
        piece = piece[size:]


def arrays() -> st.SearchStrategy[list[NDArray[Any]]]:
    shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
    return st.lists(st.builds(array, st.sampled_from(DTYPES), shapes), max_size=4)


def array(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.arange(math.prod(shape), dtype=float).astype(dtype).reshape(shape)


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b) for a, b in zip(left, right, strict=True)
    )


@given(arrays(), st.integers(-1, 2**40), st.none() | st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_batch_arrives_as_it_was(tensors: Any, fence: int, timeout: float | None, rows: float) -> None:
    [frame] = received(sent((Kind.BATCH, CALL, batch_bytes(BatchMessage(tensors, fence, timeout, rows)))))
    batch = batch_of(frame.message)
    assert (batch.fence, batch.timeout, batch.rows) == (fence, timeout, rows)
    assert same(list(batch.arrays), tensors)


@given(arrays(), st.integers(0, 2**40), st.integers(0, 2**40))
def test_an_answer_arrives_as_it_was(tensors: Any, version: int, epoch: int) -> None:
    [frame] = received(sent((Kind.ANSWER, CALL, answer_bytes(AnswerMessage(version, epoch, tensors)))))
    answer = answer_of(frame.message)
    assert (answer.version, answer.epoch) == (version, epoch)
    assert same(answer.outputs, tensors)


@given(st.lists(st.integers(1, 3 * PART), min_size=1, max_size=4), st.lists(st.integers(0, 2**40), max_size=12))
def test_pieces_make_no_difference(sizes: list[int], cuts: list[int]) -> None:
    messages = [(Kind.ANSWER, call, [bytes([call % 251]) * size]) for call, size in enumerate(sizes)]
    frames = received(sent(*messages), cuts)  # type: ignore[arg-type]
    assert sorted((frame.call, bytes(frame.message)) for frame in frames) == [
        (call, bytes(message[0])) for _, call, message in messages
    ]


def test_tensors_arrive_aligned_and_can_be_written_to() -> None:
    tensors: list[NDArray[Any]] = [np.ones(3, np.float32), np.ones((2, 2), np.int64)]
    [frame] = received(sent((Kind.BATCH, CALL, batch_bytes(BatchMessage(tensors, 0)))))
    for tensor in batch_of(frame.message).arrays:
        assert tensor.ctypes.data % MEMORY_ALIGNMENT == 0
        assert tensor.flags.writeable


def test_arrays_that_are_not_contiguous_are_sent_in_order() -> None:
    turned = np.arange(12, dtype=np.float32).reshape(3, 4).T
    [frame] = received(sent((Kind.BATCH, CALL, batch_bytes(BatchMessage([turned], 0)))))
    assert np.array_equal(batch_of(frame.message).arrays[0], turned)


def test_a_small_message_overtakes_a_large_one() -> None:
    wire = Wire()
    outgoing = Outgoing(wire)
    outgoing.pause()
    outgoing.send(Kind.BATCH, 1, [bytes(4 * PART)])
    outgoing.send(Kind.BATCH, 2, [b"small"])
    outgoing.resume()
    assert [frame.call for frame in received(bytes(wire.written))] == [2, 1]


def test_large_messages_take_turns() -> None:
    wire = Wire()
    outgoing = Outgoing(wire)
    outgoing.pause()
    outgoing.send(Kind.BATCH, 1, [bytes(8 * PART)])
    outgoing.send(Kind.BATCH, 2, [bytes(2 * PART)])
    outgoing.resume()
    assert [frame.call for frame in received(bytes(wire.written))] == [2, 1]
    assert max(wire.writes) <= PART + FRAME_HEADER.size


def test_nothing_large_is_written_while_the_transport_is_full() -> None:
    wire = Wire()
    outgoing = Outgoing(wire)
    outgoing.pause()
    outgoing.send(Kind.BATCH, 1, [bytes(4 * PART)])
    assert not wire.written


def test_a_batch_that_is_cancelled_on_its_way_leaves_nothing_behind() -> None:
    wire = PausingWire(parts=2)
    wire.outgoing.send(Kind.BATCH, 1, [bytes(4 * PART)])
    wire.outgoing.cancel(1)
    wire.outgoing.signal(Kind.CANCEL, 1)
    wire.outgoing.send(Kind.BATCH, 2, [b"next"])
    frames: list[Frame] = []

    def deliver(frame: Frame) -> None:
        frames.append(frame)
        incoming.drop(frame.call)

    incoming = Incoming(deliver)
    feed(incoming, bytes(wire.written))
    assert [(frame.kind, frame.call) for frame in frames] == [(Kind.CANCEL, 1), (Kind.BATCH, 2)]


class PausingWire(Wire):
    """A transport that is full after so many parts."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.outgoing = Outgoing(self)
        self._parts = parts

    def writelines(self, list_of_data: Any) -> None:
        super().writelines(list_of_data)
        self._parts -= 1
        if self._parts == 0:
            self.outgoing.pause()


def broken() -> Iterator[Any]:
    yield pytest.param(FRAME_HEADER.pack(0, 99, 0, 1, 0), id="an unknown kind")
    yield pytest.param(FRAME_HEADER.pack(5, Kind.BEAT, 0, 1, 0), id="a signal with a message")
    yield pytest.param(header(Kind.MORE, 1, length=5), id="more of nothing")
    yield pytest.param(header(Kind.BATCH, 1, length=9, total=5), id="a part larger than the whole")
    yield pytest.param(header(Kind.BATCH, 1, length=PART + 1, total=2 * PART), id="a part that is too large")
    yield pytest.param(header(Kind.BATCH, 1, length=9, total=MOST_BYTES + 1), id="a message that is too large")
    yield pytest.param(header(Kind.BATCH, 1, length=0, total=9), id="a part of nothing")
    begun = header(Kind.BATCH, 1, length=1, total=9) + b"x"
    yield pytest.param(begun * 2, id="a call that begins twice")


@pytest.mark.parametrize("stream", list(broken()))
def test_what_no_peer_would_send_breaks_the_link(stream: bytes) -> None:
    with pytest.raises(LinkBroken):
        received(stream)


@given(st.binary(max_size=300))
def test_whatever_a_message_holds_it_is_read_or_refused(content: bytes) -> None:
    for read in (batch_of, answer_of):
        with suppress(LinkBroken):
            read(memoryview(bytearray(content)))


def test_errors_of_ours_arrive_as_themselves() -> None:
    error = ReplicaBehind(model="m", epoch=1, fence=2)
    again = failure_of(memoryview(failure_bytes(error)))
    assert type(again) is ReplicaBehind
    assert str(again) == str(error)


def test_an_unknown_error_is_not_renamed_to_a_known_one() -> None:
    again = failure_of(memoryview(failure_bytes(KeyError("x"))))
    assert type(again) is ReplicaFailed
    assert again.facts == {"raised": "KeyError", "detail": "'x'"}
    assert "'x'" not in str(again), "its words are for the log"


def test_facts_that_json_does_not_know_travel_as_words() -> None:
    error = StageFailed(replica="r", version=1, cause=ValueError("a cause"))
    assert "a cause" in str(failure_of(memoryview(failure_bytes(error))))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(
            AssetsRefused(model="m", version=2, raised="ValueError", detail="caf\udce9"),
            "(ValueError): caf?",
            id="ours",
        ),
        pytest.param(UnknownInput(name="x", known=["\udce9"]), "available: ?", id="in-a-list"),
        pytest.param(ValueError("caf\udce9"), "ValueError", id="another"),
    ],
)
def test_what_no_utf_8_has_in_a_failure_is_replaced(error: Exception, said: str) -> None:
    assert said in str(failure_of(memoryview(failure_bytes(error))))
