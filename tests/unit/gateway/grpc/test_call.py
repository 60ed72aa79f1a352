"""Calls as no client of gRPC's own makes them, and how messages are cut, compressed and bounded."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from struct import pack

import grpc
import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import BodyTooLarge, InvalidBody, ReadingTooMuch
from aoti_serve.gateway.grpc.call import ENOUGH_MESSAGES, TIMEOUT_KEY
from aoti_serve.gateway.grpc.messages import MessageReader, written
from aoti_serve.gateway.grpc.methods import SERVICE
from aoti_serve.gateway.http2.frames import (
    LONGEST_FRAME,
    PREFACE,
    Flag,
    FrameReader,
    Setting,
    frame,
    settings,
    window_update,
)
from aoti_serve.gateway.http2.frames import FrameType as Kind
from aoti_serve.gateway.in_flight import SMALL, BodyLimits, CallBytes, ReadingBudget
from aoti_serve.gateway.listener.server import Listener
from aoti_serve.protocol.grpc.messages import encode_message
from tests.unit.gateway.grpc.test_server import (
    Echo,
    call,
    channel,
    config,
    echo,
    listener_of,
    plane,
    request,
)
from tests.unit.gateway.listener.wired import Clock
from tests.unit.gateway.plane import Plane

LIMIT = 2**17
FIXTURES = (channel, config, echo, plane)
INFER, READY, STREAM = (f"/{SERVICE}/{name}" for name in ("ModelInfer", "ServerReady", "ModelStreamInfer"))
OF_GRPC = {"content-type": "application/grpc", "te": "trailers"}
Squeezed = Mapping[str, bytes]


class Asker:
    """A client that writes its calls by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames, self._encoder, self._decoder = FrameReader(), Encoder(), Decoder()
        self._next = 1
        writer.write(PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 2**30}) + window_update(0, 2**30))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def begin(self, path: str, headers: Mapping[str, str] = OF_GRPC, method: str = "POST") -> int:
        number, self._next = self._next, self._next + 2
        fields = [(":method", method), (":scheme", "http"), (":path", path), *headers.items()]
        self._writer.write(frame(Kind.HEADERS, Flag.END_HEADERS, number, self._encoder.encode(fields)))
        return number

    def send(self, number: int, body: bytes, *, ends: bool = True) -> None:
        for at in range(0, len(body) or 1, LONGEST_FRAME):
            piece = body[at : at + LONGEST_FRAME]
            last = ends and at + LONGEST_FRAME >= len(body)
            self._writer.write(frame(Kind.DATA, Flag.END_STREAM if last else 0, number, piece))

    async def end_of(self, number: int) -> tuple[str, str]:
        """The status and text with which a call ends, or HTTP's status if it is no call."""
        heads: dict[bytes, bytes] = {}
        while data := await self._reader.read(2**16):
            for kind, flags, stream, payload in self._frames.feed(data):
                fields = dict(self._decoder.decode(payload, raw=True)) if kind == Kind.HEADERS else {}
                heads |= fields if stream == number else {}
                if kind == Kind.DATA and heads.get(b":status") != b"200":
                    heads[b"grpc-message"] = bytes(payload)
                if stream == number and flags & Flag.END_STREAM:
                    found = heads.get(b"grpc-status", heads.get(b":status", b"")), heads.get(b"grpc-message", b"")
                    return found[0].decode(), found[1].decode()
        raise EOFError

    async def next_of(self, number: int) -> tuple[int, bytes]:
        """The next frame of a call."""
        data = b""
        while True:
            for kind, _, stream, payload in self._frames.feed(data):
                if stream == number:
                    return kind, payload
            data = await self._reader.read(2**16)

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str] = OF_GRPC) -> tuple[str, str]:
        number = self.begin(path, headers)
        self.send(number, body)
        return await self.end_of(number)

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def listener(plane: Plane, config: GatewayConfig, clock: Clock) -> AsyncIterator[Listener]:
    listener = listener_of(plane, config, clock=clock)
    await listener.open()
    yield listener
    await listener.close(0)


@pytest.fixture
async def asker(listener: Listener) -> AsyncIterator[Asker]:
    asker = Asker(*await asyncio.open_connection(*listener.address))
    yield asker
    asker.close()


def status(code: grpc.StatusCode) -> str:
    return str(code.value[0])


OK, INVALID, TOO_MUCH = map(
    status, (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"", "0 messages instead of one", id="none"),
        pytest.param(b"\0\0\0", "ends within a message", id="half-prefix"),
        pytest.param(pack(">BI", 0, 9) + b"abc", "ends within a message", id="half-message"),
        pytest.param(written(b"") * 2, "2 messages instead of one", id="two"),
        pytest.param(pack(">BI", 2, 0), "begins with the byte 2", id="flag"),
        pytest.param(pack(">BI", 1, 3) + b"abc", "grpc-encoding", id="compressed-how"),
    ],
)  # fmt: skip
async def test_a_body_that_is_not_one_message_is_refused_in_words(asker: Asker, body: bytes, words: str) -> None:
    code, text = await asker.ask(READY, body)
    assert (code in (INVALID, status(grpc.StatusCode.UNIMPLEMENTED)), words in text) == (True, True), (code, text)
    assert await asker.ask(READY, written(b"")) == (OK, "")


async def test_what_is_not_grpc_is_an_unsupported_media_type(asker: Asker) -> None:
    code, text = await asker.ask(READY, b"", {"content-type": "application/json"})
    assert code == "415"
    assert "gRPC is spoken here: a POST with the Content-Type application/grpc" in text
    assert (await asker.end_of(asker.begin(READY, method="GET")))[0] == "415"


async def test_a_method_that_is_not_there_is_answered_with_those_that_are(asker: Asker) -> None:
    code, text = await asker.ask("/inference.GRPCInferenceService/ModelInferAsync", written(b""))
    assert code == status(grpc.StatusCode.UNIMPLEMENTED)
    assert "ModelInferAsync is not served here" in text
    assert "served are ModelStreamInfer, " in text


async def test_a_deadline_must_be_a_time(asker: Asker) -> None:
    for deadline, wanted in (("1S", OK), ("99999999H", OK), ("1", INVALID), ("1.5S", INVALID), ("123456789m", INVALID)):
        code, text = await asker.ask(INFER, written(request()), {**OF_GRPC, "grpc-timeout": deadline})
        assert code == wanted, text


async def test_the_time_in_which_a_request_is_read_is_the_requests(asker: Asker) -> None:
    """As over HTTP."""
    late = status(grpc.StatusCode.DEADLINE_EXCEEDED)
    for limit in ({TIMEOUT_KEY: "0.02"}, {"grpc-timeout": "20m"}):
        number = asker.begin(INFER, {**OF_GRPC, **limit})
        await passed(0.03)
        asker.send(number, written(request()))
        assert await asker.end_of(number) == (late, "model 'm': no answer within 0.02 s")


async def test_in_a_stream_that_is_the_time_of_each_request_by_itself(asker: Asker) -> None:
    number, message = asker.begin(STREAM, {**OF_GRPC, TIMEOUT_KEY: "0.02"}), written(request())
    await passed(0.03)
    asker.send(number, message + message[:9], ends=False)
    await passed(0.03)
    asker.send(number, message[9:])
    _, first, second = [(await asker.next_of(number))[1] for _ in range(3)]
    assert [b"no answer within 0.02 s" in answer for answer in (first, second)] == [False, True]


async def passed(seconds: float) -> None:
    """So much time passes for the server."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0)


@pytest.mark.parametrize("squeezed", [{"gzip": gzip.compress(request())}, {"deflate": zlib.compress(request())}])
async def test_compressed_messages_are_read(asker: Asker, squeezed: Squeezed) -> None:
    ((coding, content),) = squeezed.items()
    body = pack(">BI", 1, len(content)) + content
    assert await asker.ask(INFER, body, {**OF_GRPC, "grpc-encoding": coding}) == (OK, "")
    code, text = await asker.ask(INFER, pack(">BI", 1, 3) + b"abc", {**OF_GRPC, "grpc-encoding": coding})
    assert (code, "not " + coding in text) == (INVALID, True)


async def test_a_compressed_message_is_bounded_before_it_is_made(asker: Asker) -> None:
    content = gzip.compress(bytes(100 * 2**20))
    code, text = await asker.ask(INFER, pack(">BI", 1, len(content)) + content, {**OF_GRPC, "grpc-encoding": "gzip"})
    assert (code, "gateway.max_" in text) == (TOO_MUCH, True), text


async def test_a_message_is_counted_when_its_length_is_known(asker: Asker, listener: Listener, plane: Plane) -> None:
    """And given back when its client leaves."""
    number = asker.begin(INFER)
    asker.send(number, pack(">BI", 0, LIMIT) + bytes(10), ends=False)
    assert await asker.ask(READY, written(b"")) == (OK, "")
    assert plane.budget.held == LIMIT
    asker.close()
    await listener.close(20)  # when all have gone
    assert plane.budget.held == 0


async def test_a_message_that_may_not_be_read_is_refused_before_it_has_come(asker: Asker, plane: Plane) -> None:
    number = asker.begin(INFER)
    asker.send(number, pack(">BI", 0, 2**31), ends=False)
    code, text = await asker.end_of(number)
    assert (code, "gateway.max_body_bytes" in text) == (TOO_MUCH, True)
    plane.budget.held = plane.budget.limit
    number = asker.begin(INFER)
    asker.send(number, pack(">BI", 0, LIMIT), ends=False)
    code, text = await asker.end_of(number)
    assert (code, "gateway.max_reading_bytes" in text) == (TOO_MUCH, True)


async def test_a_message_that_comes_too_slowly_is_refused(
    asker: Asker, listener: Listener, clock: Clock, config: GatewayConfig
) -> None:
    number = asker.begin(INFER)
    asker.send(number, pack(">BI", 0, 100), ends=False)
    assert await asker.ask(READY, written(b"")) == (OK, "")
    for _ in range(int(config.body_timeout_s) + 2):
        clock.now += 1
        listener.sweep()
    code, text = await asker.end_of(number)
    assert (code, "gateway.body_timeout_s" in text) == (status(grpc.StatusCode.DEADLINE_EXCEEDED), True)


async def test_a_stream_may_rest_between_its_messages(
    asker: Asker, listener: Listener, clock: Clock, config: GatewayConfig
) -> None:
    number = asker.begin(STREAM)
    asker.send(number, written(request()), ends=False)
    for _ in range(int(config.body_timeout_s) + 2):
        clock.now += 1
        listener.sweep()
    assert await asker.ask(READY, written(b"")) == (OK, "")
    asker.send(number, written(request()))
    assert await asker.end_of(number) == (OK, "")


async def test_a_stream_that_ends_within_a_message_ends_in_words(asker: Asker) -> None:
    code, text = await asker.ask(STREAM, written(request()) + b"\0\0")
    assert (code, text) == (INVALID, "the call ends within a message")


async def test_of_a_stream_no_more_is_read_than_is_answered(asker: Asker, echo: Echo) -> None:
    """64 requests run, one waits for its turn, some are cut; the window closes behind them."""
    echo.goes_on.clear()
    one = written(request())
    number = asker.begin(STREAM)
    asker.send(number, one * (SMALL // len(one)), ends=False)
    for _ in range(64):
        await echo.arrived.get()
    assert await asker.ask(READY, written(b"")) == (OK, "")
    assert 64 <= 64 + echo.arrived.qsize() <= 66 + ENOUGH_MESSAGES
    echo.goes_on.set()
    asker.send(number, b"")
    assert await asker.end_of(number) == (OK, "")


async def test_calls_at_once_are_bounded(plane: Plane, config: GatewayConfig) -> None:
    listener = listener_of(plane, config.model_copy(update={"max_connections": 2}))
    await listener.open()
    asker = Asker(*await asyncio.open_connection(*listener.address))
    held = [asker.begin(INFER) for _ in range(2)]
    code, text = await asker.ask(READY, written(b""))
    assert (code, "2 calls under way (gateway.max_connections)" in text) == (TOO_MUCH, True)
    asker.send(held[0], written(request()))
    await asker.end_of(held[0])
    assert await asker.ask(READY, written(b"")) == (OK, "")
    asker.close()
    await listener.close(0)


async def test_too_much_metadata_is_refused_for_its_call_alone(asker: Asker) -> None:
    code, text = await asker.ask(READY, written(b""), OF_GRPC | {f"x-{number}": "y" for number in range(100)})
    assert (code, "100 headers (gateway.max_headers)" in text) == (TOO_MUCH, True)
    assert await asker.ask(READY, written(b"")) == (OK, "")


async def test_a_stream_ends_in_words_when_the_server_stops_and_its_requests_are_answered(
    asker: Asker, listener: Listener, echo: Echo
) -> None:
    echo.goes_on.clear()
    number = asker.begin(STREAM)
    asker.send(number, written(request()), ends=False)
    await echo.arrived.get()
    closing = asyncio.create_task(listener.close(30))
    echo.goes_on.set()
    code, text = await asker.end_of(number)
    assert (code, "being stopped" in text) == (status(grpc.StatusCode.UNAVAILABLE), True)
    asker.close()
    await closing


async def test_large_messages_go_both_ways(channel: grpc.aio.Channel) -> None:
    message = encode_message("ServerReadyRequest", {}) + b"\x7a\xff\xff\x1f" + bytes(2**19 - 1)  # an unknown field
    assert await call(channel, "ServerReady", message)


@given(st.lists(st.binary(max_size=50), max_size=20), st.lists(st.integers(0, 800)), st.integers(1, 3))
def test_messages_are_the_same_wherever_they_are_cut(sent: list[bytes], cuts: list[int], most: int) -> None:
    body = b"".join(map(written, sent))
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    reader, granted = MessageReader(BodyLimits(LIMIT, "s"), CallBytes(ReadingBudget(LIMIT))), 0
    found = []
    for begin, end in pairwise(places):
        found += [message.content for message in reader.feed(body[begin:end], most)]
        granted += reader.granted
    while more := list(reader.feed(b"", most)):
        found += [message.content for message in more]
    assert found == sent
    assert granted + reader.granted == len(body)
    assert not reader.is_within


def test_a_reader_holds_its_part_of_the_budget_until_it_is_closed() -> None:
    budget = ReadingBudget(LIMIT)
    reader = MessageReader(BodyLimits(LIMIT, "s"), CallBytes(budget))
    assert not list(reader.feed(pack(">BI", 0, LIMIT), 1))
    with pytest.raises(ReadingTooMuch):
        list(MessageReader(BodyLimits(LIMIT, "s"), CallBytes(budget)).feed(pack(">BI", 0, LIMIT), 1))
    with pytest.raises(BodyTooLarge):
        list(MessageReader(BodyLimits(LIMIT, "s"), CallBytes(budget)).feed(pack(">BI", 0, LIMIT + 1), 1))
    with pytest.raises(InvalidBody):
        list(MessageReader(BodyLimits(LIMIT, "s"), CallBytes(budget)).feed(pack(">BI", 9, 1), 1))
    reader.close()
    assert budget.held == 0
